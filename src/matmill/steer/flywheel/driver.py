"""A study of the flywheel in a folder, from the first split to the report; run again to go on."""

import json
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from matmill import __version__
from matmill.campaign.provenance import machine
from matmill.campaign.store import Store
from matmill.campaign.tasks import TaskBoard
from matmill.campaign.workers import LocalWorkers, Workers
from matmill.config import check_settings
from matmill.data.table import LabelledCrystals, open_table
from matmill.errors import InputError
from matmill.progress import Event, OnEvent, ignore
from matmill.steer.flywheel import report
from matmill.steer.flywheel.settings import FlywheelSettings
from matmill.steer.flywheel.study import Study
from matmill.steer.flywheel.tasks import TASK_SECONDS
from matmill.steer.flywheel.wheel import Wheel
from matmill.training.checkpoint import write_atomically

STORE_NAME = "flywheel.sqlite"


@dataclass(frozen=True, kw_only=True)
class FlywheelSummary:
    """What a study delivered.

    Attributes:
        study: Everything that was found.
        folder: Where ``report.html``, ``table.json`` and ``run.json`` are.
    """

    study: Study
    folder: Path


class Flywheel:
    """A study of the flywheel, in few words.

    ``Flywheel(labels=table, predictor="cgcnn", generator="concdvae").run()``

    Args:
        labels: Crystals with the target among their properties, or the file that has them.
        target: The property; the target of ``labels`` when None.
        predictor: Names in `settings.PREDICTORS`, one or several; those of the defaults when None.
        generator: A family, or what `settings.GeneratorChoice` says of one.
        folder: For trained models, results and the report; the same folder goes on.
        store: SQLAlchemy URL of the results; a file in ``folder`` when None.
        workers: Where tasks run, stopped at the end; one local process a core when None.
        on_event: Told about progress.
        options: Any other field of `FlywheelSettings`, such as ``n_runs=10``.

    Raises:
        InputError: If an option is unknown or wrong, or the target is not said.
    """

    def __init__(
        self,
        *,
        labels: LabelledCrystals | Path | str,
        target: str | None = None,
        predictor: str | Sequence[str] | None = None,
        generator: str | dict[str, Any] = "concdvae",
        folder: Path | str = "runs/flywheel",
        store: str | None = None,
        workers: Workers | None = None,
        on_event: OnEvent = ignore,
        **options: Any,  # noqa: ANN401 - fields of FlywheelSettings, checked there
    ) -> None:
        self._table = labels if isinstance(labels, LabelledCrystals) else None
        target = target or (self._table.target if self._table is not None else None)
        if target is None:
            raise InputError("Say which property to learn: target='bulk_modulus_gpa'.")
        values: dict[str, Any] = {
            "data": labels if self._table is None else self._table.source,
            "target": target,
            "generator": {"family": generator} if isinstance(generator, str) else generator,
            **options,
        }
        if predictor is not None:
            names = (predictor,) if isinstance(predictor, str) else tuple(predictor)
            values["predictors"] = names
        self.settings = check_settings(values, FlywheelSettings, source="Flywheel")
        self._folder, self._store = folder, store
        self._workers, self._on_event = workers, on_event

    def run(self) -> FlywheelSummary:
        """Run the study, or what is left of it; see `run_flywheel`."""
        return run_flywheel(
            self.settings,
            folder=self._folder,
            table=self._table,
            store=self._store,
            workers=self._workers,
            on_event=self._on_event,
        )


def run_flywheel(
    settings: FlywheelSettings,
    *,
    folder: Path | str,
    table: LabelledCrystals | None = None,
    store: str | None = None,
    workers: Workers | None = None,
    arguments: dict[str, Any] | None = None,
    retry_failed: bool = False,
    on_event: OnEvent = ignore,
) -> FlywheelSummary:
    """Run a study, or continue the one in ``folder``, and write its report.

    Everything that was finished before, in this folder or in this store, is read by its content,
    so the same call continues after a kill, and a study that differs in one option shares all
    that comes before it.

    Args:
        settings: What to do.
        folder: For trained models, results and the report.
        table: The data; opened from ``settings.data`` when None.
        store: SQLAlchemy URL of the results; a file in ``folder`` when None.
        workers: Where tasks run, stopped at the end; one local process a core when None.
        arguments: What to record as the call that was made, for people.
        retry_failed: Try tasks again that an earlier call gave up.
        on_event: Told about progress.

    Raises:
        InputError: If the data or the settings cannot be used.
        StoreError: If the store cannot be opened.
    """
    folder = Path(folder)
    if folder.is_file():
        raise InputError(f"{folder} is a file; give a folder with --out.")
    if table is None:
        on_event(Event(stage="load", message=str(settings.data)))
        table = open_table(settings.data, target=settings.target, on_missing="drop")
    folder.mkdir(parents=True, exist_ok=True)
    with (
        closing(Store(store or folder / STORE_NAME)) as kept,
        closing(workers or LocalWorkers(timeout_s=TASK_SECONDS)) as crew,
    ):
        board = TaskBoard(kept, retry_failed=retry_failed)
        wheel = Wheel(table, settings, board=board, folder=folder, workers=crew, on_event=on_event)
        study = wheel.run()
    on_event(Event(stage="write", message=f"files to {folder}"))
    record = {
        "matmill": __version__,
        "settings": settings.model_dump(mode="json"),
        "data_hash": table.hash,
        "arguments": arguments,
        "cpu_s": study.cpu_seconds(),
        "machine": machine(),
    }
    for name, content in (("table.json", study.as_dict()), ("run.json", record)):
        text = json.dumps(content, indent=1, ensure_ascii=False)
        write_atomically(folder / name, text.encode())
    write_atomically(folder / "report.html", report.render(study, record).encode())
    return FlywheelSummary(study=study, folder=folder)
