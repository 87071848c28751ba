"""Roost against its published form written out, its invariances, and ensembles of it."""

import math
from pathlib import Path

import pytest
import torch
from torch.nn import functional

from matmill import registry
from matmill.crystals.batch import CrystalBatch
from matmill.crystals.compositions import CompositionBatch, parse_formulas
from matmill.data.compositions import LabelledCompositions
from matmill.errors import InputError
from matmill.graphs.composition import composition_graph
from matmill.graphs.graph import Graph
from matmill.predict.pretrain.encoder import load_encoder, save_encoder
from matmill.predict.protocol import load_predictor
from matmill.predict.roost import ElementSets, Roost, RoostPredictor, SoftAttention, element_sets
from matmill.predict.task import LabelledGraphs, PropertyTask

SMALL = {"n_members": 2, "width": 16, "hidden": 32, "n_layers": 2, "precision": "fp32"}
FORMULAS = ["NaCl", "Fe0.7Ni0.3", "Ba0.5Sr0.5Co0.8Fe0.2O3", "Si", "Ca(OH)2", "LiFePO4"]


def graph_of(texts: list[str]) -> Graph:
    return composition_graph(parse_formulas(texts))


def network() -> Roost:
    torch.manual_seed(0)
    return Roost(2, width=16, hidden=32, n_layers=2).eval()


def test_sets_are_padded_and_hold_fractions() -> None:
    sets = element_sets(graph_of(["NaCl", "Fe0.6Ni0.2Cr0.2"]))
    assert sets.numbers.tolist() == [[11, 17, 0], [24, 26, 28]]
    assert sets.mask.tolist() == [[True, True, False], [True, True, True]]
    torch.testing.assert_close(
        sets.log_fraction.exp(), torch.tensor([[0.5, 0.5, 1.0], [0.2, 0.6, 0.2]])
    )


@pytest.mark.parametrize("has_own", [True, False])
def test_attention_equals_the_published_form_written_out(has_own: bool) -> None:
    torch.manual_seed(3)
    width, hidden, n_heads = 6, 8, 3
    layer = SoftAttention(width, hidden=hidden, n_heads=n_heads, has_own=has_own)
    torch.nn.init.uniform_(layer.power, 0.2, 2.0)
    sets = element_sets(graph_of(["NaCl", "Fe0.6Ni0.2Cr0.2"]))
    x = torch.randn(2, 3, width)
    found = layer(x, sets)
    weights = sets.log_fraction.exp()

    def net(pair_net, i: int, j: int, row: int) -> torch.Tensor:
        """One dense layer on the two elements side by side."""
        matrix, inputs = pair_net.other.weight, x[row, j]
        if has_own:
            matrix = torch.cat([pair_net.own.weight, matrix], dim=1)
            inputs = torch.cat([x[row, i], inputs])
        return functional.leaky_relu(matrix @ inputs + pair_net.other.bias, 0.01)

    for row, n in enumerate((2, 3)):
        for i in range(n if has_own else 1):
            expected = layer.message.bias.clone()
            for head in range(n_heads):
                gates, messages = [], []
                for j in range(n):
                    hears = net(layer.gate_net, i, j, row).view(n_heads, -1)[head]
                    gate = hears @ layer.gate[head]
                    gates.append(weights[row, j] ** layer.power[head] * torch.exp(gate))
                    messages.append(net(layer.message_net, i, j, row).view(n_heads, -1)[head])
                part = layer.message.weight[:, head * hidden : (head + 1) * hidden]
                for gate, message in zip(gates, messages, strict=True):
                    expected = expected + gate / sum(gates) * (part @ message)
            torch.testing.assert_close(found[row, i] if has_own else found[row], expected)


def test_with_silent_gates_the_shares_are_powers_of_the_fractions() -> None:
    layer = SoftAttention(4, hidden=4, n_heads=1, has_own=False)
    with torch.no_grad():
        layer.gate.zero_()
        layer.power.fill_(2.0)
        layer.message_net.other.weight.copy_(torch.eye(4))
        layer.message_net.other.bias.zero_()
        layer.message.weight.copy_(torch.eye(4))
        layer.message.bias.zero_()
    sets = element_sets(graph_of(["Fe0.5Ni0.3Cr0.2"]))  # Cr, Fe, Ni
    said = layer(torch.eye(4)[None, :3], sets)[0]
    squares = torch.tensor([0.04, 0.25, 0.09])
    torch.testing.assert_close(said, torch.cat([squares / squares.sum(), torch.zeros(1)]))


