from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.nn import functional

from matmill.crystals.batch import CrystalBatch, concatenate
from matmill.graphs.graph import Graph, build
from matmill.graphs.radial import GRID_STEP
from matmill.predict.cgcnn import Cgcnn
from matmill.predict.gate import Edges, gated_sum, weighted_norm

WIDTH, N_ROWS = 5, 802


def _batch():
    salt = CrystalBatch.from_lists(
        [torch.eye(3) * 5.64],
        [[[0, 0, 0], [0, 0.5, 0.5], [0.5, 0, 0.5], [0.5, 0.5, 0], [0.5, 0.5, 0.5]]],
        [[11] * 4 + [17]],
    )
    rng = torch.Generator().manual_seed(0)
    other = CrystalBatch(
        lattice=4 * torch.eye(3).double()[None] + torch.rand(1, 3, 3, generator=rng).double(),
        frac_coords=torch.rand(4, 3, generator=rng).double(),
        atomic_numbers=torch.randint(1, 90, (4,), generator=rng),
        n_atoms=torch.tensor([4]),
    )
    return concatenate([salt, other, salt])


def _inputs(n_nodes, seed=0):
    rng = torch.Generator().manual_seed(seed)
    parts = torch.randn(n_nodes, 4 * WIDTH, generator=rng).double().requires_grad_()
    table = torch.randn(N_ROWS, 2 * WIDTH, generator=rng).double().requires_grad_()
    norm = nn.BatchNorm1d(2 * WIDTH).double()
    with torch.no_grad():
        norm.weight.copy_(torch.rand(2 * WIDTH, generator=rng) + 0.5)
        norm.bias.copy_(torch.randn(2 * WIDTH, generator=rng))
    return parts, table, norm


def _by_definition(parts, table, norm, graph, *, is_interpolated):
    """Every edge as often as it counts, the layers of torch, a loop over nothing but nodes."""
    own, other = parts.split(2 * WIDTH, dim=1)
    rows, gates = [], []
    for node in range(len(parts)):
        for column in range(graph.neighbor.shape[1]):
            times = int(graph.count[node, column] * graph.weight[node])
            place = (graph.distance[node, column] / GRID_STEP).double()
            low = int(place.floor())
            edge = table[round(float(place))]
            if is_interpolated:
                edge = torch.lerp(table[low], table[low + 1], place - low)
            gate = own[node] + other[graph.neighbor[node, column]] + edge
            rows += [node] * times
            gates += [gate] * times
    gate, core = norm(torch.stack(gates)).chunk(2, dim=1)
    messages = torch.sigmoid(gate) * functional.softplus(core)
    summed = torch.zeros(len(parts), WIDTH).double().index_add(0, torch.tensor(rows), messages)
    return summed / graph.weight.double()[:, None]


@pytest.mark.parametrize("is_merged", [False, True])
@pytest.mark.parametrize("is_interpolated", [False, True])
@pytest.mark.parametrize("is_training", [False, True])
def test_values_gradients_and_statistics_are_those_of_the_definition(
    is_merged, is_interpolated, is_training, monkeypatch
):
    graph = build(_batch(), k=6, is_merged=is_merged)
    assert bool((graph.count == 1).all()) != is_merged
    edges = Edges.of(graph, step=GRID_STEP, cutoff=8.0, is_interpolated=is_interpolated)
    # From here on in double precision, where a slip cannot hide behind rounding.
    monkeypatch.setattr(torch.Tensor, "float", torch.Tensor.double)
    doubled = {
        name: getattr(edges, name).double()
        for name in ("share", "count", "weight", "total")
        if getattr(edges, name) is not None
    }
    edges = replace(edges, **doubled)
    pull = torch.randn(len(graph.weight), WIDTH, generator=torch.Generator().manual_seed(1))
    found, expected = [], []
    for results, function in ((found, gated_sum), (expected, None)):
        parts, table, norm = _inputs(len(graph.weight))
        norm.train(is_training)
        if function is None:
            summed = _by_definition(parts, table, norm, graph, is_interpolated=is_interpolated)
        else:
            summed = function(parts, table, norm, edges)
        inputs = (parts, table, norm.weight, norm.bias)
        results += [summed, *torch.autograd.grad((summed * pull).sum(), inputs)]
        results += [norm.running_mean, norm.running_var]
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, atol=1e-6, rtol=1e-6)


