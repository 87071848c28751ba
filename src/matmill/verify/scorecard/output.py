"""The files of a scorecard. Each appears whole or not at all; ``scorecard.json`` comes last."""

from pathlib import Path

from matmill.crystals.batch import CrystalBatch
from matmill.crystals.records import atomic
from matmill.errors import InputError
from matmill.verify.samples import Samples
from matmill.verify.scorecard import page
from matmill.verify.scorecard.card import (
    Scorecard,
    metrics_table,
    structures_table,
    write_json,
    write_table,
)

SUFFIXES = (".json", ".parquet", ".html")
FILES = ("structures.parquet", "metrics.parquet", "report.html", "scorecard.json")
"""What a folder gets."""


def check(out: Path | None) -> None:
    """Refuse a file of a format that a scorecard is not written in, before any work is done.

    Raises:
        InputError: If the suffix is unknown.
    """
    if out is None or out.is_dir() or not out.suffix or out.suffix.lower() in SUFFIXES:
        return
    raise InputError(
        f"A scorecard cannot be written as {out.name}. Give a folder for everything, or one file: "
        f"{', '.join(SUFFIXES)}."
    )


def write(
    card: Scorecard,
    out: Path,
    *,
    samples: Samples,
    against: tuple[CrystalBatch | None, CrystalBatch | None],
) -> list[Path]:
    """Write a scorecard to a folder or to one file.

    Args:
        card: The scorecard.
        out: A folder for all of `FILES`; or a file: ``.json`` without the rows, ``.parquet`` with
            one row a sample, ``.html`` the report.
        samples: The crystals, for the report.
        against: The training set and the test set, for the report.

    Returns:
        The files that were written.
    """
    suffix = "" if out.is_dir() else out.suffix.lower()
    wanted = [out] if suffix else [out / name for name in FILES]
    for path in wanted:
        if path.suffix == ".html":
            text = page.render(card, samples, *against)
            with atomic(path) as temporary:
                temporary.write_text(text, encoding="utf-8")
        elif path.suffix == ".json":
            write_json(card, path)
        else:
            of = metrics_table if path.name == "metrics.parquet" else structures_table
            write_table(of(card), path)
    return wanted
