"""How a tabular predictor is made: look at scales, try candidates, weigh them, train the chosen."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from pydantic import ValidationError
from torch import Tensor

from matmill import __version__
from matmill.crystals.compositions import CompositionBatch
from matmill.data.compositions import Table, items
from matmill.data.folds import formula_folds
from matmill.errors import InputError, UnknownNameError
from matmill.predict.calibrate import quantile_table, residual_scores, std_factor
from matmill.predict.chemistry import families
from matmill.predict.descriptors.blocks import FROM_FORMULA
from matmill.predict.domain import Domain
from matmill.predict.imbalance.scores import Goal, best_threshold, class_scores
from matmill.predict.intervals import CalibrationRows
from matmill.predict.scores import evaluate_predictor
from matmill.predict.tabular import rows as labels
from matmill.predict.tabular.candidate import Candidate, Fitted, Rows, fit_candidate
from matmill.predict.tabular.columns import LEARNED_BLOCKS, prepare
from matmill.predict.tabular.facts import facts_of, is_layered
from matmill.predict.tabular.inner import InnerFolds, Trial
from matmill.predict.tabular.learners import LEARNERS, seed_of
from matmill.predict.tabular.predictor import KIND, TabularPredictor, class_std
from matmill.predict.tabular.settings import FAST, FULL, TabularSettings
from matmill.predict.tabular.spread import ErrorModel, fit_error_model, members_apart
from matmill.predict.tabular.stack import cross_fitted, greedy_weights
from matmill.predict.tabular.targets import FORMS, candidates
from matmill.progress import Event, OnEvent
from matmill.randomness import child

_SCOUT = "scout"  # the learner that takes the first look at scales
_KERNEL_SCOUT = "support-vectors"  # and the one at learned features
_NEAR_COLUMNS = 64
_MANY = 2000  # rows, above which only the best scale is tried: a second one hardly helps there


@dataclass(frozen=True, eq=False)
class _Stacked:
    """The candidates together, out of fold.

    Attributes:
        trials: All candidates, best first.
        weights: Of each, from all rows.
        predictions: Stacked, with weights that never saw the row's fold.
        apart: How far the candidates are apart there.
    """

    trials: list[Trial]
    weights: Float[Tensor, " k"]
    predictions: Float[Tensor, " n"]
    apart: Float[Tensor, " n"]


def train_tabular(
    table: Table,
    target: str,
    *,
    folder: Path,
    seed: int,
    on_event: OnEvent,
    settings: dict[str, Any],
) -> TabularPredictor:
    """Return a predictor trained on a table; see `TabularPredictor.fit`."""
    chosen = _settings(settings)
    learners = _known_learners(chosen)
    found = labels.labelled(table, target, seed)
    batch = items(found.table.select(found.train))
    blocks = labels.choose_blocks(batch, wanted=chosen.blocks, preset=chosen.preset)
    kept = chosen.descriptors or folder / "descriptors"
    features = labels.features_of(batch, blocks, folder=kept, on_event=on_event)
    values = found.table.column(found.column).double()[found.train]
    rows = Rows(features=features, facts=facts_of(batch), values=values, weights=found.weights)
    fold = formula_folds(
        tuple(batch.formula), values, chosen.n_folds, classify=found.is_classification, seed=seed
    )
    judged = found.judged
    inner = InnerFolds(rows, fold, seed=seed, folder=folder / "inner", judged=judged)
    scales = _best_scales(
        inner, blocks, chosen, found.is_classification, is_layered(batch), on_event
    )
    stacked = _stacked(inner, _candidates(inner, blocks, scales, learners), seed, on_event)
    members, weights = _members(stacked, rows, seed, on_event)
    errors, calibration, scores = _calibrated(
        stacked, rows.select(judged), inner.fold, members, seed
    )
    amounts = (batch if isinstance(batch, CompositionBatch) else CompositionBatch.of(batch)).amounts
    plain = tuple(block for block in blocks if block not in LEARNED_BLOCKS) or blocks
    nearby = prepare(features, values, blocks=plain, view="ranked", most=_NEAR_COLUMNS)
    near = nearby.apply(features).double()
    domain = Domain.fit(near, amounts, seed=seed)
    used = tuple(b for b in blocks if any(b in m.candidate.blocks for m in members) or b in plain)
    card: dict[str, Any] = {
        "kind": KIND,
        "matmill_version": __version__,
        "columns": [found.column],
        "is_classification": found.is_classification,
        "reads": "composition" if set(used) <= FROM_FORMULA else "structure",
        "blocks": list(used),
        "settings": chosen.model_dump(mode="json", exclude={"descriptors"}),
        "seed": seed,
        "data": labels.data_card(found),
        "elements_z": torch.nonzero((amounts > 0).any(0)).flatten().tolist(),
        "weights": weights,
        "inner": _told(stacked, found.is_classification),
        "calibration": calibration,
        "bounds": _bounds(values, found.is_classification),
    }
    if found.is_classification:
        card |= _threshold(stacked.predictions, inner.values, chosen.threshold_for)
    predictor = TabularPredictor(
        column=found.column,
        members=members,
        errors=errors,
        domain=domain,
        nearby=nearby,
        calibration_rows=CalibrationRows(
            features=domain.project(near[judged]),
            families=families(amounts[judged]),
            scores={found.column: scores.float()},
        ),
        card=card,
    )
    card["scores"] = {}
    if len(found.test) > 1:
        test = found.table.select(found.test)
        card["scores"] = {found.column: evaluate_predictor(predictor, test)}
    return predictor


def _settings(settings: dict[str, Any]) -> TabularSettings:
    try:
        return TabularSettings.model_validate(settings)
    except ValidationError as error:
        wrong = "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors())
        known = ", ".join(TabularSettings.model_fields)
        raise InputError(f"These settings do not work: {wrong}. Known: {known}.") from error


def _known_learners(settings: TabularSettings) -> tuple[str, ...]:
    learners = settings.learners or (FAST if settings.preset == "fast" else FULL)
    for name in learners:
        if name not in LEARNERS:
            raise UnknownNameError("learner", name, list(LEARNERS))
    for name in settings.scales or ():
        if name not in FORMS:
            raise UnknownNameError("scale of the target", name, list(FORMS))
    return learners


def _best_scales(
    inner: InnerFolds,
    blocks: tuple[str, ...],
    settings: TabularSettings,
    is_classification: bool,
    layered: bool,
    on_event: OnEvent,
) -> list[str]:
    """Return the scales that go on, best first, after a look with few quick trees."""
    if is_classification:
        return ["class"]
    rows = inner.rows
    names = list(settings.scales or ()) or candidates(rows.values, rows.facts, is_layered=layered)
    if len(names) <= 1:
        return names
    plain = _sets(blocks)[0]
    losses = {}
    for place, name in enumerate(names):
        on_event(Event(stage="look at scales", done=place, total=len(names), message=name))
        losses[name] = inner.trial(Candidate(blocks=plain, scale=name, learner=_SCOUT)).loss
    return sorted(names, key=losses.__getitem__)[: settings.n_scales]


def _sets(blocks: tuple[str, ...]) -> list[tuple[str, ...]]:
    """Return the sets of blocks that are tried: without learned features, and all."""
    plain = tuple(block for block in blocks if block not in LEARNED_BLOCKS)
    return [plain or blocks, *([blocks] if plain and plain != blocks else [])]


def _candidates(
    inner: InnerFolds, blocks: tuple[str, ...], scales: list[str], learners: tuple[str, ...]
) -> list[Candidate]:
    """Return what is tried.

    Whether learned features help is found out with quick trees for trees, and with the cheapest
    kernel for kernels; the dearer learners see the better set only. Networks get all columns: they
    read the most relevant ones, wherever these come from.
    """
    sets = _sets(blocks)
    best: dict[str, tuple[str, ...]] = {"ranked": blocks}
    for view, scout in (("plain", _SCOUT), ("standard", _KERNEL_SCOUT)):
        tried = [Candidate(blocks=chosen, scale=scales[0], learner=scout) for chosen in sets]
        is_dear = len(inner.rows) > LEARNERS[scout].most_rows
        if len(sets) > 1 and not is_dear and any(LEARNERS[name].view == view for name in learners):
            tried.sort(key=lambda candidate: inner.trial(candidate).loss)
        best[view] = tried[0].blocks
    found = []
    for name in learners:
        learner = LEARNERS[name]
        if len(inner.rows) > learner.most_rows:
            continue
        mine = sets if name == _KERNEL_SCOUT else [best[learner.view]]
        n_scales = learner.most_scales if len(inner.rows) <= _MANY else 1
        for place, scale in enumerate(scales[:n_scales]):
            found += [
                Candidate(blocks=chosen, scale=scale, learner=name)
                for chosen in (mine if place == 0 else [best[learner.view]])
            ]
    return found


def _threshold(chance: Tensor, classes: Tensor, goal: Goal) -> dict[str, Any]:
    """Return the threshold of unseen rows, what it was tuned for and what it reaches there."""
    threshold = best_threshold(classes, chance, goal=goal)
    reached = class_scores(classes, chance, threshold)
    return {
        "threshold": threshold,
        "threshold_for": goal,
        "threshold_reaches": reached.f1 if goal == "f1" else reached.balanced_accuracy,
    }


def _stacked(inner: InnerFolds, tried: list[Candidate], seed: int, on_event: OnEvent) -> _Stacked:
    classify = tried[0].scale == "class"
    trials = []
    for place, candidate in enumerate(tried):
        on_event(Event(stage="inner folds", done=place, total=len(tried), message=candidate.name))
        trials.append(inner.trial(candidate))
    on_event(Event(stage="inner folds", done=len(tried), total=len(tried)))
    trials.sort(key=lambda trial: trial.loss)
    predictions = torch.stack([trial.predictions for trial in trials])
    values, fold = inner.values, inner.fold
    weights = greedy_weights(predictions, values, child(seed, "stack"), classify=classify)
    return _Stacked(
        trials,
        weights,
        cross_fitted(predictions, values, fold, child(seed, "stack folds"), classify=classify),
        members_apart(predictions, weights),
    )


def _members(
    stacked: _Stacked, rows: Rows, seed: int, on_event: OnEvent
) -> tuple[tuple[Fitted, ...], list[float]]:
    """Return the candidates that count, trained on all rows, and their weights."""
    members, weights = [], []
    counted = [(t, w) for t, w in zip(stacked.trials, stacked.weights.tolist(), strict=True) if w]
    prepared: dict[tuple[Any, ...], Any] = {}
    for place, (trial, weight) in enumerate(counted):
        on_event(Event(stage="train", done=place, total=len(counted), message=trial.candidate.name))
        fitted = fit_candidate(
            trial.candidate,
            rows,
            trial.variants,
            seed=seed_of(seed, trial.candidate.name, "final"),
            is_final=True,
            prepared=prepared,
        )
        members.append(fitted.with_odds(trial.slope, trial.offset))
        weights.append(weight)
    on_event(Event(stage="train", done=len(counted), total=len(counted)))
    return tuple(members), weights


def _calibrated(
    stacked: _Stacked, rows: Rows, fold: Tensor, members: tuple[Fitted, ...], seed: int
) -> tuple[ErrorModel | None, dict[str, Any], Float[Tensor, " n"]]:
    """Return the model of errors, what the card tells of the calibration, and the scores."""
    error = (stacked.predictions - rows.values).abs()
    errors, factor = None, 1.0
    if members[0].scale is None:
        std = class_std(stacked.predictions)
    else:
        used = tuple(dict.fromkeys(b for m in members for b in m.candidate.blocks))
        errors, std = fit_error_model(
            rows.features,
            stacked.predictions,
            stacked.apart,
            error,
            fold,
            blocks=used,
            seed=seed,
        )
        factor = max(std_factor(error, std), 1e-12)
    scores = residual_scores(error, std * factor)
    card = {
        "n_calibration": len(scores),
        "std_factor": factor,
        "conformal_factors": quantile_table(scores),
    }
    return errors, card, scores


def _told(stacked: _Stacked, is_classification: bool) -> dict[str, Any]:
    """Return why these candidates were chosen, with the inner error of every one."""
    loss = "log loss" if is_classification else "mean absolute error"
    best = stacked.trials[0]
    return {
        "measure": loss,
        "why": (
            f"{best.candidate.name} has the smallest {loss} on inner folds by formula "
            f"({best.loss:.4g}); weights were found on the same out-of-fold predictions."
        ),
        "candidates": [
            {"name": trial.candidate.name, "loss": trial.loss, "weight": weight}
            for trial, weight in zip(stacked.trials, stacked.weights.tolist(), strict=True)
        ],
    }


def _bounds(
    values: Float[Tensor, " n"], is_classification: bool
) -> tuple[float | None, float | None]:
    """Return where intervals end: a property that was never negative has no negative values."""
    if is_classification:
        return 0.0, 1.0
    low = 0.0 if float(values.min()) >= 0.0 else None
    high = 0.0 if float(values.max()) <= 0.0 else None
    return low, high