def test_weighted_norm_is_the_norm_of_repeated_rows():
    rng = torch.Generator().manual_seed(0)
    values = torch.randn(6, 3, generator=rng).double()
    weight = torch.tensor([1, 4, 2, 1, 1, 3])
    results = []
    for times in (None, weight):
        norm = nn.BatchNorm1d(3).double()
        x = values.clone().requires_grad_()
        if times is None:
            y = weighted_norm(x, norm, weight.double())
        else:
            y = norm(x.repeat_interleave(weight, dim=0))[weight.cumsum(0) - 1]
        loss = (y.square() * torch.arange(18).view(6, 3) * weight[:, None]).sum()
        results.append([y, *torch.autograd.grad(loss, x), norm.running_mean, norm.running_var])
    for one, other in zip(*results, strict=True):
        torch.testing.assert_close(one, other)


def test_training_on_merged_graphs_is_training_on_all_atoms():
    batch = _batch()
    gradients, statistics = [], []
    for is_merged in (False, True):
        torch.manual_seed(0)
        network = Cgcnn(1, width=8, hidden=8, n_layers=2)
        mean, noise = network(build(batch, is_merged=is_merged))
        (mean.square().sum() + noise.sum()).backward()
        gradients.append({name: p.grad for name, p in network.named_parameters()})
        statistics.append(dict(network.named_buffers()))
    for one, other in (gradients, statistics):
        for name, value in one.items():
            torch.testing.assert_close(other[name], value, atol=1e-4, rtol=1e-3, msg=name)


def test_rough_products_leave_sums_and_statistics_in_float32():
    graph = build(_batch(), is_merged=True)
    results = []
    for is_rough in (False, True):
        torch.manual_seed(0)
        network = Cgcnn(1, width=16, hidden=16)
        with torch.autocast("cpu", torch.bfloat16, enabled=is_rough):
            mean = network(graph)[0]
        mean.sum().backward()
        for name, tensor in [*network.named_parameters(), *network.named_buffers()]:
            assert not tensor.is_floating_point() or tensor.dtype == torch.float32, name
        results.append((mean, network.layers[2].edge_norm.running_var))
        assert network.layers[0].own.weight.grad is not None
    for exact, rough in zip(*results, strict=True):
        assert rough.dtype == torch.float32
        torch.testing.assert_close(rough, exact, atol=0.05, rtol=0.05)


def test_atoms_without_any_neighbour_do_not_upset_training():
    lonely = CrystalBatch.from_lists([torch.eye(3) * 20], [[[0, 0, 0]]], [[2]])
    network = Cgcnn(1, width=8, hidden=8)
    for batch in (concatenate([lonely, lonely]), concatenate([lonely, _batch()])):
        mean = network(build(batch))[0]
        mean.sum().backward()
        assert bool(torch.isfinite(mean).all())
        assert all(bool(torch.isfinite(b).all()) for b in network.buffers())
        assert all(
            bool(torch.isfinite(p.grad).all()) for p in network.parameters() if p.grad is not None
        )


def test_the_table_is_read_at_the_distance():
    graph = Graph(
        n_atoms=torch.tensor([1]),
        atomic_numbers=torch.tensor([1]),
        neighbor=torch.tensor([[0, 0]]),
        distance=torch.tensor([[2.504, 8.0]]),
        mask=torch.tensor([[True, True]]),
    )
    nearest = Edges.of(graph, step=0.01, cutoff=8.0, is_interpolated=False)
    assert nearest.row.tolist() == [250, 800]
    between = Edges.of(graph, step=0.01, cutoff=8.0, is_interpolated=True)
    assert between.row.tolist() == [250, 800]
    assert between.share is not None
    torch.testing.assert_close(between.share, torch.tensor([0.4, 0.0]), atol=1e-3, rtol=0.0)
