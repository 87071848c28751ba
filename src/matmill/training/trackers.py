"""Where training numbers go besides the CSV log: thin adapters to common trackers."""

import csv
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from matmill.errors import MissingExtraError, UnknownNameError


@runtime_checkable
class Tracker(Protocol):
    """Takes numbers as a training produces them."""

    def log(self, step: int, values: dict[str, float]) -> None:
        """Store numbers that belong to one step."""
        ...

    def close(self) -> None:
        """Write out what is pending."""
        ...


class CsvLog:
    """Rows of numbers in a CSV file; a resumed run drops the rows after its checkpoint.

    Args:
        path: The file.
        last_step: Keep only earlier rows up to this step; 0 starts anew.
    """

    def __init__(self, path: Path, *, last_step: int = 0) -> None:
        self.path = path
        self.columns: list[str] = []
        rows: list[dict[str, str]] = []
        if last_step and path.exists():
            with path.open(newline="", encoding="utf-8") as file:
                # A kill may leave half a row at the end; it has no readable step.
                rows = [
                    row
                    for row in csv.DictReader(file)
                    if (row["step"] or "").isdigit() and int(row["step"]) <= last_step
                ]
            self.columns = list(rows[0]) if rows else []
        path.parent.mkdir(parents=True, exist_ok=True)
        self._write_all(rows)

    def log(self, step: int, values: dict[str, float]) -> None:
        """Append one row; a new name adds a column to the whole file."""
        row = {"step": str(step), **{name: f"{value:.6g}" for name, value in values.items()}}
        if any(name not in self.columns for name in row):
            with self.path.open(newline="", encoding="utf-8") as file:
                rows = list(csv.DictReader(file))
            self.columns += [name for name in row if name not in self.columns]
            self._write_all(rows)
        with self.path.open("a", newline="", encoding="utf-8") as file:
            csv.DictWriter(file, self.columns, restval="").writerow(row)

    def close(self) -> None:
        """Do nothing: every row is on disk already."""

    def _write_all(self, rows: list[dict[str, str]]) -> None:
        with self.path.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, self.columns, restval="", extrasaction="ignore")
            if self.columns:
                writer.writeheader()
            writer.writerows(rows)


class TensorBoardTracker:
    """Writes TensorBoard event files into a folder."""

    def __init__(self, folder: Path) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            raise MissingExtraError("TensorBoard needs: pip install 'matmill[track]'") from error
        self._writer: Any = SummaryWriter(log_dir=str(folder))

    def log(self, step: int, values: dict[str, float]) -> None:
        """Store each number as a scalar."""
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)

    def close(self) -> None:
        """Flush and close the event file."""
        self._writer.close()


class MlflowTracker:
    """Logs to an MLflow run below a local folder, or to the server that MLflow is set up for."""

    def __init__(self, folder: Path, *, run_name: str) -> None:
        try:
            import mlflow  # pyright: ignore[reportMissingImports]
        except ImportError as error:
            raise MissingExtraError("MLflow needs: pip install 'matmill[track]'") from error
        import os

        uri = os.environ.get("MLFLOW_TRACKING_URI", f"sqlite:///{folder.resolve()}/mlflow.db")
        folder.mkdir(parents=True, exist_ok=True)
        self._client: Any = mlflow.MlflowClient(tracking_uri=uri)
        found = self._client.get_experiment_by_name("matmill")
        experiment = found.experiment_id if found else self._client.create_experiment("matmill")
        self._run = self._client.create_run(experiment, run_name=run_name).info.run_id

    def log(self, step: int, values: dict[str, float]) -> None:
        """Store each number as a metric."""
        for name, value in values.items():
            self._client.log_metric(self._run, name, value, step=step)

    def close(self) -> None:
        """Mark the run as finished."""
        self._client.set_terminated(self._run)


class WandbTracker:
    """Logs to Weights & Biases."""

    def __init__(self, folder: Path, *, run_name: str) -> None:
        try:
            import wandb  # pyright: ignore[reportMissingImports]
        except ImportError as error:
            raise MissingExtraError("Weights & Biases needs: pip install wandb") from error
        self._run: Any = wandb.init(project="matmill", name=run_name, dir=str(folder))

    def log(self, step: int, values: dict[str, float]) -> None:
        """Store the numbers of one step."""
        self._run.log(values, step=step)

    def close(self) -> None:
        """Upload what is pending."""
        self._run.finish()


def make_tracker(name: str, folder: Path, *, run_name: str) -> Tracker:
    """Return the tracker called ``name``: ``tensorboard``, ``mlflow`` or ``wandb``.

    Raises:
        UnknownNameError: If there is no such tracker.
        MissingExtraError: If its package is not installed.
    """
    if name == "tensorboard":
        return TensorBoardTracker(folder / "tensorboard")
    if name == "mlflow":
        return MlflowTracker(folder, run_name=run_name)
    if name == "wandb":
        return WandbTracker(folder, run_name=run_name)
    raise UnknownNameError("tracker", name, ["mlflow", "tensorboard", "wandb"])
