"""Inner cross-validation: how good each candidate is, told by training rows alone."""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from matmill.errors import DataError
from matmill.predict.tabular.candidate import (
    Candidate,
    Rows,
    fit_candidate,
    median,
    variants_of,
)
from matmill.predict.tabular.columns import Preparation
from matmill.predict.tabular.learners import LEARNERS, Variant, seed_of
from matmill.predict.tabular.stack import loss_of
from matmill.training import checkpoint

_FORMAT = 1
_NEWTON_STEPS = 30


@dataclass(frozen=True, eq=False)
class Trial:
    """A candidate after inner cross-validation.

    Attributes:
        candidate: What was tried.
        variants: Settings that are kept, best first.
        predictions: Of the judged rows, out of fold, in the unit of the target or as
            probabilities, ``(n,)``. Which variants make them was decided without the row's fold.
        loss: Mean absolute error or log loss of these.
        slope: For classes: factor on the score before it becomes a probability.
        offset: For classes: added to it.
    """

    candidate: Candidate
    variants: tuple[Variant, ...]
    predictions: Float[Tensor, " n"]
    loss: float
    slope: float = 1.0
    offset: float = 0.0


class InnerFolds:
    """Folds of the training rows, with results kept in a folder so that a killed fit goes on.

    Args:
        rows: All training rows.
        fold: Fold of each row; rows of one formula share theirs.
        seed: Of everything random.
        folder: Where out-of-fold predictions are kept.
        judged: Rows that tell how good a candidate is, ``(n,)``; the others only teach. All by
            default.

    Attributes:
        judged: Row numbers of the judged rows.
        values: Their values.
        fold: Their folds.
    """

    def __init__(
        self,
        rows: Rows,
        fold: Int[Tensor, " n"],
        *,
        seed: int,
        folder: Path,
        judged: Bool[Tensor, " n"] | None = None,
    ) -> None:
        self.rows, self.seed, self.folder = rows, seed, folder
        every = torch.arange(len(rows))
        self.judged = every if judged is None else every[judged]
        self.values, self.fold, self._fold = rows.values[self.judged], fold[self.judged], fold
        self._prepared: dict[int, dict[tuple[object, ...], Preparation]] = {}
        self._content = _content(rows, fold, seed)

    def trial(self, candidate: Candidate) -> Trial:
        """Return how a candidate does; from the folder when it was tried before."""
        classify = candidate.scale == "class"
        variants = variants_of(candidate, self.rows, self.seed)
        each = self._out_of_fold(candidate, variants)[:, self.judged]
        slope, offset = 1.0, 0.0
        values = self.values
        keep = LEARNERS[candidate.learner].keep
        predictions = torch.zeros_like(values)
        for number in self.fold.unique().tolist():
            own = self.fold == number
            best = _best(each[:, ~own], values[~own], keep, classify=classify)
            predictions[own] = median(each[best][:, own])
            if classify:
                line = fit_odds(median(each[best][:, ~own]), values[~own])
                predictions[own] = torch.sigmoid(line[0] * predictions[own] + line[1])
        chosen = _best(each, values, keep, classify=classify)
        if classify:
            slope, offset = fit_odds(median(each[chosen]), values)
        return Trial(
            candidate=candidate,
            variants=tuple(variants[i] for i in chosen),
            predictions=predictions,
            loss=float(loss_of(predictions, values, classify=classify).mean()),
            slope=slope,
            offset=offset,
        )

    def _out_of_fold(
        self, candidate: Candidate, variants: list[Variant]
    ) -> Float[Tensor, "n_variants n"]:
        """Return what each variant says about rows that it was not trained on."""
        key = hashlib.sha256(f"{self._content}|{candidate}|{variants}".encode()).hexdigest()[:24]
        path = self.folder / f"inner-{key}.safetensors"
        if path.exists():
            try:
                return checkpoint.load(path, recover=True)[0]["each"]
            except (DataError, KeyError):
                path.unlink(missing_ok=True)  # damaged by a crash: it is made again
        each = torch.zeros(len(variants), len(self.rows), dtype=torch.float64)
        for number in self._fold.unique().tolist():
            own = self._fold == number
            fitted = fit_candidate(
                candidate,
                self.rows.select(~own),
                variants,
                seed=seed_of(self.seed, candidate.name, number),
                is_final=False,
                prepared=self._prepared.setdefault(number, {}),
            )
            asked = self.rows.select(own)
            each[:, own] = fitted.each(asked.features, asked.facts)
        checkpoint.save(path, {"each": each}, {"candidate": candidate.name})
        return each


def fit_odds(scores: Float[Tensor, " n"], classes: Float[Tensor, " n"]) -> tuple[float, float]:
    """Return slope and offset of the line from scores to log odds, by maximum likelihood.

    Source:
        Platt, Probabilistic outputs for support vector machines (1999), with its soft targets.
    """
    n_one = float(classes.sum())
    n_zero = len(classes) - n_one
    soft = torch.where(classes > 0.5, (n_one + 1) / (n_one + 2), 1 / (n_zero + 2))
    scale = max(float(scores.abs().mean()), 1e-12)
    matrix = torch.stack([scores / scale, torch.ones_like(scores)], dim=1)
    line = torch.tensor([1.0, 0.0], dtype=torch.float64)
    for _ in range(_NEWTON_STEPS):
        chance = torch.sigmoid(matrix @ line)
        slope = matrix.T @ (chance - soft)
        bend = matrix.T @ (matrix * (chance * (1 - chance))[:, None])
        step = torch.linalg.solve(bend + 1e-6 * len(soft) * torch.eye(2).double(), slope)
        line = line - step.clamp(-2.0, 2.0)
    # A score that grows with the odds must not be turned round by chance.
    return max(float(line[0]), 0.0) / scale, float(line[1])


def _best(
    each: Float[Tensor, "n_variants n"], values: Tensor, keep: int, *, classify: bool
) -> list[int]:
    """Return the best variants, best first."""
    if len(each) <= 1:
        return [0]
    if classify:
        lines = [fit_odds(scores, values) for scores in each]
        each = torch.stack(
            [torch.sigmoid(a * s + b) for (a, b), s in zip(lines, each, strict=True)]
        )
    losses = loss_of(each, values, classify=classify).mean(1)
    return losses.argsort()[:keep].tolist()


def _content(rows: Rows, fold: Tensor, seed: int) -> str:
    digest = hashlib.sha256(json.dumps([_FORMAT, seed, list(rows.features.names)]).encode())
    weights = () if rows.weights is None else (rows.weights,)
    for values in (rows.features.values, rows.values, fold, *rows.facts.values(), *weights):
        digest.update(values.contiguous().numpy().tobytes())
    return digest.hexdigest()