def test_scale_order_and_company_do_not_matter() -> None:
    model = network()
    together = model.embedding(graph_of(FORMULAS))
    for row, text in enumerate(FORMULAS):
        torch.testing.assert_close(model.embedding(graph_of([text]))[0], together[row])
    scaled = CompositionBatch(amounts=7.3 * parse_formulas(FORMULAS).amounts)
    torch.testing.assert_close(
        model.embedding(composition_graph(scaled)), together, rtol=1e-4, atol=1e-5
    )
    graph = graph_of(["Ba0.5Sr0.5Co0.8Fe0.2O3"])
    order = torch.tensor([3, 0, 4, 2, 1])
    mixed = Graph(
        n_atoms=graph.n_atoms,
        atomic_numbers=graph.atomic_numbers[order],
        neighbor=graph.neighbor,
        distance=graph.distance,
        mask=graph.mask,
        weight=graph.weight[order],
    )
    torch.testing.assert_close(model.embedding(mixed), model.embedding(graph), rtol=1e-4, atol=1e-5)


def test_small_changes_of_an_amount_are_seen() -> None:
    model = network()
    with torch.no_grad():
        near, far = model.embedding(graph_of(["Fe0.70Ni0.30", "Fe0.69Ni0.31"]))
    assert float((near - far).abs().max()) > 1e-5


def test_every_weight_but_the_last_layers_learns_from_the_features() -> None:
    model = network().train()
    model.embedding(graph_of(FORMULAS)).square().sum().backward()
    without = [
        name
        for name, p in model.named_parameters()
        if p.grad is None and name.split(".")[0] not in {"out", "noise"}
    ]
    assert without == []
    powers = {name: p for name, p in model.named_parameters() if name.endswith("power")}
    assert len(powers) == 3
    assert all(p.grad is not None and bool(p.grad.any()) for p in powers.values())


class Fixed(torch.nn.Module):
    """A network whose two outputs are given."""

    def __init__(self, mean: torch.Tensor, log_error: torch.Tensor) -> None:
        super().__init__()
        self.mean, self.log_error = mean, log_error

    def forward(self, graph: Graph) -> tuple[torch.Tensor, torch.Tensor]:  # noqa: ARG002
        return self.mean, self.log_error


@pytest.mark.parametrize("kind", ["robust-l1", "robust-l2"])
def test_robust_losses_are_those_of_the_paper(kind: str) -> None:
    mean, labels = torch.tensor([[0.3], [-1.0]]), torch.tensor([[1.0], [0.5]])
    log_error = torch.tensor([[0.2], [-0.4]])
    task = PropertyTask(Fixed(mean, log_error), torch.ones(1), torch.ones(1), loss=kind)  # pyright: ignore[reportArgumentType]
    batch = LabelledGraphs(graph_of(["NaCl", "Si"]), labels)
    found = float(task.loss(batch, torch.Generator())["loss"])
    # The paper's s is log σ, and σ = √2 b.
    s = log_error + 0.5 * math.log(2.0)
    error = (mean - labels).abs()
    if kind == "robust-l1":
        expected = (math.sqrt(2.0) * error * torch.exp(-s) + s).mean()
    else:
        expected = (0.5 * error.square() * torch.exp(-2 * s) + s).mean()
    assert found == pytest.approx(float(expected) - 0.5 * math.log(2.0), rel=1e-5)


def made_table(n: int = 160) -> LabelledCompositions:
    """Binary alloys and oxides whose label follows from the shares."""
    rng = torch.Generator().manual_seed(0)
    metals = torch.tensor([3, 11, 12, 22, 26, 28])[torch.randint(6, (n,), generator=rng)]
    share = torch.rand(n, generator=rng).double() * 0.8 + 0.1
    amounts = torch.zeros(n, 119, dtype=torch.float64)
    amounts[torch.arange(n), metals] = share
    amounts[torch.arange(n), 8] = 1.0 - share
    value = 3.0 * (1.0 - share) + 0.5 * (metals > 12)
    batch = CompositionBatch(
        amounts=amounts, properties={"gap": value, "is_wide": (value > 1.9).double()}
    )
    third = n // 4
    split = ("train",) * (2 * third) + ("val",) * third + ("test",) * third
    return LabelledCompositions(compositions=batch, notes={"split": split}, source="made.csv")


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[RoostPredictor, Path]:
    folder = tmp_path_factory.mktemp("roost")
    settings = {**SMALL, "epochs": 60, "learning_rate": 5e-3, "batch_crystals": 16}
    model = RoostPredictor.fit(
        made_table(), "gap", folder=folder / "work", start_from=None, **settings
    )
    return model, folder


def test_an_ensemble_learns_and_knows_its_error(trained: tuple[RoostPredictor, Path]) -> None:
    model, _ = trained
    scores = model.card["scores"]["gap"]
    labels = made_table().column("gap")[-40:]
    assert scores["mae"] < 0.25 * float((labels - labels.median()).abs().mean())
    assert 0.5 < scores["intervals"]["0.90"]["covered"] <= 1.0
    assert model.reads == "composition"


