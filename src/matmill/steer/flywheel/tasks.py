"""The wheel's work as content-keyed tasks: what was finished before is read, not done again."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from matmill.campaign.tasks import TaskBoard, TaskResult, task_key
from matmill.campaign.workers import Workers
from matmill.data.rows import content_hash
from matmill.progress import OnEvent, ignore
from matmill.steer.flywheel.fitting import Fit, FitInput
from matmill.steer.flywheel.looking import LookInput, Settle, SettleInput, look
from matmill.steer.flywheel.making import Make, MakeInput, weights_file
from matmill.training.checkpoint import hash_of
from matmill.verify.hull import Hull
from matmill.verify.potentials import load_chgnet

# Raise a number when a change of code changes its results: kept ones are then made anew.
TASK_SECONDS = 7200.0  # longest training of a generator or predictor
FIT, MAKE, LOOK, SETTLE = (
    "flywheel fit 1",
    "flywheel make 1",
    "flywheel look 1",
    "flywheel settle 1",
)
_NETWORK_RECIPE = 2  # the same for fits of networks alone, so that those of trees stay


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
            {
                "fit": one.key,
                "n_fits": one.n_fits,
                "asked": content_hash(one.asked),
                "coverage": one.coverage,
            }
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
                "synthetic": content_hash(one.synthetic),
                "real": content_hash(one.real),
                "limits": one.limits.model_dump(mode="json"),
            }
            for one in inputs
        ]
        return self._run(LOOK, items, look, list(inputs))

    def settle(self, inputs: Sequence[SettleInput]) -> list[TaskResult]:
        """Return energies above the hull."""
        hull, potential = Hull.load().hash, load_chgnet().hash
        items = [
            {
                "crystals": content_hash(one.crystals),
                "stability": one.stability,
                "hull": hull,
                "potential": potential,
            }
            for one in inputs
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
    """Return the content hash of everything that fitted predictors depend on.

    Their number does not count: an ensemble begins with the predictor that stands alone. Weights
    to start from count by their content where they are a file.
    """
    choice = one.choice.model_dump(mode="json")
    start = choice["settings"].get("start_from")
    if start is not None and Path(start).is_file():
        choice["settings"]["start_from"] = hash_of(Path(start))
    return task_key(
        FIT,
        [
            choice,
            one.table.hash,
            None if one.first is None else one.first.hash,
            one.column,
            one.seed,
            *([] if one.choice.model == "tabular" else [_NETWORK_RECIPE]),
        ],
    )


def make_key(one: MakeInput) -> str:
    """Return the content hash of everything that a trained generator depends on."""
    choice = one.choice.model_dump(mode="json", exclude={"guidance"})
    if one.choice.start is not None:
        choice["start"] = hash_of(weights_file(one.choice.start))
    return task_key(MAKE, [choice, one.table.hash, one.column, one.seed])
