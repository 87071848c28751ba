import math

import pytest
import torch

from matmill.crystals.batch import CrystalBatch
from matmill.graphs.augment import (
    SMALLEST_DISTANCE,
    augmented,
    mask_atoms,
    mask_edges,
    noise_distances,
)
from matmill.graphs.graph import Graph, build


def make_batch(sizes=(1, 2, 7, 25, 40), seed=0):
    """Random cells of these numbers of atoms."""
    rng = torch.Generator().manual_seed(seed)
    n = sum(sizes)
    edge = torch.tensor([2.5 * size ** (1 / 3) for size in sizes]).double()
    return CrystalBatch(
        lattice=edge[:, None, None] * torch.eye(3).double(),
        frac_coords=torch.rand(n, 3, generator=rng).double(),
        atomic_numbers=torch.randint(1, 80, (n,), generator=rng),
        n_atoms=torch.tensor(sizes),
    )


def rock_salt():
    """The conventional cell: 8 atoms that merge to 2 nodes of 1 or 2 edges."""
    a = torch.tensor([[0, 0, 0], [0, 0.5, 0.5], [0.5, 0, 0.5], [0.5, 0.5, 0]]).double()
    return CrystalBatch(
        lattice=5.6 * torch.eye(3).double()[None],
        frac_coords=torch.cat([a, (a + torch.tensor([0.5, 0, 0])) % 1.0]),
        atomic_numbers=torch.tensor([11] * 4 + [17] * 4),
        n_atoms=torch.tensor([8]),
    )


def rng(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("share", [0.1, 0.25, 0.5])
def test_the_number_of_masked_atoms_is_that_of_the_paper_but_one_atom_is_left(share):
    graph = build(make_batch())
    masked = mask_atoms(graph, share, rng())
    for i, n in enumerate(graph.n_atoms.tolist()):
        rows = graph.crystal_index == i
        found = int((masked.atomic_numbers[rows] == 0).sum())
        assert found == min(max(1, math.floor(share * n)), n - 1)
    kept = masked.atomic_numbers != 0
    assert torch.equal(masked.atomic_numbers[kept], graph.atomic_numbers[kept])
    assert torch.equal(masked.neighbor, graph.neighbor)
    assert int((graph.atomic_numbers == 0).sum()) == 0  # the given graph is unchanged


def test_every_atom_is_masked_equally_often():
    graph = build(make_batch((20,)))
    total = torch.zeros(20)
    for seed in range(600):
        total += mask_atoms(graph, 0.1, rng(seed)).atomic_numbers == 0
    assert total.sum() == 2 * 600
    assert float(total.min()) > 30  # 60 expected, standard deviation 7.3
    assert float(total.max()) < 90


def test_merged_nodes_are_masked_with_the_share_of_the_atoms():
    graph = build(rock_salt(), is_merged=True)
    assert graph.n_atoms.tolist() == [2]
    n = sum(int((mask_atoms(graph, 0.1, rng(s)).atomic_numbers == 0).sum()) for s in range(800))
    # One of 8 atoms is an eighth: of 2 nodes, one in every fourth view.
    assert 0.2 < n / 800 < 0.3


@pytest.mark.parametrize(("share", "kept"), [(0.1, 11), (0.3, 9), (0.5, 6)])
def test_edges_are_masked_as_in_the_paper(share, kept):
    graph = build(make_batch())
    masked = mask_edges(graph, share, rng())
    full = graph.mask.sum(1) == 12
    assert bool(full.any())
    assert torch.equal(masked.mask[full].sum(1), torch.full((int(full.sum()),), kept))
    assert bool((masked.mask <= graph.mask).all())
    assert torch.equal(masked.count > 0, masked.mask)


def test_an_edge_that_stands_for_several_loses_one():
    graph = build(rock_salt(), is_merged=True)
    before = graph.count.sum(1)
    after = mask_edges(graph, 0.1, rng())
    assert before.tolist() == [12.0, 12.0]
    assert after.count.sum(1).tolist() == [11.0, 11.0]
    assert bool((after.count <= graph.count).all())
    assert torch.equal(graph.count.sum(1), before)


def test_joined_edges_lose_in_proportion_to_what_they_stand_for():
    graph = Graph(
        n_atoms=torch.tensor([1]),
        atomic_numbers=torch.tensor([5]),
        neighbor=torch.zeros(1, 3, dtype=torch.int32),
        distance=torch.tensor([[1.0, 2.0, 2.0]]),
        mask=torch.tensor([[True, True, False]]),
        count=torch.tensor([[2.0, 8.0, 0.0]]),
    )
    lost = sum((graph.count - mask_edges(graph, 0.1, rng(s)).count) for s in range(500))
    assert lost[0, 2] == 0
    assert lost.sum() == 500
    assert 70 < float(lost[0, 0]) < 130


def test_noise_is_uniform_and_leaves_the_topology():
    graph = build(make_batch((30, 30, 40)))
    noisy = noise_distances(graph, 0.5, rng())
    change = (noisy.distance - graph.distance)[graph.mask & (graph.distance > 0.7)]
    assert float(change.abs().max()) <= 0.5 + 1e-6
    assert abs(float(change.mean())) < 0.05
    assert float(change.std()) == pytest.approx(1 / math.sqrt(12), rel=0.1)
    assert torch.equal(noisy.neighbor, graph.neighbor)
    assert torch.equal(noisy.distance[~graph.mask], graph.distance[~graph.mask])


def test_noise_never_makes_a_distance_too_small():
    noisy = noise_distances(build(make_batch((60,))), 5.0, rng())
    assert float(noisy.distance.min()) == pytest.approx(SMALLEST_DISTANCE)


def test_a_view_repeats_with_its_seed_and_differs_from_the_next():
    graph = build(make_batch(), is_merged=True)
    source = rng(3)
    first, second = augmented(graph, source), augmented(graph, source)
    again = augmented(graph, rng(3))
    for name in ("atomic_numbers", "distance", "count", "mask"):
        assert torch.equal(getattr(first, name), getattr(again, name))
    assert not torch.equal(first.distance, second.distance)


def test_nothing_asked_is_nothing_done():
    graph = build(make_batch())
    assert augmented(graph, rng(), atom_mask=0.0, edge_mask=0.0, delta=0.0) is graph


def test_no_crystals_give_no_crystals():
    graph = build(make_batch()).select([])
    assert len(augmented(graph, rng())) == 0
