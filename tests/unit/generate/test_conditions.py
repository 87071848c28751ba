"""Conditions: what is known, what is dropped, what is refused."""

import torch

from matmill.generate.conditions import CRYSTAL_SYSTEMS, SCALARS, Conditions, crystal_system_of


def test_crystal_systems_cover_all_groups_once():
    systems = crystal_system_of(torch.arange(0, 231))
    assert systems[0] == 0
    for i, (low, high) in enumerate(CRYSTAL_SYSTEMS.values(), start=1):
        assert (systems[low : high + 1] == i).all()
    assert (systems[1:] > 0).all()


def test_known_values_and_elements_are_taken_from_the_crystals(crystals, space_groups):
    conditions = Conditions.of(crystals, space_groups)
    gap = conditions.scalars[:, list(SCALARS).index("band_gap_ev")]
    torch.testing.assert_close(gap, crystals.properties["band_gap_ev"].float())
    assert conditions.elements[4].nonzero().flatten().tolist() == [8, 22, 38]
    assert torch.isnan(conditions.scalars[:, list(SCALARS).index("bulk_modulus_vrh_gpa")]).all()


def test_dropping_hides_but_never_invents(crystals, space_groups):
    full = Conditions.of(crystals.select(torch.zeros(3000).long()), space_groups[:1].repeat(3000))
    kept = full.dropped(torch.Generator().manual_seed(0))
    known = torch.isfinite(kept.scalars)
    assert torch.equal(kept.scalars[known], full.scalars[known])
    asked = kept.elements.sum(1) > 0
    assert (kept.elements[asked] >= full.elements[asked]).all()
    assert torch.equal(kept.elements[kept.is_exact], full.elements[kept.is_exact])
    assert 0.3 < known[:, 0].float().mean() < 0.4  # 0.7 of the crystals, 1/2 of the scalars
    assert set(kept.space_group.tolist()) == {0, 225}
