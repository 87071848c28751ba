"""Symmetries of the core type, of space groups and of every file format."""

import tempfile
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from matmill.crystals.batch import CrystalBatch, concatenate
from matmill.crystals.files import read, write
from matmill.crystals.lattice import (
    from_parameters,
    from_symmetric_log,
    metric_tensor,
    minimum_image_distances,
    minkowski_reduce,
    shortest_vector,
    to_parameters,
    to_symmetric_log,
)
from matmill.crystals.periodic import shortest_step, wrap
from matmill.crystals.symmetry import find
from matmill.testing.strategies import batches, crystals, lattices, rotations

TEXT_FORMATS = ["extxyz", "json", "jsonl", "optimade.json", "optimade.jsonl", "parquet"]


@pytest.mark.parametrize("suffix", TEXT_FORMATS)
@settings(max_examples=15)
@given(batches(min_distance=0.5))
def test_files_give_back_what_they_got(suffix, batch):
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"a.{suffix}"
        write(batch, path)
        back = read(path).crystals
    assert back.ids == batch.ids
    assert back.atomic_numbers.tolist() == batch.atomic_numbers.tolist()
    torch.testing.assert_close(back.lattice, batch.lattice, atol=1e-9, rtol=0.0)
    gap = shortest_step(back.frac_coords, batch.frac_coords)
    torch.testing.assert_close(gap, torch.zeros_like(gap), atol=1e-9, rtol=0.0)
    torch.testing.assert_close(
        back.properties.get("band_gap_ev", torch.full((len(batch),), torch.nan).double()),
        batch.properties["band_gap_ev"],
        equal_nan=True,
    )


@settings(max_examples=15)
@given(batches(min_distance=0.5))
def test_plain_cifs_give_back_distances_and_elements(batch):
    with tempfile.TemporaryDirectory() as folder:
        write(batch, Path(folder) / "a.cif", symprec=None)
        back = read(Path(folder) / "a.cif").crystals
    assert back.atomic_numbers.tolist() == batch.atomic_numbers.tolist()
    torch.testing.assert_close(
        to_parameters(back.lattice), to_parameters(batch.lattice), atol=1e-6, rtol=0.0
    )
    gap = shortest_step(back.frac_coords, batch.frac_coords)
    torch.testing.assert_close(gap, torch.zeros_like(gap), atol=1e-9, rtol=0.0)


@given(crystals(min_distance=0.5), rotations(), st.tuples(*[st.floats(0, 1)] * 3))
def test_the_space_group_does_not_depend_on_the_description(crystal, rotation, shift):
    moved = CrystalBatch(
        lattice=crystal.lattice @ rotation,
        frac_coords=wrap(crystal.frac_coords + torch.tensor(shift).double()).flip(0),
        atomic_numbers=crystal.atomic_numbers.flip(0),
        n_atoms=crystal.n_atoms,
    )
    both = find(concatenate([crystal, moved]), symprec=1e-3)
    assert int(both.number[0]) == int(both.number[1])


@given(batches(), st.data())
def test_selecting_and_joining_are_inverse(batch, data):
    cut = data.draw(st.integers(0, len(batch)))
    index = torch.arange(len(batch))
    joined = concatenate([batch.select(index[:cut]), batch.select(index[cut:])])
    assert joined.ids == batch.ids
    assert torch.equal(joined.frac_coords, batch.frac_coords)
    assert joined.hashes == batch.hashes
    flipped = batch.select(index.flip(0)).select(index.flip(0))
    assert flipped.hashes == batch.hashes


@given(crystals(min_distance=0.5))
def test_the_hash_does_not_depend_on_the_order_of_atoms(crystal):
    order = torch.randperm(len(crystal.frac_coords), generator=torch.Generator().manual_seed(0))
    mixed = CrystalBatch(
        lattice=crystal.lattice,
        frac_coords=crystal.frac_coords[order],
        atomic_numbers=crystal.atomic_numbers[order],
        n_atoms=crystal.n_atoms,
    )
    assert mixed.hashes == crystal.hashes


@given(lattices(), rotations())
def test_parameters_and_log_form_give_the_same_metric(lattice, rotation):
    cell = lattice[None]
    gram = metric_tensor(cell)
    rebuilt = from_parameters(to_parameters(cell))
    torch.testing.assert_close(metric_tensor(rebuilt), gram, atol=1e-7, rtol=1e-7)
    k = to_symmetric_log(cell)
    torch.testing.assert_close(metric_tensor(from_symmetric_log(k)), gram, atol=1e-7, rtol=1e-7)
    torch.testing.assert_close(to_symmetric_log(cell @ rotation), k, atol=1e-8, rtol=0.0)
    torch.testing.assert_close(torch.exp(3 * k[:, 5]), cell.det().abs(), rtol=1e-8, atol=0.0)


@given(lattices(shortest=1.0, longest=20.0, max_shear=4.0))
def test_reduction_keeps_the_lattice_and_finds_the_shortest_vector(lattice):
    reduced, change = minkowski_reduce(lattice[None])
    torch.testing.assert_close(change.double() @ lattice, reduced, atol=1e-8, rtol=0.0)
    assert abs(round(float(change.double().det()))) == 1
    ranges = torch.arange(-3, 4).double()
    vectors = torch.cartesian_prod(ranges, ranges, ranges) @ reduced[0]
    lengths = vectors.norm(dim=-1).sort().values
    torch.testing.assert_close(shortest_vector(lattice[None])[0], lengths[1], atol=1e-8, rtol=0.0)


@given(lattices(max_shear=2.0), st.tuples(*[st.floats(-2, 2)] * 3))
def test_minimum_image_distance_is_that_of_pymatgen(lattice, step):
    from pymatgen.core import Lattice

    ours = minimum_image_distances(torch.tensor([step]).double(), lattice[None])
    reduced = Lattice(lattice.numpy()).get_lll_reduced_lattice()
    frac = reduced.get_fractional_coords(torch.tensor(step).double().numpy() @ lattice.numpy())
    theirs = reduced.get_all_distances([[0, 0, 0]], [frac])[0, 0]
    assert float(ours) == pytest.approx(theirs, abs=1e-7)
