"""One turn's synthetic crystals for all runs: train, draw, look, settle, judge, filter."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from matmill.campaign.tasks import TaskResult
from matmill.crystals.batch import CrystalBatch, concatenate
from matmill.randomness import child, child_seed
from matmill.steer.flywheel.conditions import draw
from matmill.steer.flywheel.filters import UNREADABLE, Judged, sift
from matmill.steer.flywheel.fitting import FitInput
from matmill.steer.flywheel.looking import LookInput, SettleInput
from matmill.steer.flywheel.making import MakeInput, from_plain
from matmill.steer.flywheel.quality import measure
from matmill.steer.flywheel.rows import RunRows, training_table
from matmill.steer.flywheel.settings import COVERAGE, FlywheelSettings
from matmill.steer.flywheel.study import Synthesis
from matmill.steer.flywheel.tasks import Bench
from matmill.verify.validity import Limits

JUDGE = "tabular"  # of whole sets, for the report; it learns from rows that the wheel never sees
_SETTLED_AT_ONCE = 32


@dataclass(frozen=True, eq=False, kw_only=True)
class Turn:
    """One run of one predictor in one turn of the wheel, before its generator is trained.

    Attributes:
        rows: The run.
        run: Its number.
        mode: ``supervised`` or ``semi-supervised``.
        round: Number of the turn, from 1.
        predictor: Which predictor will learn.
        labels: What the generator learns, for each training row: true where that is known.
        std: The labeller's error of each training row.
        labeller: The fit that labels and judges synthetic crystals.
        judged_by: Its name.
        judge_cpu_s: What its fit cost, where no predictor of the study needed it anyway.
    """

    rows: RunRows
    run: int
    mode: str
    round: int
    predictor: str
    labels: Float[Tensor, " n_train"]
    std: Float[Tensor, " n_train"]
    labeller: FitInput
    judged_by: str
    judge_cpu_s: float = 0.0


@dataclass(frozen=True, eq=False, kw_only=True)
class Made:
    """The synthetic crystals that an arm may learn from.

    Attributes:
        crystals: Those that passed the filters.
        labels: Theirs.
        std: The labeller's error of each.
        synthesis: The whole set, for the report.
    """

    crystals: CrystalBatch
    labels: Float[Tensor, " n"]
    std: Float[Tensor, " n"]
    synthesis: Synthesis


@dataclass(frozen=True, eq=False, kw_only=True)
class _Drawn:
    """Synthetic crystals with everything that was found about them."""

    turn: Turn
    conditions: Tensor
    made: TaskResult
    crystals: CrystalBatch
    facts: dict[str, Any]
    above_hull: Tensor | None = None
    cpu_s: float = 0.0

    @property
    def readable(self) -> Int[Tensor, " n_readable"]:
        """Row numbers of the crystals that a predictor can be asked about."""
        fates = self.facts["fate"]
        return torch.tensor([i for i, fate in enumerate(fates) if fate not in UNREADABLE]).long()


def make_all(turns: Sequence[Turn], settings: FlywheelSettings, bench: Bench) -> list[Made]:
    """Return the synthetic crystals of each turn, in order.

    Turns whose generators would be equal share one; its cost is counted with the first.
    """
    inputs = [_make_input(turn, settings) for turn in turns]
    results = bench.make(inputs)
    drawn: list[_Drawn | None] = []
    looks = _look(
        [from_plain(r.result["crystals"]) if r.is_done else None for r in results],
        turns,
        settings,
        bench,
    )
    for turn, given, result, look in zip(turns, inputs, results, looks, strict=True):
        if look is None or not look.is_done:
            drawn.append(None)
            continue
        drawn.append(
            _Drawn(
                turn=turn,
                conditions=given.values,
                made=result,
                crystals=from_plain(result.result["crystals"]),
                facts=look.result,
                cpu_s=look.result["cpu_s"],
            )
        )
    if settings.filters.stability != "off":
        drawn = _settled(drawn, settings, bench)
    judged = _judged(drawn, settings, bench)
    independent = _independent(drawn, settings, bench)
    seen: set[str] = set()
    found = []
    for turn, given, result, look, one, opinion, other in zip(
        turns, inputs, results, looks, drawn, judged, independent, strict=True
    ):
        if one is None or opinion is None:
            error = result.error or (look.error if look is not None else "") or "nothing was judged"
            found.append(_nothing(turn, len(given.values), result.key, error or ""))
            continue
        is_first = result.key not in seen
        seen.add(result.key)
        found.append(_made(one, opinion, other, settings, counts_cost=is_first))
    return found


def _make_input(turn: Turn, settings: FlywheelSettings) -> MakeInput:
    rows = turn.rows
    table = rows.table.select(rows.train)
    crystals = replace(table.crystals, properties={rows.column: turn.labels})
    n = max(1, round(settings.synthetic_ratio * len(rows.train)))
    rng = child(rows.seed, "conditions", turn.round)
    return MakeInput(
        key="",
        choice=settings.generator,
        table=replace(table, crystals=crystals),
        column=rows.column,
        values=draw(turn.labels, n, settings.conditions, rng),
        seed=child_seed(rows.seed, "generator", turn.round),
    )


def _look(
    batches: Sequence[CrystalBatch | None],
    turns: Sequence[Turn],
    settings: FlywheelSettings,
    bench: Bench,
) -> list[TaskResult | None]:
    """Return the facts of each batch; None where there is no batch."""
    limits = Limits(min_distance_ratio=settings.filters.min_distance_ratio)
    present = [i for i, batch in enumerate(batches) if batch is not None]
    inputs = []
    for i in present:
        rows, batch = turns[i].rows, batches[i]
        assert batch is not None
        real = replace(rows.table.crystals.select(rows.train), properties={}, ids=())
        inputs.append(LookInput(synthetic=batch, real=real, limits=limits))
    found: list[TaskResult | None] = [None] * len(batches)
    for i, result in zip(present, bench.look(inputs), strict=True):
        found[i] = result
    return found


def _settled(
    drawn: Sequence[_Drawn | None], settings: FlywheelSettings, bench: Bench
) -> list[_Drawn | None]:
    """Add energies above the hull; relaxed crystals take the place of the drawn ones."""
    stability = settings.filters.stability
    jobs: list[tuple[int, Tensor]] = []
    for i, one in enumerate(drawn):
        if one is not None:
            fates = one.facts["fate"]
            sound = torch.tensor([k for k, fate in enumerate(fates) if fate is None]).long()
            jobs += [(i, part) for part in sound.split(_SETTLED_AT_ONCE) if len(part)]
    inputs = []
    for i, part in jobs:
        one = drawn[i]
        assert one is not None
        inputs.append(SettleInput(crystals=one.crystals.select(part), stability=stability))
    energies = [
        None if one is None else torch.full((len(one.crystals),), torch.nan).double()
        for one in drawn
    ]
    cells: list[dict[int, CrystalBatch]] = [{} for _ in drawn]
    cpu = [0.0] * len(drawn)
    for (i, part), result in zip(jobs, bench.settle(inputs), strict=True):
        known = energies[i]
        if not result.is_done or known is None:
            continue
        known[part] = torch.tensor(result.result["above_hull_ev_per_atom"], dtype=torch.float64)
        cpu[i] += result.result["cpu_s"]
        moved = from_plain(result.result["crystals"])
        cells[i].update({row: moved.select([k]) for k, row in enumerate(part.tolist())})
    changed = [
        None if one is None else replace(one, above_hull=energies[i], cpu_s=one.cpu_s + cpu[i])
        for i, one in enumerate(drawn)
    ]
    if stability != "relaxed":
        return changed
    batches = [
        None
        if one is None
        else concatenate(
            [cells[i].get(k, one.crystals.select([k])) for k in range(len(one.crystals))]
        )
        for i, one in enumerate(changed)
    ]
    turns = [one.turn if one is not None else None for one in changed]
    looks = _look(batches, turns, settings, bench)  # pyright: ignore[reportArgumentType]
    return [
        None
        if one is None or batch is None or look is None or not look.is_done
        else replace(one, crystals=batch, facts=look.result)
        for one, batch, look in zip(changed, batches, looks, strict=True)
    ]


def _judged(
    drawn: Sequence[_Drawn | None], settings: FlywheelSettings, bench: Bench
) -> list[Judged | None]:
    """Return what each turn's labeller says; intervals that hold nothing where it cannot say."""
    coverage = settings.sieve.agreement or COVERAGE
    fits = [replace(one.turn.labeller, coverage=coverage) if one else None for one in drawn]
    return [
        None if result is None else Judged.of(result) for result in _opinions(drawn, fits, bench)
    ]


