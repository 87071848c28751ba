"""How the crystals asked about differ from those of calibration: density ratios."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from matmill.predict.calibrate import rank_auc
from matmill.randomness import child

_PENALTIES = (1.0, 0.3, 0.1, 0.03, 0.01, 0.001)
_FOLDS = 5
_MOST_ROWS = 4000  # of each side that a classifier is fitted to
_FARTHEST = 6.0  # standard deviations; a ratio must not be extrapolated beyond
_STEPS = 12


@dataclass(frozen=True, kw_only=True, eq=False)
class Shift:
    """Density of asked crystals over that of calibration crystals.

    Attributes:
        known: At each calibration crystal, ``(n,)`` float64, mean about 1.
        asked: At each asked crystal, ``(m,)``.
        separability: How well a classifier tells the two apart: area under its ROC curve on
            crystals it was not fitted to; 0.5 is not at all, 1 perfectly.
    """

    known: Float[Tensor, " n"]
    asked: Float[Tensor, " m"]
    separability: float


def density_ratio(
    known: Float[Tensor, "n n_axes"], asked: Float[Tensor, "m n_axes"], *, seed: int = 0
) -> Shift:
    """Return the density ratio of two sets of crystals, from a classifier that tells them apart.

    A logistic regression on the features and their squares; its penalty is the one with the best
    out-of-fold likelihood, and every crystal gets its ratio from a fit that did not see it. Sets
    that cannot be told apart thus get ratios near 1.

    Args:
        known: Projected features of the calibration crystals, about unit variance.
        asked: The same of the crystals asked about.
        seed: Of the folds.

    Source:
        Tibshirani et al. (2019), section 2.3; Sugiyama et al., Density Ratio Estimation (2012),
        chapter 4.
    """
    n, m = len(known), len(asked)
    if min(n, m) < 2:
        ones = torch.ones(n + m, dtype=torch.float64)
        return Shift(known=ones[:n], asked=ones[n:], separability=0.5)
    rows = torch.cat([known, asked]).double().cpu().clamp(-_FARTHEST, _FARTHEST)
    design = torch.cat([rows, (rows.square() - 1) / 3], dim=1)
    is_asked = torch.arange(n + m) >= n
    rng = child(seed, "density ratio")
    folds = torch.cat([torch.randperm(size, generator=rng) % _FOLDS for size in (n, m)])
    # Where not all rows are taken, they are drawn: tables are often sorted by kind.
    drawn = torch.randperm(n + m, generator=rng)
    logits = torch.zeros(len(_PENALTIES), n + m, dtype=torch.float64)
    for fold in range(_FOLDS):
        here = folds == fold
        if not bool((is_asked & ~here).any()) or not bool((~is_asked & ~here).any()):
            continue
        taken = torch.cat(
            [
                drawn[(~here & side)[drawn]][:_MOST_ROWS].sort().values
                for side in (~is_asked, is_asked)
            ]
        )
        weights = _fits(design[taken], is_asked[taken])
        found = design[here] @ weights[:, 1:].T + weights[:, 0]
        # The mean ratio over calibration crystals is 1 by definition; noise must not change it.
        own = design[taken[~is_asked[taken]]] @ weights[:, 1:].T + weights[:, 0]
        logits[:, here] = (found - own.logsumexp(0) + torch.log(torch.tensor(len(own)))).T
    loss = torch.nn.functional.softplus(torch.where(is_asked, -logits, logits))
    best = int((loss[:, :n].mean(1) + loss[:, n:].mean(1)).argmin())
    ratio = logits[best].clamp(-30.0, 30.0).exp()
    return Shift(
        known=ratio[:n],
        asked=ratio[n:],
        separability=rank_auc(logits[best, n:], logits[best, :n]),
    )


def _fits(
    design: Float[Tensor, "n n_columns"], is_asked: Tensor
) -> Float[Tensor, "n_penalties n_weights"]:
    """Return (intercept, weights) of the regression for each penalty, by Newton steps.

    Both sides weigh the same, so that the odds are the density ratio. Each penalty starts from
    the solution of the one before.
    """
    n_asked = int(is_asked.sum())
    shares = torch.where(is_asked, 0.5 / n_asked, 0.5 / (len(design) - n_asked)).double()
    columns = torch.cat([torch.ones(len(design), 1).double(), design], dim=1)
    ridge = torch.ones(columns.shape[1], dtype=torch.float64)
    ridge[0] = 1e-9  # the intercept is free
    weights = torch.zeros(columns.shape[1], dtype=torch.float64)
    target = is_asked.double()
    found = []
    for penalty in _PENALTIES:
        for _ in range(_STEPS):
            chance = torch.sigmoid(columns @ weights)
            slope = columns.T @ (shares * (chance - target)) + penalty * ridge * weights
            curvature = (shares * chance * (1 - chance)).clamp_min(1e-12)
            bend = columns.T @ (columns * curvature[:, None]) + torch.diag(penalty * ridge)
            step = torch.linalg.solve(bend, slope)
            # Far from the solution a whole Newton step may overshoot.
            step = step * min(1.0, 5.0 / float(step.abs().max().clamp_min(1e-12)))
            weights = weights - step
            if float(step.abs().max()) < 1e-6:
                break
        found.append(weights)
    return torch.stack(found)
