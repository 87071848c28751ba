import torch

from matmill.crystals.batch import CrystalBatch
from matmill.crystals.compositions import CompositionBatch, parse_formulas
from matmill.graphs.composition import composition_graph


def test_nodes_are_elements_by_amount():
    graph = composition_graph(parse_formulas(["BaTiO3", "Fe", "Fe0.7Ni0.3"]))
    assert graph.n_atoms.tolist() == [3, 1, 2]
    assert graph.atomic_numbers.tolist() == [8, 22, 56, 26, 26, 28]
    torch.testing.assert_close(graph.weight, torch.tensor([3.0, 1, 1, 1, 0.7, 0.3]))
    assert graph.neighbor.shape == graph.count.shape == (6, 0)


def test_selecting_keeps_the_weights():
    graph = composition_graph(parse_formulas(["BaTiO3", "Fe", "Fe0.7Ni0.3"])).select([2, 0])
    assert graph.atomic_numbers.tolist() == [26, 28, 8, 22, 56]
    torch.testing.assert_close(graph.weight, torch.tensor([0.7, 0.3, 3, 1, 1]))


def test_crystals_and_their_formulas_give_the_same_fractions():
    crystals = CrystalBatch.from_lists(
        [torch.eye(3) * 4.2], [[[0.1 * i] * 3 for i in range(6)]], [[22, 22, 8, 8, 8, 8]]
    )
    one = composition_graph(CompositionBatch.of(crystals))
    other = composition_graph(parse_formulas(["TiO2"]))
    assert torch.equal(one.atomic_numbers, other.atomic_numbers)
    torch.testing.assert_close(one.weight / one.weight.sum(), other.weight / other.weight.sum())


def test_no_compositions():
    assert len(composition_graph(CompositionBatch.empty())) == 0