def test_saved_predictions_come_back_bit_by_bit(trained: tuple[RoostPredictor, Path]) -> None:
    model, folder = trained
    model.save(folder / "oxides")
    batch = parse_formulas(["Fe0.31O0.69", "Li2O", "UO2"])
    before = model.predict(batch)
    after = load_predictor(folder / "oxides.safetensors").predict(batch)  # pyright: ignore[reportArgumentType]
    assert torch.equal(before.mean, after.mean)
    assert torch.equal(before.std, after.std)
    assert before.in_domain.tolist()[2] is False  # uranium was never seen


def test_crystals_and_their_compositions_get_the_same(trained: tuple[RoostPredictor, Path]) -> None:
    model, _ = trained
    numbers = [[3, 3, 8], [26, 8], [22, 8, 8, 22, 8, 8]]
    crystals = CrystalBatch.from_lists(
        [torch.eye(3).numpy() * 5] * 3, [torch.rand(len(z), 3).numpy() for z in numbers], numbers
    )
    whole = model.predict(crystals)
    bare = model.predict(CompositionBatch.of(crystals))
    torch.testing.assert_close(whole.mean, bare.mean)
    assert len(model.predict(CompositionBatch.empty())) == 0


def test_two_classes_get_probabilities(tmp_path: Path) -> None:
    table = made_table()
    settings = {**SMALL, "epochs": 40, "learning_rate": 5e-3, "batch_crystals": 16}
    model = RoostPredictor.fit(table, "is_wide", folder=tmp_path, start_from=None, **settings)
    rows = torch.arange(120, 160)
    found = model.predict(table.compositions.select(rows)).mean
    truth = table.column("is_wide")[rows]
    assert 0.0 <= float(found.min()) <= float(found.max()) <= 1.0
    assert float(((found > 0.5) == (truth > 0.5)).double().mean()) > 0.85
    assert float((found - truth).square().mean()) < 0.12


def test_it_starts_from_an_encoder(tmp_path: Path) -> None:
    torch.manual_seed(5)
    source = Roost(4, width=16, hidden=32, n_layers=2)
    path = save_encoder(
        tmp_path / "encoder",
        source,
        {
            "network": "roost",
            "network_settings": {"width": 16, "hidden": 32, "n_layers": 2},
            "n_neighbors": 0,
            "cutoff_angstrom": 0.0,
        },
    )
    model = RoostPredictor.fit(
        made_table(),
        "gap",
        folder=tmp_path / "work",
        start_from=str(path),
        n_members=1,
        epochs=1,
        learning_rate=1e-9,
        precision="fp32",
    )
    state = model.model.members[0].state_dict()
    torch.testing.assert_close(state["offset.weight"], source.offset.weight.data)
    torch.testing.assert_close(
        state["layers.1.message.weight"], source.state_dict()["layers.1.message.weight"]
    )
    assert not torch.allclose(state["hidden.weight"], source.hidden.weight)


def test_by_default_it_starts_from_the_encoder_that_ships(tmp_path: Path) -> None:
    shipped, card = load_encoder("compositions")
    assert card["network"] == "roost"
    settings = {"n_members": 1, "epochs": 1, "learning_rate": 1e-9, "precision": "fp32"}
    model = RoostPredictor.fit(made_table(), "gap", folder=tmp_path / "a", **settings)
    state = model.model.members[0].state_dict()
    torch.testing.assert_close(state["offset.weight"], shipped["offset.weight"].float())
    assert model.card["started_from"] == "compositions"
    small = RoostPredictor.fit(made_table(), "gap", folder=tmp_path / "b", width=16, **settings)
    assert small.card["started_from"] is None
    assert small.card["network_settings"]["width"] == 16


def test_a_network_of_structures_refuses_compositions(tmp_path: Path) -> None:
    assert registry.predictors.load("roost") is RoostPredictor
    with pytest.raises(InputError, match="reads structures"):
        registry.predictors.load("cgcnn").fit(made_table(), "gap", folder=tmp_path, n_members=1)


def test_padding_never_leaks_into_the_result() -> None:
    layer = SoftAttention(4, hidden=4, n_heads=2, has_own=True)
    sets = element_sets(graph_of(["NaCl", "Fe0.6Ni0.2Cr0.2"]))
    x = torch.randn(2, 3, 4)
    other = x.clone()
    other[0, 2] = 100.0
    assert isinstance(sets, ElementSets)
    torch.testing.assert_close(layer(x, sets)[0, :2], layer(other, sets)[0, :2])
