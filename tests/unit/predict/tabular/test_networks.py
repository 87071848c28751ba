import pytest
import torch
from torch import nn

from matmill.predict.tabular import networks
from matmill.predict.tabular.networks import NetworkPlan, Networks, draw_plans, train_networks


def make(n=200, c=16, seed=0):
    rng = torch.Generator().manual_seed(seed)
    x = torch.randn(n, c, generator=rng, dtype=torch.float64)
    return x, x[:, 0].abs() + 0.5 * x[:, 1]


def plan(**changes):
    settings = {"n_columns": 16, "width": 64, "rate": 3e-3, "dropout": 0.0, "decay": 1e-3}
    return NetworkPlan(**{**settings, **changes})


def test_they_learn_and_see_only_their_columns():
    x, y = make()
    new, truth = make(seed=1)
    found = train_networks(x, y, [plan(), plan(n_columns=1)], seed=0, epochs=60)
    errors = (found.each(new) - truth).abs().mean(1)
    naive = float((truth - truth.median()).abs().mean())
    assert float(errors[0]) < 0.4 * naive
    assert float(errors[1]) > 1.5 * float(errors[0])  # column 1 matters and it cannot see it
    hidden = new.clone()
    hidden[:, 1:] = 9.0
    assert torch.equal(found.each(hidden)[1], found.each(new)[1])


def test_narrow_networks_are_narrow():
    x, y = make()
    found = train_networks(x, y, [plan(), plan(width=32, n_columns=5)], seed=0, epochs=3)
    assert not found.weights[0][1, 5:].any()
    assert not found.weights[0][1, :, 32:].any()
    assert not found.biases[0][1, :, 32:].any()
    assert found.weights[0][0, 5:].any()


def test_the_function_is_that_of_torch_layers():
    x, y = make()
    found = train_networks(x, y, [plan(), plan()], seed=0, epochs=2)
    layers: list[nn.Module] = []
    for i, (weight, bias) in enumerate(zip(found.weights, found.biases, strict=True)):
        layer = nn.Linear(weight.shape[1], weight.shape[2])
        layer.load_state_dict({"weight": weight[1].T, "bias": bias[1, 0]})
        layers += [layer, nn.ELU()] if i < 4 else [layer]
    expected = nn.Sequential(*layers)(x.float())[:, 0]
    assert torch.allclose(found.each(x)[1].float(), expected, atol=1e-5)


def test_the_optimizer_is_that_of_torch():
    rng = torch.Generator().manual_seed(0)
    start = torch.randn(3, 4, 5, generator=rng)
    rates = torch.tensor([1e-2, 1e-3, 0.0]).view(3, 1, 1)
    ours = start.clone().requires_grad_()
    theirs = [part.clone().requires_grad_() for part in start]
    optimizers = [
        torch.optim.AdamW([part], lr=float(rate), weight_decay=0.1)
        for part, rate in zip(theirs, rates.flatten(), strict=True)
    ]
    moments = [(torch.zeros(3, 4, 5), torch.zeros(3, 4, 5))]
    for step in range(1, 6):
        ours.sin().sum().backward()
        networks._adam([ours], moments, rates, torch.full((3, 1, 1), 0.1), step)
        for part, optimizer in zip(theirs, optimizers, strict=True):
            optimizer.zero_grad()
            part.sin().sum().backward()
            optimizer.step()
    assert torch.allclose(ours, torch.stack(theirs), atol=1e-5)
    assert torch.equal(ours[2], start[2])


def test_classes_and_storage():
    x, y = make()
    classes = (y > y.median()).double()
    found = train_networks(x, classes, [plan()], seed=0, epochs=40, classify=True)
    new, truth = make(seed=1)
    said = found.predict(new) > 0
    assert float((said == (truth > y.median())).double().mean()) > 0.85
    again = Networks.of(found.tensors())
    assert torch.equal(again.predict(new), found.predict(new))
    assert found.predict(new[:0]).shape == (0,)


def test_a_seed_gives_the_same_networks():
    x, y = make(60)
    first = train_networks(x, y, [plan(dropout=0.1)], seed=3, epochs=2)
    again = train_networks(x, y, [plan(dropout=0.1)], seed=3, epochs=2)
    other = train_networks(x, y, [plan(dropout=0.1)], seed=4, epochs=2)
    assert torch.equal(first.each(x), again.each(x))
    assert not torch.equal(first.each(x), other.each(x))


@pytest.mark.parametrize("n_columns", [1, 3, 300])
def test_plans_fit_the_columns(n_columns):
    plans = draw_plans(20, n_columns, torch.Generator().manual_seed(0))
    assert all(1 <= p.n_columns <= n_columns for p in plans)
    assert len({p.rate for p in plans}) == 20
