"""How much each candidate counts: weights found on predictions that were made out of fold."""

import torch
from jaxtyping import Float, Int
from torch import Tensor

_ROUNDS = 30
_BAGS = 15


def loss_of(
    predictions: Float[Tensor, "*k n"], values: Float[Tensor, " n"], *, classify: bool
) -> Float[Tensor, "*k n"]:
    """Return the absolute error of values, or the log loss of probabilities in nats."""
    if not classify:
        return (predictions - values).abs()
    sure = predictions.clamp(1e-6, 1.0 - 1e-6)
    return -(values * sure.log() + (1.0 - values) * (1.0 - sure).log())


def greedy_weights(
    predictions: Float[Tensor, "k n"],
    values: Float[Tensor, " n"],
    rng: torch.Generator,
    *,
    classify: bool = False,
) -> Float[Tensor, " k"]:
    """Return weights of candidates, none negative, that add up to 1.

    In each round the candidate whose addition helps the mean most is added, repeats allowed. That
    is done for 15 random halves of the rows and the weights are averaged: a candidate that won by
    chance on some rows counts little.

    Args:
        predictions: Of every candidate, out of fold, in the unit of the target.
        values: True values.
        rng: Draws the halves.
        classify: Values are classes and predictions probabilities; log loss instead of the
            absolute error.

    Source:
        Caruana et al., Ensemble selection from libraries of models (2004), sections 2.1 and 2.3.
    """
    k, n = predictions.shape
    total = torch.zeros(k, dtype=torch.float64)
    for _ in range(_BAGS):
        rows = torch.randperm(n, generator=rng)[: max(2, n // 2)]
        total += _greedy(predictions[:, rows], values[rows], classify=classify)
    weights = total / total.sum()
    # Crumbs cost a model each and change nothing.
    weights = torch.where(weights >= 0.03, weights, 0.0)
    return weights / weights.sum()


def _greedy(predictions: Tensor, values: Tensor, *, classify: bool) -> Tensor:
    counts = torch.zeros(len(predictions), dtype=torch.float64)
    running = torch.zeros_like(values)
    best_loss = float("inf")
    best = counts
    for taken in range(_ROUNDS):
        mixed = (running + predictions) / (taken + 1)
        losses = loss_of(mixed, values, classify=classify).mean(1)
        pick = int(losses.argmin())
        counts = counts.clone()
        counts[pick] += 1
        running = running + predictions[pick]
        if float(losses[pick]) < best_loss:
            best_loss, best = float(losses[pick]), counts
    return best / best.sum()


def cross_fitted(
    predictions: Float[Tensor, "k n"],
    values: Float[Tensor, " n"],
    fold: Int[Tensor, " n"],
    rng: torch.Generator,
    *,
    classify: bool = False,
) -> Float[Tensor, " n"]:
    """Return stacked predictions whose weights never saw the row's own fold.

    Their errors are those of new rows, so intervals may be made from them.
    """
    stacked = torch.zeros_like(values)
    for number in fold.unique().tolist():
        own = fold == number
        weights = greedy_weights(predictions[:, ~own], values[~own], rng, classify=classify)
        stacked[own] = weights @ predictions[:, own]
    return stacked
