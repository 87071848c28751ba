import json
import math

import pytest
import torch
from torch import nn
from torch.nn import functional

from matmill import registry
from matmill.crystals.batch import CrystalBatch, concatenate
from matmill.crystals.elements import SYMBOLS
from matmill.data.table import LabelledCrystals
from matmill.errors import InputError
from matmill.graphs.graph import build
from matmill.graphs.radial import GRID_STEP, gaussians
from matmill.predict.cgcnn import CrystalConv
from matmill.predict.gate import Edges
from matmill.predict.protocol import load_predictor
from matmill.predict.reference import ReferenceCgcnn, element_one_hot
from matmill.predict.settings import TrainSettings
from matmill.predict.train import train_predictor
from matmill.training import checkpoint


def _random(seed, n, edge=4.0):
    rng = torch.Generator().manual_seed(seed)
    return CrystalBatch(
        lattice=edge * torch.eye(3).double()[None] + torch.rand(1, 3, 3, generator=rng).double(),
        frac_coords=torch.rand(n, 3, generator=rng).double(),
        atomic_numbers=torch.randint(1, 90, (n,), generator=rng),
        n_atoms=torch.tensor([n]),
    )


def _batch():
    """A symmetric crystal, crystals without symmetry, and one with fewer than 12 neighbours."""
    salt = CrystalBatch.from_lists(
        [torch.eye(3) * 5.64],
        [[[0, 0, 0], [0, 0.5, 0.5], [0.5, 0, 0.5], [0.5, 0.5, 0], [0.5, 0.5, 0.5]]],
        [[11] * 4 + [17]],
    )
    sparse = _random(3, 2, edge=7.9)
    return concatenate([salt, _random(0, 4), sparse, _random(1, 3)])


def _by_the_paper(network, batch):
    """The original's steps, atom by atom and edge by edge, from the published description."""
    graph = build(batch)
    outputs = []
    for crystal in range(len(batch)):
        rows = range(batch.atoms_of(crystal).start, batch.atoms_of(crystal).stop)
        features = [network.embed(network.element_table[batch.atomic_numbers[row]]) for row in rows]
        for layer in network.layers:
            sums = []
            for place, row in enumerate(rows):
                total = torch.zeros(len(features[0]))
                for column in range(12):
                    is_there = bool(graph.mask[row, column])
                    other = int(graph.neighbor[row, column]) - rows.start if is_there else 0
                    distance = float(graph.distance[row, column]) if is_there else 9.0
                    edge = [math.exp(-(((distance - 0.2 * i) / 0.2) ** 2)) for i in range(41)]
                    z = torch.cat([features[place], features[other], torch.tensor(edge)])
                    gate, core = layer.edge_norm(layer.full(z)[None])[0].chunk(2)
                    total = total + torch.sigmoid(gate) * functional.softplus(core)
                sums.append(layer.norm(total[None])[0])
            features = [functional.softplus(v + s) for v, s in zip(features, sums, strict=True)]
        pooled = functional.softplus(torch.stack(features).mean(0))
        outputs.append(network.out(functional.softplus(network.after(pooled))))
    return torch.stack(outputs)


def _used(**settings):
    """A network whose norms have seen data."""
    torch.manual_seed(0)
    network = ReferenceCgcnn(2, width=12, hidden=10, **settings)
    with torch.no_grad():
        for norm in network.modules():
            if isinstance(norm, nn.BatchNorm1d):
                nn.init.normal_(norm.running_mean, std=0.3)
                nn.init.uniform_(norm.running_var, 0.5, 2.0)
                nn.init.uniform_(norm.weight, 0.5, 1.5)
                nn.init.normal_(norm.bias, std=0.3)
    return network


@pytest.mark.parametrize("form", ["joined", "split"])
def test_the_network_is_that_of_the_paper(form):
    network = _used(form=form).eval()
    batch = _batch()
    assert not bool(build(batch).mask.all())
    with torch.no_grad():
        torch.testing.assert_close(
            network(build(batch))[0], _by_the_paper(network, batch), atol=1e-4, rtol=1e-4
        )


