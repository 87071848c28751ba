import numpy as np
import pytest
import torch
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import Matern, WhiteKernel
from sklearn.svm import SVC, SVR

from matmill.predict.tabular import kernel
from matmill.predict.tabular.kernel import (
    KernelMachine,
    fit_gaussian_process,
    fit_support_vectors,
)


def make(n=200, c=6, seed=0):
    rng = torch.Generator().manual_seed(seed)
    x = torch.randn(n, c, generator=rng, dtype=torch.float64)
    return x, torch.sin(x[:, 0]) + 0.5 * x[:, 1] + 0.05 * torch.randn(n, generator=rng)


def test_support_vectors_equal_sklearn():
    x, y = make()
    new, _ = make(500, seed=1)
    expected = SVR(C=3.0, epsilon=0.02, gamma=0.5 / 6).fit(x, y).predict(new)
    ours = fit_support_vectors(x, y).predict(new)
    assert np.abs(ours.numpy() - expected).max() < 1e-5


def test_classes_equal_sklearn():
    x, y = make()
    classes = (y > 0.5).double()
    new, _ = make(500, seed=1)
    model = SVC(C=3.0, gamma=0.5 / 6, class_weight="balanced").fit(x, classes.int())
    ours = fit_support_vectors(x, classes, classify=True).predict(new)
    assert np.abs(ours.numpy() - model.decision_function(new)).max() < 1e-5


def test_the_process_equals_sklearn_for_equal_settings():
    x, y = make()
    new, _ = make(300, seed=1)
    ours = fit_gaussian_process(x, y, rng=torch.Generator().manual_seed(0))
    logs = kernel._learned_settings(x, y - y.mean(), torch.zeros(6).long())
    assert torch.allclose(ours.lengths.double().log(), logs[2], atol=0.1)
    # The rows on which the settings are learned come in another order here: take ours.
    length = float(ours.lengths[0])
    rng = torch.Generator().manual_seed(0)
    few = torch.randperm(len(x), generator=rng)
    noise = float(
        (2 * kernel._learned_settings(x[few], y[few] - y.mean(), torch.zeros(6).long())[0]).exp()
    )
    fixed = Matern(length, "fixed", nu=2.5) + WhiteKernel(noise + 1e-6, "fixed")
    theirs = GaussianProcessRegressor(fixed, optimizer=None, alpha=0.0).fit(x, y - y.mean())
    expected = theirs.predict(new.numpy()) + float(y.mean())
    assert np.abs(ours.predict(new).numpy() - expected).max() < 1e-4


def test_the_process_learns_which_columns_matter():
    x, y = make(300)
    ours = fit_gaussian_process(
        x, y, rng=torch.Generator().manual_seed(0), groups=torch.tensor([0, 0, 1, 1, 1, 1])
    )
    assert float(ours.lengths[2]) > 2 * float(ours.lengths[0])
    new, truth = make(300, seed=1)
    assert float((ours.predict(new) - truth).abs().mean()) < 0.1


@pytest.mark.parametrize("fit", ["vectors", "process"])
def test_stored_machines_are_the_same(fit, monkeypatch):
    x, y = make()
    machine = (
        fit_support_vectors(x, y)
        if fit == "vectors"
        else fit_gaussian_process(x, y, rng=torch.Generator().manual_seed(0))
    )
    whole = machine.predict(x)
    assert torch.equal(KernelMachine.of(machine.tensors()).predict(x), whole)
    monkeypatch.setattr(kernel, "_BLOCK", 2000)
    assert torch.allclose(machine.predict(x), whole, atol=1e-10)
    assert machine.predict(x[:0]).shape == (0,)
