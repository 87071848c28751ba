import torch
from torch import nn
from torch.nn import functional

from matmill.crystals.batch import CrystalBatch
from matmill.graphs.graph import Graph, build
from matmill.graphs.radial import GRID_STEP, gaussians
from matmill.predict.baselines import CompositionNetwork
from matmill.predict.cgcnn import Cgcnn, CrystalConv, element_features, pool
from matmill.predict.gate import Edges


def _graph(seed=0, sizes=(2, 1, 4)):
    rng = torch.Generator().manual_seed(seed)
    n = sum(sizes)
    batch = CrystalBatch(
        lattice=4 * torch.eye(3).double() + torch.rand(len(sizes), 3, 3, generator=rng).double(),
        frac_coords=torch.rand(n, 3, generator=rng).double(),
        atomic_numbers=torch.randint(1, 90, (n,), generator=rng),
        n_atoms=torch.tensor(sizes),
    )
    return build(batch)


class _PaperConv(nn.Module):
    """The layer as published: one product over the joined features of every edge."""

    def __init__(self, conv):
        super().__init__()
        weight = torch.cat([conv.own.weight, conv.other.weight, conv.edge.weight], dim=1)
        self.full = nn.Linear(weight.shape[1], weight.shape[0])
        self.full.weight.data, self.full.bias.data = weight.data, conv.own.bias.data
        self.edge_norm, self.norm = conv.edge_norm, conv.norm

    def forward(self, atoms, graph):
        n, k = graph.neighbor.shape
        others = atoms[graph.neighbor.long()]
        own = atoms[:, None].expand(-1, k, -1)
        joined = torch.cat([own, others, gaussians(graph.distance)], dim=-1)
        gates = self.edge_norm(self.full(joined).view(n * k, -1)).view(n, k, -1)
        gate, core = gates.chunk(2, dim=-1)
        messages = torch.sigmoid(gate) * functional.softplus(core) * graph.mask[..., None]
        return functional.softplus(atoms + self.norm(messages.sum(1)))


def test_fast_layer_equals_the_published_one():
    torch.manual_seed(0)
    conv = CrystalConv(16, cutoff=8.0)
    graph = _graph()
    nn.init.normal_(conv.edge_norm.running_mean)
    nn.init.uniform_(conv.edge_norm.running_var, 0.5, 2.0)
    atoms = torch.randn(7, 16)
    paper = _PaperConv(conv)
    with torch.no_grad():
        expected = paper.eval()(atoms, graph)
        edges = Edges.of(graph, step=GRID_STEP, cutoff=8.0, is_interpolated=True)
        found = conv.eval()(atoms, edges, graph.weight)
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)


def test_padding_does_not_matter():
    torch.manual_seed(0)
    network = Cgcnn(2, width=16, hidden=16).eval()
    graph = _graph()
    wide = Graph(
        n_atoms=graph.n_atoms,
        atomic_numbers=graph.atomic_numbers,
        neighbor=functional.pad(graph.neighbor, (0, 5)),
        distance=functional.pad(graph.distance, (0, 5), value=3.0),
        mask=functional.pad(graph.mask, (0, 5)),
    )
    with torch.no_grad():
        torch.testing.assert_close(network(wide), network(graph))


def test_crystals_in_a_batch_do_not_see_each_other():
    torch.manual_seed(0)
    network = Cgcnn(3, width=16, hidden=16).eval()
    graph = _graph()
    with torch.no_grad():
        whole, noise = network(graph)
        assert whole.shape == noise.shape == (3, 3)
        for i in range(3):
            alone = network(graph.select([i]))[0]
            torch.testing.assert_close(alone[0], whole[i], atol=1e-5, rtol=1e-5)


def test_a_supercell_has_the_same_output():
    torch.manual_seed(0)
    network = Cgcnn(1, width=16, hidden=16).eval()
    cell = CrystalBatch.from_lists(
        [[[3.0, 0.2, 0], [0, 3.5, 0.1], [0.3, 0, 4.2]]],
        [[[0.1, 0.2, 0.3], [0.6, 0.55, 0.9]]],
        [[26, 8]],
    )
    sites = torch.cat([cell.frac_coords, cell.frac_coords + torch.tensor([1.0, 0, 0])])
    double = CrystalBatch.from_lists(
        [(cell.lattice[0] * torch.tensor([[2.0], [1], [1]])).tolist()],
        [(sites / torch.tensor([2.0, 1, 1])).tolist()],
        [[26, 8, 26, 8]],
    )
    with torch.no_grad():
        one, two = network(build(cell))[0], network(build(double))[0]
    torch.testing.assert_close(one, two, atol=1e-4, rtol=1e-4)


def test_bfloat16_stays_close():
    torch.manual_seed(0)
    network = Cgcnn(2, width=32, hidden=32).eval()
    graph = _graph(sizes=(4, 3, 6, 2))
    with torch.no_grad():
        exact = network(graph)[0]
        with torch.autocast("cpu", torch.bfloat16):
            rough = network(graph)[0]
    assert rough.dtype == torch.float32
    assert float((rough - exact).abs().max()) < 0.1


def test_the_noise_head_does_not_train_the_rest():
    network = Cgcnn(1, width=8, hidden=8)
    network(_graph())[1].sum().backward()
    assert network.noise.weight.grad is not None
    assert all(p.grad is None for n, p in network.named_parameters() if not n.startswith("noise"))


def test_pooling_equals_a_loop():
    atoms = torch.randn(7, 5, generator=torch.Generator().manual_seed(0))
    index = torch.tensor([0, 0, 1, 2, 2, 2, 2])
    weight = torch.tensor([1, 3, 2, 1, 1, 2, 1])
    mean, std = pool(atoms, index, 3, weight.float())
    for i in range(3):
        rows = atoms[index == i].repeat_interleave(weight[index == i], dim=0)
        torch.testing.assert_close(mean[i], rows.mean(0))
        expected = (rows.var(0, unbiased=False) + 1e-6).sqrt()
        torch.testing.assert_close(std[i], expected, atol=1e-5, rtol=1e-4)


def test_elements_differ_and_have_no_tiny_numbers():
    features = element_features()
    assert features.shape[0] == 119
    assert torch.isfinite(features).all()
    assert not bool(((features != 0) & (features.abs() < 1e-6)).any())
    assert len(torch.unique(features[1:95], dim=0)) == 94
    assert not bool(features[0].any())


def test_composition_network_sees_fractions_only():
    torch.manual_seed(0)
    network = CompositionNetwork(2, width=8, hidden=16).eval()
    nothing = {
        "neighbor": torch.zeros(8, 0, dtype=torch.int32),
        "distance": torch.zeros(8, 0),
        "mask": torch.zeros(8, 0, dtype=torch.bool),
    }
    numbers = torch.tensor([11, 17, 17, 11, 11, 17, 26, 8])
    graph = Graph(n_atoms=torch.tensor([2, 4, 2]), atomic_numbers=numbers, **nothing)
    with torch.no_grad():
        found = network(graph)[0]
    torch.testing.assert_close(found[0], found[1])
    assert not torch.allclose(found[0], found[2])
