"""Kernel machines: support vectors and Gaussian processes, stored as points and coefficients.

Both predict ``Σ_s c_s k(x, x_s) + b``; they differ in the kernel and in how c is found.
"""

import math
from dataclasses import dataclass
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from matmill.predict.tabular.forest import load_sklearn

Kind = Literal["gaussian", "matern"]
_KINDS: tuple[Kind, ...] = ("gaussian", "matern")
_BLOCK = 2_000_000  # kernel values at once
_FEW = 350  # rows on which the settings of a Gaussian process are learned
_STEPS = 40
_JITTER = 1e-6


@dataclass(frozen=True, eq=False)
class KernelMachine:
    """A sum of kernels around training rows.

    Attributes:
        kind: ``gaussian`` is ``exp(-d²)``; ``matern`` is Matérn's with ν = 5/2 on d.
        points: Training rows, divided by the length scales, ``(n_points, n_columns)`` float32.
        coefficients: Weight of each, ``(n_points,)`` float64.
        lengths: Length scale of each column, ``(n_columns,)`` float32.
        bias: Added to the sum.
    """

    kind: Kind
    points: Float[Tensor, "n_points n_columns"]
    coefficients: Float[Tensor, " n_points"]
    lengths: Float[Tensor, " n_columns"]
    bias: float

    def predict(self, columns: Float[Tensor, "n n_columns"]) -> Float[Tensor, " n"]:
        """Return the value of each row, float64."""
        scaled = columns.double() / self.lengths
        points = self.points.double()
        step = max(1, _BLOCK // max(1, len(points)))
        sums = [_kernel(self.kind, rows, points) @ self.coefficients for rows in scaled.split(step)]
        return torch.cat(sums) + self.bias

    def tensors(self) -> dict[str, Tensor]:
        """Return what has to be stored."""
        return {
            "points": self.points,
            "coefficients": self.coefficients,
            "lengths": self.lengths,
            "kind_bias": torch.tensor([_KINDS.index(self.kind), self.bias], dtype=torch.float64),
        }

    @classmethod
    def of(cls, tensors: dict[str, Tensor]) -> "KernelMachine":
        """Return the machine that was stored."""
        kind, bias = tensors["kind_bias"].tolist()
        parts = [tensors[name] for name in ("points", "coefficients", "lengths")]
        return cls(_KINDS[int(kind)], *parts, bias=bias)


def fit_support_vectors(
    columns: Float[Tensor, "n n_columns"],
    target: Float[Tensor, " n"],
    *,
    cost: float = 3.0,
    tube: float = 0.02,
    width: float = 0.5,
    classify: bool = False,
    weights: Float[Tensor, " n"] | None = None,
) -> KernelMachine:
    """Return support vector regression, or classification whose value is the signed margin.

    Args:
        columns: Standardised, without gaps.
        target: Values of spread about 1, or classes 0 and 1 (weighted to equal shares).
        cost: Of a unit of error against flatness.
        tube: Errors below this cost nothing.
        width: Exponent of the Gaussian for rows one standard deviation apart in every column;
            γ of the usual form is this over the number of columns.
        classify: The target is a class.
        weights: Factor on the cost of each row; None for all alike.

    Raises:
        MissingExtraError: If scikit-learn is not installed.
    """
    svm = load_sklearn("svm")
    gamma = width / columns.shape[1]
    x, y = columns.double().numpy(), target.double().numpy()
    counts = None if weights is None else weights.double().numpy()
    if classify:
        model: Any = svm.SVC(C=cost, gamma=gamma, class_weight="balanced", cache_size=500)
        model.fit(x, y.astype(int), sample_weight=counts)
    else:
        model = svm.SVR(C=cost, epsilon=tube, gamma=gamma, cache_size=500)
        model.fit(x, y, sample_weight=counts)
    length = torch.full((columns.shape[1],), gamma**-0.5)
    return KernelMachine(
        kind="gaussian",
        points=(torch.from_numpy(model.support_vectors_) / length).float(),
        coefficients=torch.from_numpy(model.dual_coef_[0]).clone(),
        lengths=length.float(),
        bias=float(model.intercept_[0]),
    )


def fit_gaussian_process(
    columns: Float[Tensor, "n n_columns"],
    target: Float[Tensor, " n"],
    *,
    rng: torch.Generator,
    groups: Float[Tensor, " n_columns"] | None = None,
    weights: Float[Tensor, " n"] | None = None,
) -> KernelMachine:
    """Return the mean of a Gaussian process with Matérn's kernel, ν = 5/2.

    Length scales, amplitude and noise maximise the marginal likelihood of up to 350 rows; all
    rows then enter the mean.

    Args:
        columns: Standardised, without gaps.
        target: Values of spread about 1.
        rng: Draws the rows that the settings are learned on.
        groups: Number of the length scale that each column uses; one for all by default.
        weights: How much each row counts: its noise is divided by it. None for all alike.

    Source:
        Rasmussen and Williams, Gaussian processes for machine learning (2006), equations 2.25,
        4.17 and 5.8.
    """
    x, y = columns.double(), target.double()
    places = torch.zeros(x.shape[1]) if groups is None else groups
    places = places.long()
    few = torch.randperm(len(x), generator=rng)[:_FEW]
    centre = float(y.mean())
    logs = _learned_settings(x[few], y[few] - centre, places)
    lengths = logs[2:].exp()[places]
    noise = float((2 * logs[0]).exp())
    scaled = (x / lengths).float().double()
    matrix = _kernel("matern", scaled, scaled)
    noises = noise if weights is None else noise / weights.double().clamp_min(1e-6)
    matrix.diagonal().add_(noises + _JITTER)
    coefficients = torch.cholesky_solve((y - centre)[:, None], torch.linalg.cholesky(matrix))[:, 0]
    return KernelMachine("matern", scaled.float(), coefficients, lengths.float(), bias=centre)


def _learned_settings(x: Tensor, y: Tensor, places: Tensor) -> Tensor:
    """Return the logarithms of noise over amplitude, amplitude and length scales."""
    n_scales = int(places.max()) + 1
    counts = torch.bincount(places, minlength=n_scales).double()
    start = torch.cat([torch.tensor([-1.0, 0.0]).double(), 0.5 * counts.log() + math.log(1.5)])
    logs = start.clone().requires_grad_()
    optimizer = torch.optim.Adam([logs], lr=0.1)
    eye = torch.eye(len(x), dtype=torch.float64)
    best, best_loss = start, math.inf
    for _ in range(_STEPS):
        scaled = x / logs[2:].exp()[places]
        matrix = _kernel("matern", scaled, scaled) + ((2 * logs[0]).exp() + _JITTER) * eye
        factor = torch.linalg.cholesky(matrix)
        fit = torch.cholesky_solve(y[:, None], factor)[:, 0] @ y
        # The amplitude that is best for the other settings is known in closed form; what is left
        # is the likelihood with it put in. A weak prior keeps the settings in a sane range.
        loss = 0.5 * len(y) * (fit / len(y)).log() + factor.diagonal().log().sum()
        loss = loss + 0.5 * ((logs - start) / 2.0).square().sum()
        if float(loss.detach()) < best_loss:
            best, best_loss = logs.detach().clone(), float(loss.detach())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return best


def _kernel(
    kind: str, a: Float[Tensor, "n n_columns"], b: Float[Tensor, "m n_columns"]
) -> Float[Tensor, "n m"]:
    """Return the kernel between rows that are already divided by the length scales."""
    square = (a.square().sum(1)[:, None] + b.square().sum(1)[None, :] - 2.0 * (a @ b.T)).clamp_min(
        0.0
    )
    if kind == "gaussian":
        return torch.exp(-square)
    distance = (5.0 * square + 1e-12).sqrt()
    return (1.0 + distance + distance.square() / 3.0) * torch.exp(-distance)
