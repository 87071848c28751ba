"""Neighbour lists against matscipy, on any cell, and their symmetries."""

import torch
from hypothesis import assume, given
from hypothesis import strategies as st

from matmill.crystals.batch import CrystalBatch
from matmill.crystals.fingerprint import amd
from matmill.crystals.neighbors import TIE_ANGSTROM, nearest, nearest_distances, within
from matmill.testing.strategies import batches, crystals, lattices, rotations


def edges_of(batch, i, found):
    mine = batch.crystal_index[found.source] == i
    start = int(batch.offsets[i])
    images = map(tuple, found.image[mine].tolist())
    source, target = (found.source[mine] - start).tolist(), (found.target[mine] - start).tolist()
    return sorted(zip(source, target, images, strict=True))


def matscipy_edges(batch, i, cutoff):
    from matscipy.neighbours import neighbour_list

    rows = batch.atoms_of(i)
    source, target, image = neighbour_list(
        "ijS",
        cutoff=cutoff,
        positions=batch.cart_coords[rows].numpy(),
        cell=batch.lattice[i].numpy(),
        pbc=[True, True, True],
        numbers=batch.atomic_numbers[rows].int().numpy(),
    )
    images = map(tuple, image.tolist())
    return sorted(zip(source.tolist(), target.tolist(), images, strict=True))


def brute_force(batch, i, cutoff):
    """Distances of all pairs over all images that can matter, sorted, without atoms themselves."""
    lattice, frac = batch.lattice[i], batch.frac_coords[batch.atoms_of(i)]
    reach = (cutoff * torch.linalg.inv(lattice).norm(dim=0)).floor().long() + 1
    ranges = [torch.arange(-int(n), int(n) + 1) for n in reach]
    images = torch.cartesian_prod(*ranges)
    steps = (frac[None] - frac[:, None])[:, :, None] + images
    distance = (steps @ lattice).norm(dim=-1).flatten(1)
    return distance.sort(dim=1).values[:, 1:]


@given(batches(max_atoms=8, min_distance=0.05), st.sampled_from([0.7, 2.5, 4.0, 6.0]))
def test_every_edge_agrees_with_matscipy(batch, cutoff):
    while bool(((within(batch, cutoff + 1e-6).distance - cutoff).abs() < 1e-7).any()):
        cutoff += 1e-4  # an edge on the cutoff itself may be in or out
    found = within(batch, cutoff)
    for i in range(len(batch)):
        assert edges_of(batch, i, found) == matscipy_edges(batch, i, cutoff)


@given(lattices(shortest=1.0, longest=30.0, max_shear=3.0), st.integers(1, 4))
def test_very_skewed_and_tiny_cells(lattice, n):
    rng = torch.Generator().manual_seed(n)
    batch = CrystalBatch.from_lists(
        [lattice.tolist()], [torch.rand(n, 3, generator=rng).tolist()], [[1] * n]
    )
    cutoff = 5.0
    expected = brute_force(batch, 0, cutoff)
    while bool(((expected - cutoff).abs() < 1e-6).any()):
        cutoff -= 1e-3  # an edge on the cutoff itself may be in or out
    found = within(batch, cutoff)
    lengths = found.distance.sort().values
    wanted = expected[expected <= cutoff].flatten().sort().values
    torch.testing.assert_close(lengths, wanted, atol=1e-9, rtol=0.0)


@given(batches(min_distance=0.05), st.sampled_from([1, 5, 12, 40]))
def test_nearest_is_exact_and_sorted(batch, k):
    found = nearest(batch, k)
    assert bool(found.is_full.all())
    assert torch.bincount(found.source).tolist() == [k] * len(batch.frac_coords)
    distance = found.distance.reshape(-1, k)
    assert bool((distance[:, 1:] - distance[:, :-1] > -k * TIE_ANGSTROM).all())
    for i in range(len(batch)):
        rows = batch.atoms_of(i)
        radius = float(distance[rows].max()) + 1e-6
        expected = brute_force(batch, i, radius)[:, :k]
        torch.testing.assert_close(distance[rows].sort(dim=1).values, expected, atol=2e-5, rtol=0.0)
    torch.testing.assert_close(
        nearest_distances(batch, k), distance.sort(dim=1).values, atol=2e-5, rtol=0.0
    )


@given(batches(min_distance=0.05))
def test_vectors_follow_from_images(batch):
    found = within(batch, 5.0)
    steps = batch.frac_coords[found.target] + found.image - batch.frac_coords[found.source]
    vector = torch.einsum("ei,eij->ej", steps, batch.lattice[batch.crystal_index[found.source]])
    torch.testing.assert_close(found.vector, vector, atol=1e-9, rtol=0.0)
    torch.testing.assert_close(found.distance, vector.norm(dim=-1), atol=1e-9, rtol=0.0)
    assert bool((found.source.diff() >= 0).all())


@given(batches(min_distance=0.05))
def test_every_edge_has_its_way_back(batch):
    found = within(batch, 4.0)
    # At the cutoff itself the two ways may be rounded to different sides.
    inside = found.distance < 4.0 - 1e-9
    source, target = found.source[inside].tolist(), found.target[inside].tolist()
    image = found.image[inside]
    there = zip(source, target, map(tuple, image.tolist()), strict=True)
    back = zip(target, source, map(tuple, (-image).tolist()), strict=True)
    assert sorted(there) == sorted(back)


@given(crystals(min_distance=0.05), rotations())
def test_ties_do_not_hang_on_rounding(crystal, rotation):
    turned = CrystalBatch(
        lattice=crystal.lattice @ rotation,
        frac_coords=crystal.frac_coords,
        atomic_numbers=crystal.atomic_numbers,
        n_atoms=crystal.n_atoms,
    )
    # A gap that is the limit of a tie itself, to the last digits, may fall to either side.
    gaps = nearest_distances(crystal, 24).double().diff(dim=1)
    assume(bool(((gaps - TIE_ANGSTROM).abs() > 1e-9).all()))
    one, other = nearest(crystal, 12), nearest(turned, 12)
    assert one.target.tolist() == other.target.tolist()
    assert one.image.tolist() == other.image.tolist()


@given(
    crystals(max_atoms=4, min_distance=0.05),
    rotations(),
    st.tuples(*[st.floats(0, 1)] * 3),
    st.sampled_from([(1, 1, 2), (2, 1, 2), (1, 3, 1)]),
)
def test_amd_does_not_depend_on_the_description(crystal, rotation, shift, repeats):
    expected = amd(crystal, 30)
    moved = CrystalBatch(
        lattice=crystal.lattice @ rotation,
        frac_coords=(crystal.frac_coords + torch.tensor(shift).double()).flip(0) % 1.0,
        atomic_numbers=crystal.atomic_numbers.flip(0),
        n_atoms=crystal.n_atoms,
    )
    torch.testing.assert_close(amd(moved, 30), expected, atol=1e-5, rtol=0.0)
    torch.testing.assert_close(amd(supercell(crystal, repeats), 30), expected, atol=1e-5, rtol=0.0)


def supercell(crystal, repeats):
    cells = torch.cartesian_prod(*(torch.arange(n) for n in repeats)).double()
    scale = torch.tensor(repeats).double()
    frac = ((crystal.frac_coords[:, None] + cells) / scale).reshape(-1, 3)
    return CrystalBatch(
        lattice=crystal.lattice * scale[None, :, None],
        frac_coords=frac,
        atomic_numbers=crystal.atomic_numbers.repeat_interleave(len(cells)),
        n_atoms=crystal.n_atoms * len(cells),
    )
