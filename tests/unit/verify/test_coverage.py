"""Coverage fingerprints against hand counts, and coverage against its definition."""

import numpy as np
import pytest
import torch
from crystals_for_tests import prototypes

from matmill.crystals.batch import CrystalBatch, concatenate
from matmill.crystals.magpie import magpie_scaler
from matmill.verify import coverage as cov

pytestmark = pytest.mark.filterwarnings("ignore")


def test_sites_of_known_coordination():
    batch = prototypes().select([0, 1, 3, 8])
    prints = cov.structure_fingerprints(batch)
    assert prints.shape == (4, cov.N_STRUCTURE) == (4, 61)
    names = [f"{name} {n}" for n in range(1, 25) for name in ("weight", *cov._MOTIFS.get(n, ()))]
    assert len(names) == 61
    by_id = {
        i: dict(zip(names, row.tolist(), strict=True))
        for i, row in zip(batch.ids, prints, strict=True)
    }
    assert by_id["NaCl"]["weight 6"] > 0.9
    assert by_id["NaCl"]["octahedral 6"] > 0.9
    assert by_id["CsCl"]["body-centered cubic 8"] > 0.8
    assert by_id["Si"]["tetrahedral 4"] > 0.9
    assert by_id["Cu"]["cuboctahedral 12"] > 0.9
    # The weights of one site add up to 1.
    weights = prints[:, [i for i, name in enumerate(names) if name.startswith("weight")]]
    torch.testing.assert_close(weights.sum(1), torch.ones(4, dtype=torch.float64))


def test_fingerprints_do_not_depend_on_the_cell():
    salt = prototypes().select([0])
    primitive = CrystalBatch.from_lists(
        [np.array([[0, 1, 1], [1, 0, 1], [1, 1, 0]]) * 2.82],
        [[[0, 0, 0], [0.5, 0.5, 0.5]]],
        [[11, 17]],
    )
    for of in (cov.structure_fingerprints, cov.composition_fingerprints):
        torch.testing.assert_close(of(salt), of(primitive), atol=1e-6, rtol=1e-6)


def test_orbits_replace_no_information():
    """One atom of each orbit gives the mean over all atoms."""
    from matmill.crystals.convert import to_structure

    batch = prototypes().select([6])
    every = []
    for i in range(len(batch)):
        structure = to_structure(batch, i)
        every.append(np.mean([cov._site(structure, k) for k in range(len(structure))], axis=0))
    torch.testing.assert_close(
        cov.structure_fingerprints(batch), torch.tensor(np.array(every)), atol=1e-6, rtol=1e-6
    )


def test_every_site_and_one_of_each_orbit_agree_on_symmetric_crystals():
    batch = prototypes()
    every = cov.structure_fingerprints(batch.select([0, 5, 6]), every_site=True)
    torch.testing.assert_close(
        every, cov.structure_fingerprints(batch.select([0, 5, 6])), atol=1e-6, rtol=0.0
    )


def test_every_site_is_looked_at_in_crystals_that_are_not_valid_too():
    wide = CrystalBatch.from_lists([14.0 * np.eye(3)], [[[0, 0, 0], [0.2, 0, 0]]], [[11, 17]])
    crowded = CrystalBatch.from_lists([0.8 * np.eye(3)], [[[0, 0, 0], [0.5, 0.5, 0.5]]], [[11, 17]])
    batch = concatenate([wide, crowded])
    assert bool(cov.structure_fingerprints(batch).isnan().all())
    every = cov.structure_fingerprints(batch, every_site=True)
    assert every.isnan().all(1).tolist() == [False, True]  # two atoms in 0.5 Å³ are too many


def test_an_element_without_properties_is_near_nothing():
    batch = prototypes().select([3])
    heavy = CrystalBatch.from_lists([4.0 * np.eye(3)], [[[0, 0, 0]]], [[104]])
    prints = cov.composition_fingerprints(concatenate([batch, heavy]))
    assert cov.standardised(prints).isnan().all(1).tolist() == [False, True]
    neon = CrystalBatch.from_lists([4.0 * np.eye(3)], [[[0, 0, 0]]], [[10]])
    found = cov.composition_fingerprints(neon)
    assert int(found.isnan().sum()) == 6  # no electronegativity
    assert not bool(cov.standardised(found).isnan().any())


