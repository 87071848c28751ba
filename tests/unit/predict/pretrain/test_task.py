import pytest
import torch

from matmill.errors import InputError, UnknownNameError
from matmill.graphs.graph import build
from matmill.predict.cgcnn import Cgcnn
from matmill.predict.pretrain.losses import supervised_simclr
from matmill.predict.pretrain.task import (
    OBJECTIVES,
    BalancedBatches,
    ClassedGraphs,
    PretrainTask,
    expected_draws,
)


def make_task(objective, n_classes=(2,), **changes):
    torch.manual_seed(0)
    network = Cgcnn(1, width=16, hidden=32, n_layers=2)
    return PretrainTask(network, hidden=32, objective=objective, n_classes=n_classes, **changes)


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_training_lowers_the_loss(objective, salts):
    batch = salts(64)
    labels = (batch.atomic_numbers.view(-1, 2) == 8).any(1).long()[:, None]
    graphs = ClassedGraphs(build(batch, is_merged=True), labels)
    task = make_task(objective)
    optimizer = torch.optim.AdamW(task.parameters(), lr=3e-3)
    rng = torch.Generator().manual_seed(0)
    values = []
    for _ in range(40):
        loss = task.loss(graphs, rng)["loss"]
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        values.append(float(loss.detach()))
    # With two classes of n crystals each view has n partners: the loss ends above log n.
    share = 0.985 if objective == "supervised-simclr" else 0.9
    assert sum(values[-5:]) < share * sum(values[:5])
    assert int(task.n_seen) == 40
    assert task.monitor.latest is not None


def test_labels_reach_the_features(salts):
    batch = salts(64)
    labels = (batch.atomic_numbers.view(-1, 2) == 8).any(1).long()[:, None]
    graph = build(batch, is_merged=True)
    found = {}
    for name, mine in (("right", labels), ("unknown", torch.full_like(labels, -1))):
        task = make_task("supervised-simclr", unsupervised_share=0.0)
        optimizer = torch.optim.AdamW(task.parameters(), lr=3e-3)
        rng = torch.Generator().manual_seed(0)
        for _ in range(30):
            task.loss(ClassedGraphs(graph, mine), rng)["loss"].backward()
            optimizer.step()
            optimizer.zero_grad()
        with torch.no_grad():
            out = task.head(task.network.embedding(graph))
        found[name] = float(supervised_simclr(out, out, labels[:, 0]))
    assert found["right"] < found["unknown"] - 0.1


def test_unknown_surrogates_of_multi_task_are_left_out(salts):
    batch = salts(16)
    labels = torch.stack([torch.arange(16) % 2, torch.full((16,), -1)], dim=1)
    task = make_task("multi-task", n_classes=(2, 3))
    rng = torch.Generator().manual_seed(0)
    loss = task.loss(ClassedGraphs(build(batch), labels), rng)["loss"]
    loss.backward()
    assert bool(torch.isfinite(loss))
    assert bool((task.head.weight.grad[2:] == 0).all())
    assert bool((task.head.weight.grad[:2] != 0).any())


def test_rare_classes_and_small_cells_are_drawn_more_often():
    labels = torch.tensor([0] * 90 + [1] * 10)[:, None]
    draws = expected_draws(torch.full((100,), 5), labels)
    assert draws[0] == pytest.approx(50 / 90)
    assert draws[99] == pytest.approx(4.0)  # 5 would balance fully
    sizes = torch.tensor([5] * 50 + [20] * 49 + [500])
    draws = expected_draws(sizes, torch.zeros(100, 0).long())
    assert draws[0] == 1.0
    assert draws[60] == pytest.approx(0.5)
    assert draws[99] == pytest.approx(0.25)


def test_batches_are_full_balanced_and_repeat(salts):
    graph = build(salts(100), is_merged=True)
    labels = torch.tensor([0] * 70 + [1] * 30)[:, None]
    batches = BalancedBatches(graph, labels, size=16)
    seen = [list(batches.epoch(0, torch.Generator().manual_seed(1))) for _ in range(2)]
    assert all(len(batch.graph) == 16 for batch in seen[0])
    for a, b in zip(*seen, strict=True):
        assert torch.equal(a.labels, b.labels)
        assert torch.equal(a.graph.distance, b.graph.distance)
    many = torch.cat(
        [b.labels for e in range(40) for b in batches.epoch(e, torch.Generator().manual_seed(e))]
    )
    assert 0.45 < float(many.double().mean()) < 0.55


def test_mistakes_are_named(salts):
    with pytest.raises(UnknownNameError, match="pretraining objective"):
        make_task("byol")
    with pytest.raises(InputError, match="needs a surrogate"):
        make_task("supervised-barlow", n_classes=())
    with pytest.raises(InputError, match="4 crystals do not fill a batch of 16"):
        BalancedBatches(build(salts(4)), torch.zeros(4, 0).long(), size=16)
