"""What a flywheel study found: scores of arms, run by run, and what the synthetic crystals are."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from matmill.steer.flywheel.settings import FlywheelSettings
from matmill.steer.flywheel.statistics import Paired, paired

MEDIAN = "median of the labels"
REAL = "real"
SYNTHETIC = "synthetic"
BOTH = "real + synthetic"
SHUFFLED = "real + synthetic, labels shuffled"
PSEUDO = "real + pseudo-labelled real, no generator"
LONGER = "real, as many steps"
ENSEMBLE = "real, ensemble"
ARMS = (MEDIAN, REAL, SYNTHETIC, BOTH, SHUFFLED, PSEUDO, LONGER, ENSEMBLE)
"""Arms of the paper's table, with the controls that it lacks.

A network that sees twice as many rows an epoch also makes twice as many steps; where it was not
trained to the end that alone helps, and `LONGER` has it without synthetic rows.
"""

_Key = tuple[str, str, str, int]  # mode, predictor, arm, turn


@dataclass(frozen=True, kw_only=True)
class ArmScore:
    """One arm in one run.

    Attributes:
        mode: ``supervised`` or ``semi-supervised``.
        predictor: Which predictor; empty for the median.
        arm: One of `ARMS`.
        round: Turn of the wheel, from 1.
        run: Number of the run.
        mae: Mean absolute error on the test rows, in the unit of the target; NaN if it failed.
        n_real: Real training rows.
        n_synthetic: Synthetic ones, or pseudo-labelled ones.
        cpu_s: CPU seconds of the fit.
        error: Why it failed; empty when it did not.
    """

    mode: str
    predictor: str
    arm: str
    round: int
    run: int
    mae: float
    n_real: int
    n_synthetic: int = 0
    cpu_s: float = 0.0
    error: str = ""


@dataclass(frozen=True, kw_only=True)
class Synthesis:
    """The synthetic crystals of one run, as a set.

    Attributes:
        mode: As in `ArmScore`.
        predictor: Which predictor learns from them.
        judged_by: Which predictor judges them, and labels them where conditions do not; in
            semi-supervised runs the generator learned its pseudo-labels.
        content: Key of what was drawn: equal where predictors share it.
        round: Turn of the wheel.
        run: Number of the run.
        n_asked: Crystals asked for.
        n_kept: Crystals that may teach.
        dropped: Reason to number.
        quality: Measures of the set; see `quality.measure`.
        train_cpu_s: CPU seconds of the generator's training.
        sample_cpu_s: Of sampling.
        other_cpu_s: Of filters and energies, and of the labeller where it is no predictor of the
            study.
        error: Why there is nothing; empty when there is.
    """

    mode: str
    predictor: str
    judged_by: str
    content: str
    round: int
    run: int
    n_asked: int
    n_kept: int = 0
    dropped: dict[str, int] = field(default_factory=dict)
    quality: dict[str, float] = field(default_factory=dict)
    train_cpu_s: float = 0.0
    sample_cpu_s: float = 0.0
    other_cpu_s: float = 0.0
    error: str = ""


@dataclass(frozen=True, kw_only=True)
class Row:
    """One arm over all runs.

    Attributes:
        mode: As in `ArmScore`.
        predictor: As there.
        arm: As there.
        round: As there.
        maes: Of each run that has one, in the order of the runs.
        against_real: Compared with the same predictor on real rows alone; None for that itself.
        n_failed: Runs without a score.
    """

    mode: str
    predictor: str
    arm: str
    round: int
    maes: tuple[float, ...]
    against_real: Paired | None
    n_failed: int

    @property
    def mean(self) -> float:
        """Mean over runs."""
        return float(np.mean(self.maes)) if self.maes else float("nan")

    @property
    def std(self) -> float:
        """Standard deviation over runs."""
        return float(np.std(self.maes, ddof=1)) if len(self.maes) > 1 else float("nan")


@dataclass(frozen=True, kw_only=True)
class Contrast:
    """Real + synthetic against a control in the same runs: does the wheel earn its keep?

    Attributes:
        mode: As in `ArmScore`.
        predictor: As there.
        round: As there.
        control: Arm that it is compared with.
        found: The paired difference; negative: real + synthetic is better.
    """

    mode: str
    predictor: str
    round: int
    control: str
    found: Paired


@dataclass(frozen=True, kw_only=True)
class Study:
    """Everything that a flywheel study found.

    Attributes:
        settings: What was asked.
        column: The target, with its unit.
        n_rows: Rows of the table that have it.
        scores: Of every arm in every run.
        syntheses: Of every run.
    """

    settings: FlywheelSettings
    column: str
    n_rows: int
    scores: tuple[ArmScore, ...]
    syntheses: tuple[Synthesis, ...]

    @property
    def rows(self) -> list[Row]:
        """The table: arms over runs, each against real rows alone in the same runs."""
        groups, failed = self._by_run()
        rows = []
        for key in sorted(groups, key=_order):
            mode, predictor, arm, turn = key
            mine = groups[key]
            against = None
            if arm not in (REAL, MEDIAN):
                against = self._paired(mine, groups.get((mode, predictor, REAL, 1), {}))
            rows.append(
                Row(
                    mode=mode,
                    predictor=predictor,
                    arm=arm,
                    round=turn,
                    maes=tuple(mine[run] for run in sorted(mine)),
                    against_real=against,
                    n_failed=failed.get(key, 0),
                )
            )
        return rows

    @property
    def contrasts(self) -> list[Contrast]:
        """Real + synthetic against each control, by mode, predictor and turn."""
        groups, _ = self._by_run()
        found = []
        for mode, predictor, arm, turn in sorted(groups, key=_order):
            if arm != BOTH:
                continue
            for control in (SHUFFLED, PSEUDO, LONGER, ENSEMBLE):
                # The ensemble is there once: it does not depend on the turn.
                other = groups.get(
                    (mode, predictor, control, 1 if control == ENSEMBLE else turn), {}
                )
                difference = self._paired(groups[mode, predictor, arm, turn], other)
                if difference is not None:
                    found.append(
                        Contrast(
                            mode=mode,
                            predictor=predictor,
                            round=turn,
                            control=control,
                            found=difference,
                        )
                    )
        return found

    def _by_run(self) -> tuple[dict[_Key, dict[int, float]], dict[_Key, int]]:
        """Return the error of each run, and how many runs failed, by arm."""
        groups: dict[_Key, dict[int, float]] = {}
        failed: dict[_Key, int] = {}
        for score in self.scores:
            key = (score.mode, score.predictor, score.arm, score.round)
            found = groups.setdefault(key, {})
            if np.isfinite(score.mae):
                found[score.run] = score.mae
            else:
                failed[key] = failed.get(key, 0) + 1
        return groups, failed

    def _paired(self, first: dict[int, float], second: dict[int, float]) -> Paired | None:
        """Return the difference over the runs that both have; None where there is none."""
        shared = sorted(set(first) & set(second))
        if not shared:
            return None
        return paired(_of(first, shared), _of(second, shared))

    @property
    def extra_cpu_s(self) -> dict[tuple[str, str], tuple[float, float]]:
        """CPU seconds a run beyond real rows alone, of the wheel and of the ensemble.

        By mode and predictor. A generator that predictors share counts whole for each of them.
        """
        shared: dict[tuple[str, int, str], float] = {}
        for each in self.syntheses:
            spent = each.train_cpu_s + each.sample_cpu_s + each.other_cpu_s
            key = (each.mode, each.run, each.content)
            shared[key] = shared.get(key, 0.0) + spent
        made: dict[tuple[str, str], float] = {}
        for each in self.syntheses:
            where = (each.mode, each.predictor)
            made[where] = made.get(where, 0.0) + shared[each.mode, each.run, each.content]
        fits: dict[tuple[str, str, str], float] = {}
        for score in self.scores:
            of = (score.mode, score.predictor, score.arm)
            fits[of] = fits.get(of, 0.0) + score.cpu_s
        n = self.settings.n_runs
        return {
            where: ((spent + fits[*where, BOTH]) / n, fits[*where, ENSEMBLE] / n)
            for where, spent in made.items()
            if (*where, BOTH) in fits and (*where, ENSEMBLE) in fits
        }

    def cpu_seconds(self) -> dict[str, float]:
        """Return CPU seconds by what they were spent on."""
        return {
            "predictors": round(sum(s.cpu_s for s in self.scores), 1),
            "training generators": round(sum(s.train_cpu_s for s in self.syntheses), 1),
            "sampling": round(sum(s.sample_cpu_s for s in self.syntheses), 1),
            "filters and labels": round(sum(s.other_cpu_s for s in self.syntheses), 1),
        }

    def as_dict(self) -> dict[str, Any]:
        """Return plain values: settings, the table, all scores, all sets."""
        return {
            "settings": self.settings.model_dump(mode="json"),
            "column": self.column,
            "n_rows": self.n_rows,
            "table": [
                {
                    "mode": row.mode,
                    "predictor": row.predictor,
                    "arm": row.arm,
                    "round": row.round,
                    "mae_mean": row.mean,
                    "mae_std": row.std,
                    "n_runs": len(row.maes),
                    "n_failed": row.n_failed,
                    "against_real": row.against_real.as_dict() if row.against_real else None,
                }
                for row in self.rows
            ],
            "contrasts": [{**vars(each), "found": each.found.as_dict()} for each in self.contrasts],
            "scores": [vars(score) for score in self.scores],
            "syntheses": [vars(each) for each in self.syntheses],
            "cpu_s": self.cpu_seconds(),
        }


def _of(values: dict[int, float], runs: Sequence[int]) -> np.ndarray:
    return np.array([values[run] for run in runs])


def _order(key: _Key) -> tuple[Any, ...]:
    mode, predictor, arm, turn = key
    return (mode != "supervised", predictor, turn, ARMS.index(arm))
