"""Protocols: ids follow the switches, and presets do what the originals do."""

import json

import pytest
import torch
from crystals_for_tests import prototypes

from matmill.crystals.batch import CrystalBatch, concatenate
from matmill.errors import InputError, UnknownNameError
from matmill.verify import presets
from matmill.verify.displacement import rmsd_as_stored, rmsd_of_matcher, unwrapped
from matmill.verify.metrics import relaxation_rmsd, wasserstein
from matmill.verify.protocols import Basis, Protocol, differences, versions
from matmill.verify.samples import as_samples
from matmill.verify.scorecard import sameness
from matmill.verify.scorecard.subject import Subject
from matmill.verify.scorecard.symmetry import group_number_score

NAMES = ("matmill-1", "cdvae", "diffcsp-csp", "mattergen", "lemat-genbench", "matbench-genmetrics")


def cube(a: float, coords: list[list[float]], numbers: list[int]) -> CrystalBatch:
    return CrystalBatch.from_lists([[[a, 0, 0], [0, a, 0], [0, 0, a]]], [coords], [numbers])


def subject(batch: CrystalBatch, protocol: str) -> Subject:
    return Subject(samples=as_samples(batch), protocol=presets.find(protocol))


def changed_everywhere(values: dict, place: tuple[str, ...] = ()) -> list[dict]:
    """Return copies of nested values, each with one leaf changed."""
    found = []
    for key, value in values.items():
        if isinstance(value, dict):
            inner = changed_everywhere(value, (*place, key))
            found += [{**values, key: change} for change in inner]
        elif isinstance(value, bool):
            found.append({**values, key: not value})
        elif isinstance(value, int | float):
            found.append({**values, key: value + 1})
    return found


def test_the_id_changes_with_every_switch_and_with_nothing_else():
    protocol = presets.find("matmill-1")
    assert protocol.id == Protocol.model_validate(protocol.model_dump()).id
    assert protocol.id == Protocol.model_validate(json.loads(protocol.model_dump_json())).id
    changed = changed_everywhere(protocol.model_dump())
    assert len(changed) > 20
    ids = {Protocol.model_validate(values).id for values in changed}
    assert protocol.id not in ids
    assert len(ids) == len(changed)
    assert len({presets.find(name).id for name in NAMES}) == len(NAMES)
    with pytest.raises(ValueError, match="frozen"):
        protocol.name = "other"  # pyright: ignore[reportAttributeAccessIssue]


def test_the_basis_says_what_differs():
    protocol = presets.find("matmill-1")
    one = Basis(protocol=protocol, reference="aa", versions=versions())
    two = Basis(protocol=presets.find("cdvae"), reference="bb", versions=versions())
    assert one.id != two.id != Basis(protocol=protocol, versions=versions()).id
    found = differences(one, two)
    assert "geometry.self_images: True / False" in found
    assert "reference: aa / bb" in found
    assert differences(one, one) == []
    assert dict(versions())["moyopy"]


def test_protocols_that_cannot_be_honest_are_refused_by_name():
    for name in presets.REFUSED:
        with pytest.raises(InputError, match="not offered"):
            presets.find(name)
    with pytest.raises(UnknownNameError, match="Did you mean 'cdvae'"):
        presets.find("cdvea")
    assert all(presets.PRESETS[name].departures for name in NAMES if name != "matmill-1")


@pytest.mark.parametrize(
    ("distance", "is_valid"), [(0.499, False), (0.5000001, True), (0.501, True)]
)
def test_two_atoms_of_hydrogen(distance, is_valid):
    """T-5, two atoms."""
    batch = cube(6.0, [[0, 0, 0], [distance / 6.0, 0, 0]], [1, 1])
    for name in ("matmill-1", "cdvae", "mattergen"):
        assert subject(batch, name).is_sound.tolist() == [is_valid]


def test_the_own_images_of_an_atom():
    """T-5, one atom: valid in published codes, invalid here."""
    small, larger = cube(0.45, [[0, 0, 0]], [1]), cube(0.47, [[0, 0, 0]], [1])
    assert subject(small, "cdvae").is_sound.tolist() == [False]  # 0.091 Å³
    assert subject(larger, "cdvae").is_sound.tolist() == [True]
    assert subject(larger, "matmill-1").is_sound.tolist() == [False]


def test_distances_by_radii():
    """LeMat-GenBench: 0.5 × (0.7 + 1.8 + 1.0) Å for sodium and chlorine."""
    for distance, is_valid in ((1.74, False), (1.76, True)):
        batch = cube(9.0, [[0, 0, 0], [distance / 9.0, 0, 0]], [11, 17])
        assert subject(batch, "lemat-genbench").is_sound.tolist() == [is_valid]
    wide = cube(120.0, [[0, 0, 0], [0.02, 0, 0]], [11, 17])  # edges above 100 Å
    assert subject(wide, "lemat-genbench").is_sound.tolist() == [False]
    assert subject(wide, "cdvae").is_sound.tolist() == [True]


def test_compositions_by_table_and_limit():
    iron_oxide = cube(8.0, [[0, 0, 0.13 * k] for k in range(7)], [26] * 3 + [8] * 4)
    alloy = cube(4.0, [[0, 0, 0], [0.5, 0.5, 0.5]], [39, 57])
    noble = cube(6.0, [[0, 0, 0], [0.5, 0.5, 0.5]], [2, 10])
    for name in ("matmill-1", "cdvae"):
        made = subject(concatenate([iron_oxide, alloy, noble]), name)
        assert made.kinds == ["invalid", "metals", "invalid"]
    rule = presets.find("diffcsp-csp").composition
    assert rule.combination_limit == 10_000_000
    tight = presets.find("cdvae").model_copy(
        update={"composition": rule.model_copy(update={"combination_limit": 1})}
    )
    oxide = prototypes().select([6])
    assert Subject(samples=as_samples(oxide), protocol=tight).kinds == ["invalid"]
    no_alloys = presets.find("cdvae").model_copy(
        update={"composition": rule.model_copy(update={"alloys": False})}
    )
    assert Subject(samples=as_samples(alloy), protocol=no_alloys).kinds == ["invalid"]


