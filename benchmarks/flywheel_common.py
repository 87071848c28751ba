"""What the flywheel's comparisons share: studies of one table, and their differences as rows."""

import json
from contextlib import closing
from pathlib import Path

from generator_common import DATA
from matmill.campaign.store import Store
from matmill.campaign.tasks import TaskBoard
from matmill.campaign.workers import LocalWorkers
from matmill.config import check_settings
from matmill.data.table import open_table
from matmill.steer.flywheel.driver import STORE_NAME
from matmill.steer.flywheel.settings import FlywheelSettings
from matmill.steer.flywheel.study import BOTH
from matmill.steer.flywheel.tasks import TASK_SECONDS
from matmill.steer.flywheel.wheel import Wheel

HEADS = ["study", "mode", "predictor", "turn", "arm", "real", "MAE beside", "MAE", "difference",
         "95 % interval", "p", "better", "kept"]  # fmt: skip


def table_of(name):
    """Return the path of a table: the given one, or one below MATMILL_DATA."""
    path = Path(name)
    return str(path if path.exists() else Path(DATA) / path)


def studied(name, given, *, out, workers):
    """Run a study in a folder that others share, or read what is there; the report there stays."""
    settings = check_settings(given, FlywheelSettings, source=name)
    table = open_table(settings.data, target=settings.target, on_missing="drop")
    out.mkdir(parents=True, exist_ok=True)
    with (
        closing(Store(out / STORE_NAME)) as store,
        closing(LocalWorkers(workers, timeout_s=TASK_SECONDS)) as crew,
    ):
        board = TaskBoard(store)
        return Wheel(table, settings, board=board, folder=out, workers=crew).run()


def found_before(path):
    """Return what earlier calls with other options found; a new one adds to it."""
    return json.loads(path.read_text()) if path.exists() else {}


def kept_as(name, study):
    """Return the name of a study among those of other calls."""
    s = study.settings
    parts = [name, ", ".join(s.modes), ", ".join(s.predictors), f"{s.n_runs} runs"]
    parts += [f"{s.generator.family} from {s.generator.start or 'scratch'}"]
    parts += [f"label: {s.label} of {s.labeller}", s.mixing]
    if s.seed:
        parts.append(f"from seed {s.seed}")
    if s.synthetic_ratio != 1.0:
        parts.append(f"{s.synthetic_ratio:g} synthetic crystals a row")
    if s.max_labels:
        parts.append(f"{s.max_labels} labels")
    return "; ".join(parts + (["controls"] if s.controls else []))


def difference_rows(name, study):
    """Return all paired differences as rows of a table: to real rows alone, then to controls."""
    asked = sum(s.n_asked for s in study.syntheses)
    kept = sum(s.n_kept for s in study.syntheses) / max(1, asked)
    n_real = {score.mode: score.n_real for score in study.scores if score.arm == BOTH}
    means = {(row.mode, row.predictor, row.round, row.arm): row.mean for row in study.rows}
    changes = [
        (row.mode, row.predictor, row.round, row.arm, row.mean, row.against_real)
        for row in study.rows
        if row.against_real is not None
    ]
    changes += [
        (c.mode, c.predictor, c.round, f"{BOTH}, against: {c.control}",
         means[c.mode, c.predictor, c.round, BOTH], c.found)
        for c in study.contrasts
    ]  # fmt: skip
    return [
        [
            name,
            mode,
            predictor,
            turn,
            arm,
            n_real.get(mode, ""),
            f"{mean - change.mean:.4g}",
            f"{mean:.4g}",
            f"{change.mean:+.3g}",
            f"{change.low:+.3g} … {change.high:+.3g}",
            f"{change.p_value:.2g}",
            f"{change.n_better} of {change.n}",
            f"{100 * kept:.0f} %",
        ]
        for mode, predictor, turn, arm, mean, change in changes
    ]
