"""Indices of known crystals: exact novelty, files, additions and crystals without fingerprints."""

import numpy as np
import pytest
import torch
from crystals_for_tests import perturbed, prototypes

from matmill.crystals.batch import CrystalBatch, concatenate
from matmill.crystals.convert import from_structures, to_structure
from matmill.errors import DataError, InputError, UnknownNameError
from matmill.verify.distances import pairwise
from matmill.verify.known_prints import KINDS, KnownPrints, names_of


@pytest.fixture(scope="module")
def many():
    """Two hundred crystals: prototypes, distorted, with other elements in them."""
    rng = torch.Generator().manual_seed(5)
    parts = []
    for i in range(22):
        moved = perturbed(prototypes(), step=0.15, strain=0.05, rng=rng)
        other = {z: int(torch.randint(3, 90, (1,), generator=rng)) for z in range(1, 100)}
        numbers = moved.atomic_numbers.tolist()
        if i % 2:
            numbers = [other[z] for z in numbers]
        parts.append(
            CrystalBatch(
                lattice=moved.lattice,
                frac_coords=moved.frac_coords,
                atomic_numbers=torch.tensor(numbers),
                n_atoms=moved.n_atoms,
                ids=tuple(f"{name}-{i}" for name in moved.ids),
            )
        )
    return concatenate(parts)


@pytest.fixture(scope="module")
def known(many):
    return KnownPrints.build(many, name="distorted", k=30)


@pytest.mark.parametrize("kind", KINDS)
def test_novelty_is_the_smallest_distance_of_all(many, known, kind):
    rng = torch.Generator().manual_seed(9)
    new = perturbed(prototypes(), step=0.3, strain=0.1, rng=rng)
    found = known.novelty(new, kind)
    expected = pairwise(new, many, kind=kind, scaled=True, k=30).amin(1)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0.0)
    assert float(found.min()) >= 0.0
    assert float(found.max()) > 0.0 or kind == "elmd"


@pytest.mark.parametrize("kind", KINDS)
def test_a_known_crystal_is_not_new_in_any_cell(many, known, kind):
    chosen = many.select([0, 17, 100])
    larger = from_structures([to_structure(chosen, i) * (1, 2, 1) for i in range(3)])
    assert float(known.novelty(concatenate([chosen, larger]), kind).max()) < 1e-5


def test_the_nearest_are_in_order(many, known):
    distance, rows = known.query(many.select([3, 50]), 4)
    assert [names_of(known, row)[0] for row in rows.tolist()] == [many.ids[3], many.ids[50]]
    assert float(distance[:, 0].max()) < 1e-5
    assert bool((distance.diff(dim=1) >= 0).all())
    expected = pairwise(many.select([3, 50]), many, kind="amd", k=30).sort(1).values[:, :4]
    torch.testing.assert_close(distance, expected, atol=1e-5, rtol=0.0)


def test_files_give_back_what_they_got(many, known, tmp_path):
    path = tmp_path / "known.safetensors"
    known.save(path)
    back = KnownPrints.load(path)
    assert (back.name, back.ids) == ("distorted", many.ids)
    assert torch.equal(back.amd, known.amd)
    new = prototypes()
    for kind in KINDS:
        torch.testing.assert_close(back.novelty(new, kind), known.novelty(new, kind))


def test_additions_make_the_same_index(many, known):
    first = KnownPrints.build(many.select(torch.arange(120)), name="distorted", k=30)
    grown = first.extended(many.select(torch.arange(120, len(many))))
    assert grown.ids == known.ids
    assert torch.equal(grown.amd, known.amd)
    assert torch.equal(grown.formulas[grown.formula], known.formulas[known.formula])
    assert len(grown.formulas) == len(known.formulas) < len(known)


def test_crystals_without_fingerprints():
    broken = CrystalBatch.from_lists([np.full((3, 3), np.nan)], [[[0, 0, 0]]], [[11]], ids=["x"])
    batch = concatenate([broken, prototypes()])
    known = KnownPrints.build(batch, name="some", k=10)
    assert known.ids == prototypes().ids
    for kind in KINDS:
        found = known.novelty(batch, kind)
        assert torch.isnan(found).tolist() == [True] + [False] * 9
    distance, rows = known.query(batch, 12)
    assert bool(torch.isnan(distance[0]).all())
    assert rows[0].tolist() == [-1] * 12
    assert bool(torch.isinf(distance[1:, 9:]).all())


def test_when_nothing_is_known_everything_is_new():
    empty = KnownPrints.build(CrystalBatch.empty(), name="nothing", k=10)
    for kind in KINDS:
        assert empty.novelty(prototypes(), kind).tolist() == [1.0] * 9
    assert len(empty.extended(prototypes())) == 9
    assert KnownPrints.build(prototypes(), name="x", k=10).novelty(CrystalBatch.empty()).shape == (
        0,
    )


def test_an_empty_index_can_be_kept(tmp_path):
    empty = KnownPrints.build(CrystalBatch.empty(), name="nothing", k=10)
    empty.save(tmp_path / "empty.safetensors")
    assert KnownPrints.load(tmp_path / "empty.safetensors").ids == ()


def test_mistakes_are_told(known, tmp_path):
    with pytest.raises(UnknownNameError, match="pdd"):
        known.novelty(prototypes(), "pdd")
    with pytest.raises(DataError, match="no index"):
        KnownPrints.load(tmp_path / "absent.safetensors")
    (tmp_path / "text").write_text("not an index")
    with pytest.raises(DataError, match="no index"):
        KnownPrints.load(tmp_path / "text")
    odd = KnownPrints.build(prototypes().with_ids(["a\nb", *"cdefghij"]), name="x", k=5)
    with pytest.raises(InputError, match="line break"):
        odd.save(tmp_path / "odd.safetensors")