def test_a_missing_electronegativity_passes_or_fails():
    """Promethium has none in SMACT: its oxide is neutral, but cannot be tested."""
    from matmill.verify.charges import smact_valid

    oxide = cube(8.0, [[0, 0, 0.15 * k] for k in range(5)], [61] * 2 + [8] * 3)
    assert smact_valid(oxide, "smact14").tolist() == [False]
    assert smact_valid(oxide, "smact14", missing_passes=True).tolist() == [True]


def test_uniqueness_first_wins_and_by_pairs():
    """T-18: A, a supercell of A, and B."""
    copper = prototypes().select([3]).with_ids(())
    double = CrystalBatch.from_lists(
        [torch.diag(torch.tensor([7.22, 3.61, 3.61])).tolist()],
        [[[(x + shift) / 2, y, z] for shift in (0, 1) for x, y, z in copper.frac_coords.tolist()]],
        [[29] * 8],
    )
    batch = concatenate([copper, double, prototypes().select([4]).with_ids(())])
    made = subject(batch, "matmill-1")
    first, failed = sameness.firsts(batch, [0, 1, 2], made.protocol.matching.tolerance)
    assert [row == first[row] for row in range(3)] == [True, False, True]
    assert failed == {}
    value, _ = sameness.pair_density(batch, [0, 1, 2], made.protocol.matching.tolerance)
    assert value == pytest.approx(2 / 3)
    copies = concatenate([copper] * 5)
    first, _ = sameness.firsts(copies, range(5), made.protocol.matching.tolerance)
    assert len(set(first.values())) == 1
    found, _ = sameness.in_set(batch, [0, 1, 2], copper, made.protocol.matching.tolerance)
    assert found == {0: 0, 1: 0, 2: None}


def test_wasserstein_of_small_samples():
    """T-21."""
    for a, b, expected in (
        ([1, 2, 3], [2, 3, 4], 1.0),
        ([2, 2, 2, 3], [3, 3, 3, 3], 0.75),
        ([0, 1], [0, 1, 1, 1], 0.25),
    ):
        found = wasserstein(torch.tensor(a).double(), torch.tensor(b).double())
        assert found == pytest.approx(expected)


def test_an_atom_that_is_stored_across_a_face():
    """T-23: nothing moved, but one of two atoms is stored a cell apart."""
    a = 4.0
    numbers, n_atoms = torch.tensor([55, 17]), torch.tensor([2])
    lattice = torch.eye(3, dtype=torch.float64)[None] * a
    stored = torch.tensor([[0.999, 0.0, 0.0], [0.5, 0.5, 0.5]], dtype=torch.float64)
    shifted = stored - torch.tensor([[1.0, 0.0, 0.0], [0.0, 0.0, 0.0]], dtype=torch.float64)
    before, after = (
        CrystalBatch(lattice=lattice, frac_coords=f, atomic_numbers=numbers, n_atoms=n_atoms)
        for f in (stored, shifted)
    )
    assert float(rmsd_as_stored(before, after)) == pytest.approx(a / 2**0.5)
    assert float(rmsd_as_stored(before, unwrapped(before, after))) == pytest.approx(0.0, abs=1e-12)
    assert float(relaxation_rmsd(before, after)) == pytest.approx(0.0, abs=1e-12)


def test_the_matcher_under_reports_small_moves():
    """One sodium of eight atoms moved by 0.1 Å: pymatgen averages it over the primitive cell."""
    salt = prototypes().select([0])
    moved = salt.frac_coords.clone()
    moved[0, 0] += 0.1 / 5.64
    after = CrystalBatch(
        lattice=salt.lattice,
        frac_coords=moved,
        atomic_numbers=salt.atomic_numbers,
        n_atoms=salt.n_atoms,
    )
    assert float(relaxation_rmsd(salt, after)) == pytest.approx((0.01 / 8 * 7 / 8) ** 0.5, rel=1e-3)
    assert rmsd_of_matcher(salt, after, 0) == pytest.approx(0.0125, rel=0.02)
    other = prototypes().select([3])
    spacing = float((other.volume[0] / 4) ** (1 / 3))
    assert rmsd_of_matcher(other, _far(other), 0) == pytest.approx(0.5 * spacing, rel=0.2)


def test_the_score_by_group_numbers():
    """T-25: the set itself scores 1, a set of P1 scores 0."""
    groups = torch.tensor([225, 194, 62, 14, 225])
    assert group_number_score(groups, groups) == pytest.approx(1.0)
    assert group_number_score(groups, torch.ones(7)) == pytest.approx(0.0)


def _far(batch: CrystalBatch) -> CrystalBatch:
    """Return a crystal that nothing maps on: one edge much longer."""
    stretch = torch.diag(torch.tensor([2.5, 1.0, 0.5], dtype=torch.float64))
    return CrystalBatch(
        lattice=batch.lattice @ stretch,
        frac_coords=batch.frac_coords,
        atomic_numbers=batch.atomic_numbers,
        n_atoms=batch.n_atoms,
    )
