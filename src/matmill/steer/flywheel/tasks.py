"""The wheel's work as content-keyed tasks: what was finished before is read, not done again."""

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from matmill.campaign.tasks import TaskBoard, TaskResult
from matmill.campaign.workers import Workers
from matmill.crystals.batch import CrystalBatch
from matmill.data.rows import content_hash
from matmill.progress import OnEvent, ignore
from matmill.steer.flywheel.fitting import Fit, FitInput
from matmill.steer.flywheel.looking import LookInput, Settle, SettleInput, look
from matmill.steer.flywheel.making import Make, MakeInput, weights_file
from matmill.training.checkpoint import hash_of

# Raise a number when a change of code changes its results: kept ones are then made anew.
FIT, MAKE, LOOK, SETTLE = (
    "flywheel fit 1",
    "flywheel make 1",
    "flywheel look 1",
    "flywheel settle 1",
)


@dataclass(frozen=True, kw_only=True)
class Bench:
    """Where the wheel's tasks run and where their results are kept.

    Attributes:
        board: Results by content.
        workers: Processes.
        folder: Trained models by content.
        on_event: Told about progress.
    """

    board: TaskBoard
    workers: Workers
    folder: Path
    on_event: OnEvent = ignore

    def fit(self, inputs: Sequence[FitInput]) -> list[TaskResult]:
        """Train predictors and return what they say of the asked crystals."""
        keyed = [replace(one, key=fit_key(one)) for one in inputs]
        items = [
            {"fit": one.key, "asked": batch_hash(one.asked), "coverage": one.coverage}
            for one in keyed
        ]
        return self._run(FIT, items, Fit(self.folder), keyed)

    def make(self, inputs: Sequence[MakeInput]) -> list[TaskResult]:
        """Train generators and return what they draw."""
        keyed = [replace(one, key=make_key(one)) for one in inputs]
        items = [
            {"generator": one.key, "values": one.values.tolist(), "guidance": one.choice.guidance}
            for one in keyed
        ]
        return self._run(MAKE, items, Make(self.folder), keyed)

    def look(self, inputs: Sequence[LookInput]) -> list[TaskResult]:
        """Return facts about synthetic crystals."""
        items = [
            {
                "synthetic": batch_hash(one.synthetic),
                "real": batch_hash(one.real),
                "limits": one.limits.model_dump(mode="json"),
            }
            for one in inputs
        ]
        return self._run(LOOK, items, look, list(inputs))

    def settle(self, inputs: Sequence[SettleInput]) -> list[TaskResult]:
        """Return energies above the hull."""
        items = [
            {"crystals": batch_hash(one.crystals), "stability": one.stability} for one in inputs
        ]
        return self._run(SETTLE, items, Settle(), list(inputs))

    def _run(
        self,
        kind: str,
        items: list[Any],
        function: Callable[[Any], Any],
        inputs: list[Any],
    ) -> list[TaskResult]:
        if not items:
            return []
        return self.board.run(kind, items, function, self.workers, self.on_event, inputs=inputs)


def fit_key(one: FitInput) -> str:
    """Return the content hash of everything that a fitted predictor depends on."""
    return _hash(
        [
            FIT,
            one.choice.model_dump(mode="json"),
            one.table.hash,
            None if one.first is None else one.first.hash,
            one.column,
            one.seed,
            one.n_fits,
        ]
    )


def make_key(one: MakeInput) -> str:
    """Return the content hash of everything that a trained generator depends on."""
    choice = one.choice.model_dump(mode="json", exclude={"guidance"})
    start = one.choice.start or ("flow" if one.choice.family == "flow-adapter" else None)
    if start is not None:
        choice["start"] = hash_of(weights_file(start))
    return _hash([MAKE, choice, one.table.hash, one.column, one.seed])


def batch_hash(batch: CrystalBatch) -> str:
    """Return a content hash of a batch and its properties; order counts."""
    return content_hash(batch)


def _hash(values: list[Any]) -> str:
    text = json.dumps(values, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()