def test_magpie_of_a_hand_count():
    rutile = prototypes().select([6])
    found = cov.composition_fingerprints(rutile).reshape(22, 6)
    low, high, width, middle, deviation, mode = found[0].tolist()  # atomic numbers 22 and 8
    assert (low, high, width, mode) == (8, 22, 14, 8)
    assert middle == pytest.approx((22 + 2 * 8) / 3)
    assert deviation == pytest.approx((28 / 3 + 2 * 14 / 3) / 3)
    # Oxygen has 4 p electrons of 6, titanium 2 d electrons of 10 and no p electrons.
    unfilled_p = found[14].tolist()
    assert unfilled_p[:2] == [0, 2]


def test_coverage_by_its_definition():
    rng = torch.Generator().manual_seed(0)
    a, b = (torch.rand(30, 61, generator=rng).double() for _ in range(2))
    x, y = (3 * torch.randn(n, 132, generator=rng).double() for n in (30, 30))
    middle, width = magpie_scaler()
    x, y = (values * width + middle for values in (x, y))
    x[0, 3] = torch.nan  # unknown of an element: the mean, 0 once standardised
    s = np.linalg.norm(a.numpy()[:, None] - b.numpy(), axis=-1)
    scaled = [np.nan_to_num(((v - middle) / width).numpy(), nan=0.0) for v in (x, y)]
    c = np.linalg.norm(scaled[0][:, None] - scaled[1], axis=-1)
    cutoffs = (float(np.median(s.min(0))), float(np.quantile(c.min(0), 0.7)))
    found = cov.coverage((a, x), (b, y), cutoffs=cutoffs)
    recall = (s.min(0) <= cutoffs[0]) & (c.min(0) <= cutoffs[1])
    precision = (s.min(1) <= cutoffs[0]) & (c.min(1) <= cutoffs[1])
    assert 0 < recall.sum() < 30
    assert [m.numerator for m in found[:2]] == [recall.sum(), precision.sum()]
    expected = [s.min(0), s.min(1), c.min(0), c.min(1)]
    assert [m.value for m in found[2:]] == pytest.approx([values.mean() for values in expected])


def test_a_set_covers_itself_and_failures_stay_in_the_denominator():
    batch = prototypes().select([1, 3, 8])
    prints = cov.structure_fingerprints(batch), cov.composition_fingerprints(batch)
    whole = {m.name: m.value for m in cov.coverage(prints, prints)}
    assert whole["COV-R (0.4/10)"] == whole["COV-P (0.4/10)"] == 1.0
    broken = prints[0].clone()
    broken[0] = torch.nan
    part = cov.coverage((broken, prints[1]), prints)
    assert (part[1].numerator, part[1].denominator) == (2, 3)
    # Overlapping atoms get no fingerprint and stop nothing.
    thin = CrystalBatch.from_lists(
        [np.diag([40.0, 1e-4, 1e-4])], [[[0, 0, 0], [0, 0, 0]]], [[11, 17]]
    )
    seen: list[int] = []
    found = cov.structure_fingerprints(
        concatenate([thin, batch.select([0])]), on_crystal=seen.append
    )
    assert bool(found[0].isnan().all())
    assert not bool(found[1].isnan().any())
    assert seen == [0, 1]


def test_no_neighbours_are_sought_along_a_needle():
    # The search would take 14 s in one call that no timer ends, and find nothing of use.
    n = 11
    place = torch.arange(n) / n + 0.01 * torch.rand(n, generator=torch.Generator().manual_seed(0))
    needle = CrystalBatch(
        lattice=torch.diag(torch.tensor([2.5, 2.5, 195.0], dtype=torch.float64))[None],
        frac_coords=torch.stack([torch.zeros(n), torch.zeros(n), place], dim=1).double(),
        atomic_numbers=torch.arange(20, 20 + n),
        n_atoms=torch.tensor([n]),
    )
    for every_site in (False, True):
        assert bool(cov.structure_fingerprints(needle, every_site=every_site).isnan().all())
