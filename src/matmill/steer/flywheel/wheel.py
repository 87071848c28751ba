"""`Wheel`: synthetic crystals that teach the predictor which labels the next ones.

All runs go through the same steps side by side, so that many workers have something to do:
fit on real rows, label, train generators, draw, look, filter, fit the arms. Every step is a list
of content-keyed tasks; a killed study continues when it is run again, and studies that differ in
one option share everything before it.

Source:
    MatWheel: Addressing Data Scarcity in Materials Science Through Synthetic Data (2025).
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from matmill.campaign.tasks import TaskBoard, TaskResult
from matmill.campaign.workers import LocalWorkers, Workers
from matmill.data.table import LabelledCrystals
from matmill.progress import OnEvent, ignore
from matmill.steer.flywheel.arms import arm_fit, arms_of, asked_of, base_fit, n_added
from matmill.steer.flywheel.fitting import FitInput
from matmill.steer.flywheel.rows import RunRows, prepared, run_rows
from matmill.steer.flywheel.settings import OWN, FlywheelSettings, Mode
from matmill.steer.flywheel.study import (
    BOTH,
    ENSEMBLE,
    MEDIAN,
    REAL,
    SYNTHETIC,
    ArmScore,
    Study,
    Synthesis,
)
from matmill.steer.flywheel.synthesis import Made, Turn, make_all
from matmill.steer.flywheel.tasks import TASK_SECONDS, Bench


@dataclass(frozen=True, eq=False)
class _Guess:
    """A fit and what it says about all rows."""

    given: FitInput
    result: TaskResult


class Wheel:
    """A study of the flywheel on one table of labels.

    Args:
        labels: Crystals with the target among their properties.
        settings: What to do; see `FlywheelSettings`.
        board: Where results are kept by content.
        folder: Where trained models are kept by content.
        workers: Where tasks run; one local process a core when None, stopped at the end.
        on_event: Told about progress.
    """

    def __init__(
        self,
        labels: LabelledCrystals,
        settings: FlywheelSettings,
        *,
        board: TaskBoard,
        folder: Path,
        workers: Workers | None = None,
        on_event: OnEvent = ignore,
    ) -> None:
        self.settings = settings
        self.table = prepared(labels, settings.target)
        self._own_workers = workers is None
        self._bench = Bench(
            board=board,
            workers=workers or LocalWorkers(timeout_s=TASK_SECONDS),
            folder=Path(folder),
            on_event=on_event,
        )

    def run(self) -> Study:
        """Run the study, or what is left of it, and return what it found."""
        scores: list[ArmScore] = []
        syntheses: list[Synthesis] = []
        try:
            for mode in self.settings.modes:
                found, made = self._mode(mode)
                scores += found
                syntheses += made
        finally:
            if self._own_workers:
                self._bench.workers.close()
        return Study(
            settings=self.settings,
            column=self.table.target or "",
            n_rows=len(self.table),
            scores=tuple(scores),
            syntheses=tuple(syntheses),
        )

    def _mode(self, mode: Mode) -> tuple[list[ArmScore], list[Synthesis]]:
        runs = [
            run_rows(self.table, self.settings, number, mode)
            for number in range(self.settings.n_runs)
        ]
        scores = [_median(rows, number, mode) for number, rows in enumerate(runs)]
        base, guesses = self._base(runs, mode)
        scores += base
        if self.settings.controls:
            scores += self._ensembles(runs, mode)
        syntheses: list[Synthesis] = []
        n_rounds = self.settings.rounds if mode == "semi-supervised" else 1
        for turn_number in range(1, n_rounds + 1):
            turns = self._turns(runs, guesses, mode, turn_number)
            made = make_all(turns, self.settings, self._bench)
            syntheses += [each.synthesis for each in made]
            found, more = self._arms(turns, made)
            guesses = {**guesses, **more}
            scores += found
        return scores, syntheses

    def _base(
        self, runs: Sequence[RunRows], mode: Mode
    ) -> tuple[list[ArmScore], dict[tuple[int, str], _Guess]]:
        """Fit every predictor, and the labeller, on real rows; ask them about all rows."""
        named = [] if self.settings.labeller == OWN else [self.settings.labeller]
        wanted = [*self.settings.predictors, *named]
        places = [(number, name) for number in range(len(runs)) for name in dict.fromkeys(wanted)]
        inputs = [base_fit(runs[number], name, self.settings) for number, name in places]
        scores, guesses = [], {}
        for (number, name), given, result in zip(
            places, inputs, self._bench.fit(inputs), strict=True
        ):
            guesses[number, name] = _Guess(given, result)
            if name in self.settings.predictors:
                scores.append(
                    _score(runs[number], result, mode=mode, predictor=name, arm=REAL, run=number)
                )
        return scores, guesses

    def _ensembles(self, runs: Sequence[RunRows], mode: Mode) -> list[ArmScore]:
        """Fit ensembles on real rows alone."""
        places = [(n, name) for n in range(len(runs)) for name in self.settings.predictors]
        inputs = [
            replace(
                base_fit(runs[n], name, self.settings),
                asked=asked_of(runs[n].table, runs[n].test),
                n_fits=self.settings.control_members,
            )
            for n, name in places
        ]
        results = self._bench.fit(inputs)
        return [
            _score(runs[n], result, mode=mode, predictor=name, arm=ENSEMBLE, run=n, is_test=True)
            for (n, name), result in zip(places, results, strict=True)
        ]

    def _turns(
        self,
        runs: Sequence[RunRows],
        guesses: dict[tuple[int, str], _Guess],
        mode: Mode,
        turn_number: int,
    ) -> list[Turn]:
        """Return what each predictor of each run hands to its generator.

        A run whose labeller failed has no turn.
        """
        turns = []
        for number, rows in enumerate(runs):
            for name in self.settings.predictors:
                by = name if self.settings.labeller == OWN else self.settings.labeller
                guess = guesses[number, by]
                if not guess.result.is_done:
                    continue
                said = {
                    part: torch.tensor(guess.result.result[part], dtype=torch.float64)[rows.train]
                    for part in ("mean", "std")
                }
                labels = torch.where(rows.is_labelled, rows.values[rows.train], said["mean"])
                turns.append(
                    Turn(
                        rows=rows,
                        run=number,
                        mode=mode,
                        round=turn_number,
                        predictor=name,
                        labels=labels,
                        std=said["std"],
                        labeller=guess.given,
                        judged_by=by,
                        judge_cpu_s=0.0
                        if by in self.settings.predictors or turn_number > 1
                        else guess.result.result["cpu_s"],
                    )
                )
        return turns

    def _arms(
        self, turns: Sequence[Turn], made: Sequence[Made]
    ) -> tuple[list[ArmScore], dict[tuple[int, str], _Guess]]:
        """Fit the arms that use synthetic rows; return their scores and the next turn's guesses."""
        jobs: list[tuple[Turn, Made, str]] = []
        inputs: list[FitInput] = []
        scores: list[ArmScore] = []
        for turn, each in zip(turns, made, strict=True):
            for arm in arms_of(turn, self.settings):
                given = arm_fit(turn, each, arm, self.settings)
                if given is None:
                    scores.append(_lost(turn, each, arm))
                    continue
                jobs.append((turn, each, arm))
                inputs.append(given)
        guesses: dict[tuple[int, str], _Guess] = {}
        for (turn, each, arm), given, result in zip(
            jobs, inputs, self._bench.fit(inputs), strict=True
        ):
            scores.append(
                _score(
                    turn.rows,
                    result,
                    mode=turn.mode,
                    predictor=turn.predictor,
                    arm=arm,
                    run=turn.run,
                    turn=turn.round,
                    n_synthetic=n_added(turn, each, arm),
                    n_real=0 if arm == SYNTHETIC else None,
                )
            )
            # A labeller that is no predictor of the study never learns from its own labels.
            if arm == BOTH and result.is_done:
                guesses[turn.run, turn.predictor] = _Guess(given, result)
        return scores, guesses