def _independent(
    drawn: Sequence[_Drawn | None], settings: FlywheelSettings, bench: Bench
) -> list[tuple[Tensor, float] | None]:
    """Return what a predictor says that learned from validation and test rows, and its error.

    The wheel never learns from these rows, so this predictor has nothing in common with it.
    """
    fits: list[FitInput | None] = []
    for one in drawn:
        if one is None:
            fits.append(None)
            continue
        rows = one.turn.rows
        fits.append(
            FitInput(
                key="",
                choice=settings.predictor(JUDGE),
                table=training_table(rows, torch.cat([rows.val, rows.test]), with_val=False),
                asked=one.crystals,
                column=rows.column,
                seed=child_seed(rows.seed, "judge"),
            )
        )
    present = [(i, f) for i, f in enumerate(fits) if f is not None]
    own = {}
    asked = []
    for i, fit in present:
        one = drawn[i]
        assert one is not None
        rows = one.turn.rows
        real = replace(rows.table.crystals.select(rows.train), properties={}, ids=())
        asked.append(replace(fit, asked=real))
    for (i, _), result in zip(present, bench.fit(asked), strict=True):
        one = drawn[i]
        assert one is not None
        if result.is_done:
            rows = one.turn.rows
            said = torch.tensor(result.result["mean"], dtype=torch.float64)
            own[i] = float((said - rows.values[rows.train]).abs().mean())
    opinions = _opinions(drawn, fits, bench)
    return [
        None
        if opinion is None or i not in own
        else (torch.tensor(opinion["mean"], dtype=torch.float64), own[i])
        for i, opinion in enumerate(opinions)
    ]