@pytest.mark.parametrize("is_training", [False, True])
@pytest.mark.parametrize("is_merged", [False, True])
def test_both_forms_agree_in_outputs_gradients_and_statistics(is_training, is_merged):
    results = []
    for form in ("joined", "split"):
        network = _used(form=form).train(is_training)
        graph = build(_batch(), is_merged=is_merged and form == "split")
        mean, noise = network(graph)
        (mean.square().sum() + noise.sum()).backward()
        gradients = {f"gradient {n}": p.grad for n, p in network.named_parameters()}
        results.append({"mean": mean, **gradients, **dict(network.named_buffers())})
    for name, value in results[0].items():
        size = max(1.0, float(value.detach().abs().max()))

        torch.testing.assert_close(results[1][name] / size, value / size, atol=1e-4, rtol=0.0)


def test_our_layer_takes_the_weights_of_the_original():
    network = _used(form="joined").eval()
    layer, graph = network.layers[0], build(concatenate([_random(0, 4), _random(1, 3)]))
    assert bool(graph.mask.all())
    ours = CrystalConv(12, cutoff=8.0).eval()
    own, other, edge = layer.full.weight.data.split([12, 12, 41], dim=1)
    ours.own.weight.data, ours.own.bias.data = own, layer.full.bias.data
    ours.other.weight.data, ours.edge.weight.data = other, edge
    ours.edge_norm, ours.norm = layer.edge_norm, layer.norm
    atoms = torch.randn(7, 12, generator=torch.Generator().manual_seed(0))
    edges = Edges.of(graph, step=GRID_STEP, cutoff=8.0, is_interpolated=True)
    with torch.no_grad():
        expected = layer.joined(atoms, graph.neighbor.long(), gaussians(graph.distance))
        torch.testing.assert_close(ours(atoms, edges, graph.weight), expected, atol=1e-4, rtol=1e-4)


def test_merged_nodes_do_not_fit_the_form_of_the_original():
    with pytest.raises(InputError, match="all atoms"):
        ReferenceCgcnn(1, form="joined")(build(_batch(), is_merged=True))


def test_sizes_are_the_published_ones():
    network = ReferenceCgcnn(1)
    assert network.layers[0].full.weight.shape == (128, 169)
    own = sum(p.numel() for n, p in network.named_parameters() if not n.startswith("noise"))
    assert own == 80_833


def test_elements_are_nine_facts():
    features = element_one_hot()
    assert features.shape == (119, 92)
    blocks = features.split([19, 7, 10, 10, 12, 10, 10, 4, 10], dim=1)
    for block in blocks:
        assert bool((block.sum(1) <= 1).all())
    assert not bool(features[0].any())
    assert not bool(features[101:].any())
    group, period, electronegativity, radius, valence, *_, kind, _ = blocks
    expected = {
        # group place, period, electronegativity bin, radius bin, valence electrons, s p d f
        "H": (1, 1, 4, 0, 1, 0),
        "O": (16, 2, 8, 1, 6, 1),
        "He": (18, 1, None, 0, 2, 0),
        "Fe": (8, 4, 3, 4, 8, 2),
        "Ce": (0, 6, 1, 6, 2, 3),
        "Lu": (3, 6, 2, 6, 3, 2),
        "Ac": (0, 7, 1, 7, 2, 3),
        "Pb": (14, 6, 5, 5, 4, 1),
    }
    for symbol, (g, p, x, r, v, b) in expected.items():
        z = SYMBOLS.index(symbol)
        assert int(group[z].argmax()) == g, symbol
        assert int(period[z].argmax()) == p - 1, symbol
        assert electronegativity[z].nonzero().flatten().tolist() == ([] if x is None else [x])
        assert int(radius[z].argmax()) == r, symbol
        assert int(valence[z].argmax()) == v - 1, symbol
        assert int(kind[z].argmax()) == b, symbol