def _median(rows: RunRows, number: int, mode: Mode) -> ArmScore:
    middle = rows.values[rows.labelled].median()
    error = float((rows.values[rows.test] - middle).abs().mean())
    return ArmScore(
        mode=mode,
        predictor="",
        arm=MEDIAN,
        round=1,
        run=number,
        mae=error,
        n_real=len(rows.labelled),
    )


def _score(
    rows: RunRows,
    result: TaskResult,
    *,
    mode: str,
    predictor: str,
    arm: str,
    run: int,
    turn: int = 1,
    n_synthetic: int = 0,
    n_real: int | None = None,
    is_test: bool = False,
) -> ArmScore:
    """Return the score of a fit, which was asked about all rows or about the test rows."""
    mae, cpu = float("nan"), 0.0
    if result.is_done:
        mean = torch.tensor(result.result["mean"], dtype=torch.float64)
        mean = mean if is_test else mean[rows.test]
        mae = float((mean - rows.values[rows.test]).abs().mean())
        cpu = float(result.result["cpu_s"])
    return ArmScore(
        mode=mode,
        predictor=predictor,
        arm=arm,
        round=turn,
        run=run,
        mae=mae,
        n_real=len(rows.labelled) if n_real is None else n_real,
        n_synthetic=n_synthetic,
        cpu_s=cpu,
        error=result.error or "",
    )


def _lost(turn: Turn, made: Made, arm: str) -> ArmScore:
    return ArmScore(
        mode=turn.mode,
        predictor=turn.predictor,
        arm=arm,
        round=turn.round,
        run=turn.run,
        mae=float("nan"),
        n_real=0 if arm == SYNTHETIC else len(turn.rows.labelled),
        n_synthetic=len(made.crystals),
        error=made.synthesis.error or f"only {len(made.crystals)} synthetic crystals are left",
    )