def _opinions(
    drawn: Sequence[_Drawn | None], fits: Sequence[FitInput | None], bench: Bench
) -> list[dict[str, Any] | None]:
    """Return what fitted predictors say about all crystals of each set."""
    inputs, places = [], []
    found: list[dict[str, Any] | None] = [None] * len(drawn)
    for i, (one, fit) in enumerate(zip(drawn, fits, strict=True)):
        if one is None or fit is None:
            continue
        if not len(one.readable):
            found[i] = _scattered(one, None)
            continue
        asked = one.crystals.select(one.readable)
        inputs.append(replace(fit, asked=asked))
        places.append(i)
    for i, result in zip(places, bench.fit(inputs), strict=True):
        one = drawn[i]
        if one is not None and result.is_done:
            found[i] = _scattered(one, result.result)
    return found


def _scattered(one: _Drawn, said: dict[str, Any] | None) -> dict[str, Any]:
    """Return an opinion for all crystals: of the unreadable ones none, in an empty interval."""
    empty = {"mean": torch.nan, "std": torch.inf, "low": torch.inf, "high": -torch.inf}
    filled: dict[str, Any] = {}
    for name, value in empty.items():
        values = torch.full((len(one.crystals),), value, dtype=torch.float64)
        if said is not None:
            values[one.readable] = torch.tensor(said[name], dtype=torch.float64)
        filled[name] = values.tolist()
    return filled


def _made(
    one: _Drawn,
    judged: Judged,
    independent: tuple[Tensor, float] | None,
    settings: FlywheelSettings,
    *,
    counts_cost: bool,
) -> Made:
    turn = one.turn
    left = sift(
        one.crystals,
        one.conditions,
        one.facts,
        turn.rows,
        settings.sieve,
        judged=judged,
        above_hull=one.above_hull,
    )
    said, error = independent or (None, float("nan"))
    labels = judged.mean if settings.label == "predictor" else one.conditions
    quality = measure(
        one.crystals, one.conditions, one.facts, turn.rows, judged=said, judge_error=error
    )
    synthesis = Synthesis(
        mode=turn.mode,
        predictor=turn.predictor,
        judged_by=turn.judged_by,
        content=one.made.key,
        round=turn.round,
        run=turn.run,
        n_asked=len(one.crystals),
        n_kept=len(left.kept),
        dropped=left.dropped,
        quality=quality,
        train_cpu_s=one.made.result["train_cpu_s"] if counts_cost else 0.0,
        sample_cpu_s=one.made.result["sample_cpu_s"] if counts_cost else 0.0,
        other_cpu_s=one.cpu_s + turn.judge_cpu_s if counts_cost else 0.0,
    )
    return Made(
        crystals=one.crystals.select(left.kept),
        labels=labels[left.kept],
        std=judged.std[left.kept],
        synthesis=synthesis,
    )


def _nothing(turn: Turn, n_asked: int, content: str, error: str) -> Made:
    synthesis = Synthesis(
        mode=turn.mode,
        predictor=turn.predictor,
        judged_by=turn.judged_by,
        content=content,
        round=turn.round,
        run=turn.run,
        n_asked=n_asked,
        error=error,
    )
    empty = torch.zeros(0, dtype=torch.float64)
    return Made(crystals=CrystalBatch.empty(), labels=empty, std=empty, synthesis=synthesis)