def test_the_recipe_is_the_published_one():
    settings = TrainSettings(preset="reference")
    assert (settings.network, settings.optimizer, settings.loss) == (
        "cgcnn-reference",
        "sgd",
        "mse",
    )
    assert (settings.epochs, settings.batch_crystals, settings.learning_rate) == (30, 256, 0.01)
    assert settings.keeps_best
    assert settings.drop_epochs == (100,)
    assert TrainSettings(preset="reference", epochs=7).epochs == 7
    assert TrainSettings().optimizer == "adamw"


def _salts(n=120):
    rng = torch.Generator().manual_seed(0)
    edge = 2.0 + 1.5 * torch.rand(n, generator=rng).double()
    numbers = torch.tensor([3, 8, 11, 17, 26, 30])[torch.randint(6, (n, 2), generator=rng)]
    batch = CrystalBatch(
        lattice=edge[:, None, None] * torch.tensor([[0.0, 1, 1], [1, 0, 1], [1, 1, 0]]).double(),
        frac_coords=torch.tensor([[0.0, 0, 0], [0.5, 0.5, 0.5]]).double().repeat(n, 1),
        atomic_numbers=numbers.flatten(),
        n_atoms=torch.full((n,), 2),
        ids=tuple(f"c{i}" for i in range(n)),
        properties={"lattice_sum": edge + 0.5 * (numbers == 8).any(1)},
    )
    parts = ["train"] * (n // 2) + ["val"] * (n // 4) + ["test"] * (n - n // 2 - n // 4)
    return LabelledCrystals(crystals=batch, notes={"split": tuple(parts)}, source="salts.csv")


def test_it_trains_by_its_name_and_comes_back_from_its_file(tmp_path):
    kind = registry.predictors.load("cgcnn-reference")
    table = _salts()
    small = {"width": 16, "hidden": 16, "n_layers": 2}
    found = kind.fit(table, "lattice_sum", folder=tmp_path, batch_crystals=16, epochs=20, **small)
    card = found.card
    assert card["network"] == "cgcnn-reference"
    assert card["settings"]["optimizer"] == "sgd"
    values = table.column("lattice_sum")
    median = float((values[90:] - values[:60].median()).abs().mean())
    assert card["scores"]["lattice_sum"]["mae"] < 0.6 * median
    scale = card["scales"][0]
    assert scale["center"] == pytest.approx(float(values[:60].mean()))
    assert scale["spread"] == pytest.approx(float(values[:60].std()))
    path = found.model.save(tmp_path / "salts")
    again = load_predictor(path).predict(table.crystals)
    assert torch.equal(again.mean, found.predict(table.crystals).mean)


def test_the_best_epoch_is_kept(tmp_path):
    # At a rate this high the last epochs are worse than earlier ones.
    settings = TrainSettings(
        preset="reference",
        width=8,
        hidden=8,
        n_layers=1,
        epochs=12,
        learning_rate=0.5,
        batch_crystals=16,
    )
    table = _salts()
    model = train_predictor(table, ["lattice_sum"], settings=settings, folder=tmp_path)
    lines = (tmp_path / "member-0" / "log.csv").read_text().splitlines()
    column = lines[0].split(",").index("validation")
    found = [float(x) for x in (line.split(",")[column] for line in lines[1:]) if x]
    assert len(found) == 12
    card = json.loads((tmp_path / "member-0" / "last.json").read_text())
    assert card["counters"]["best_score"] == pytest.approx(min(found), rel=1e-5)
    last = card["counters"]["step"]
    assert card["counters"]["best_step"] < last
    tensors, _ = checkpoint.load(tmp_path / "member-0" / "last")
    name = "network.out.weight"
    assert torch.equal(model.members[0].out.weight, tensors[f"best.{name}"])
    assert not torch.equal(model.members[0].out.weight, tensors[f"model.{name}"])
