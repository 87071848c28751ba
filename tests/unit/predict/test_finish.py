import torch

from matmill.graphs.graph import Graph
from matmill.predict.ensemble import EnsembleModel, load_model
from matmill.predict.finish import calibrate_model, describe_domain
from matmill.predict.networks import make_network
from matmill.predict.scaling import TargetScale
from matmill.predict.scores import score_model

N = 400
COLUMNS = ("gap", "is_metal")


def _card():
    values = torch.linspace(0, 4, 100)
    scales = [
        TargetScale.of("gap", values),
        TargetScale.of("is_metal", (values > 2).double()),
    ]
    return {
        "kind": "matmill predictor",
        "network": "composition",
        "network_settings": {"width": 8, "hidden": 8},
        "n_members": 2,
        "columns": list(COLUMNS),
        "columns_trained": list(COLUMNS),
        "scales": [scale.as_card() for scale in scales],
        "elements_z": [3, 8, 11],
    }


def _graph(n=N, seed=0):
    rng = torch.Generator().manual_seed(seed)
    first = torch.tensor([3, 8, 11])[torch.randint(3, (n,), generator=rng)]
    return Graph(
        n_atoms=torch.full((n,), 2),
        atomic_numbers=torch.stack([first, torch.full((n,), 8)], dim=1).flatten(),
        neighbor=torch.zeros(2 * n, 0, dtype=torch.int32),
        distance=torch.zeros(2 * n, 0),
        mask=torch.zeros(2 * n, 0, dtype=torch.bool),
        weight=torch.rand(2 * n, generator=rng) + 0.2,
    )


def _labels(model, graph, seed):
    """Return labels around what the model says: noisy values, and classes by its probability."""
    rng = torch.Generator().manual_seed(seed)
    raw = model.raw(graph)
    noise = torch.randn(len(graph), generator=rng).double() ** 3
    chance = 0.5 + 0.5 * raw.mean[:, 1]
    classes = (torch.rand(len(graph), generator=rng) < chance).double()
    return torch.stack([raw.mean[:, 0] + 0.3 * noise, 2 * classes - 1], dim=1).float()


def _model():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        card = _card()
        members = [make_network(card).eval() for _ in range(2)]
    model = EnsembleModel(members, card, {})
    describe_domain(model, _graph())
    held_out = _graph(seed=1)
    calibrate_model(model, held_out, _labels(model, held_out, 1))
    return model


def test_calibrated_intervals_cover_fresh_rows_and_scores_say_so():
    model = _model()
    fresh = _graph(2000, seed=2)
    labels = _labels(model, fresh, 2)
    values = torch.stack([s.from_learned(labels[:, i]) for i, s in enumerate(model.scales)], dim=1)
    scores = score_model(model, fresh, values)
    for level in ("0.80", "0.90"):
        assert abs(scores["gap"]["intervals"][level]["covered"] - float(level)) < 0.04
    assert scores["gap"]["diversity"] > 0
    # Wrong by the noise only: half of the probability mass is right by more than chance.
    assert scores["is_metal"]["calibration_error"] < 0.05
    assert 0.0 <= scores["is_metal"]["brier"] <= 0.3


def test_classes_get_the_deviation_of_their_probability_and_sets_of_classes():
    model = _model()
    raw = model.raw(_graph(seed=3))
    chance = 0.5 + 0.5 * raw.mean[:, 1]
    std = model.scales[1].std_from_learned(raw.mean[:, 1], raw.std[:, 1])
    assert torch.allclose(std, (chance * (1 - chance)).sqrt())
    assert model.card["calibration"]["is_metal"]["std_factor"] == 1.0


def test_a_saved_file_has_all_kinds_of_intervals_and_the_same_domain(tmp_path):
    model = _model()
    again = load_model(model.save(tmp_path / "model"))
    assert again.interval_kinds == ("split", "family", "shifted")
    graph = _graph(80, seed=4)
    raw, other = model.raw(graph), again.raw(graph)
    assert torch.equal(raw.distance, other.distance)
    assert model.judge(graph, raw.distance)[1] == again.judge(graph, other.distance)[1]
    rows, kept = model.calibration_rows, again.calibration_rows
    assert rows is not None
    assert kept is not None
    assert torch.equal(rows.features, kept.features)
    assert all(torch.equal(rows.scores[c], kept.scores[c]) for c in COLUMNS)


def test_a_file_with_the_older_domain_still_judges(tmp_path):
    from matmill.training import checkpoint

    model = _model()
    tensors, card = checkpoint.load(model.save(tmp_path / "new"))
    older = {name: t for name, t in tensors.items() if name.startswith("member.")}
    older |= {"domain.mean": torch.zeros(8).double(), "domain.whitener": torch.eye(8).double()}
    checkpoint.save(tmp_path / "older", older, {**card, "domain_limit": 0.5})
    old = load_model(tmp_path / "older")
    graph = _graph(50, seed=5)
    raw = old.raw(graph)
    features = old.members[0].embedding(graph).double()  # pyright: ignore[reportCallIssue]
    assert torch.allclose(raw.distance, features.norm(dim=1), atol=1e-5)
    inside, _ = old.judge(graph, raw.distance)
    assert torch.equal(inside, raw.distance <= 0.5)
    assert old.interval_kinds == ("split",)
