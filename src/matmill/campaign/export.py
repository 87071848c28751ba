"""Files for people and other programs: every candidate in one table, the delivered as crystals."""

import shutil
from pathlib import Path
from typing import Any

from matmill.campaign.records import Candidate
from matmill.campaign.results import Results, final_fate
from matmill.campaign.store import Store
from matmill.crystals import files
from matmill.crystals.formats import parquet
from matmill.crystals.symmetry import SYMPREC

_INTERNAL = ("fate_novelty",)


def write_all(store: Store, results: Results, folder: Path) -> list[Path]:
    """Write ``candidates.parquet``, ``candidates.extxyz`` and ``cif/`` and return the paths."""
    table = folder / "candidates.parquet"
    write_candidates(store, results, table)
    paths = [table]
    crystals = results.crystals.with_properties(**_numbers(results))
    together = folder / "candidates.extxyz"
    files.write(crystals, together)
    paths.append(together)
    cifs = folder / "cif"
    # Files of an earlier export may have names that are no longer delivered.
    shutil.rmtree(cifs, ignore_errors=True)
    cifs.mkdir(parents=True)
    for i, name in enumerate(crystals.ids):
        path = cifs / f"{name}.cif"
        files.write(results.crystals.select([i]), path, symprec=SYMPREC)
        paths.append(path)
    return paths


def write_candidates(store: Store, results: Results, path: Path) -> None:
    """Write every candidate, kept or dropped, with its fate and the reason.

    The structure columns hold the latest form (relaxed where it got that far); the columns
    ``proposed_lattice`` and ``proposed_frac_coords`` the crystal as it came from the generator.
    """
    candidates = results.candidates
    ranks = {c.number: i + 1 for i, c in enumerate(results.delivered)}
    batch = store.batch([c.structure for c in candidates])
    batch = batch.with_ids([c.structure for c in candidates])
    proposed = store.batch([c.proposed for c in candidates])
    fates = [final_fate(c, is_delivered=c.number in ranks) for c in candidates]
    extra: dict[str, list[Any]] = {
        "candidate": [c.number for c in candidates],
        "proposed_id": [c.proposed for c in candidates],
        "round": [c.round for c in candidates],
        "generator": [c.origin for c in candidates],
        "fate": [str(fate) for fate, _ in fates],
        "stage": [c.stage for c in candidates],
        "reason": [reason for _, reason in fates],
        "rank": [ranks.get(c.number) for c in candidates],
        "proposed_lattice": [x.flatten().tolist() for x in proposed.lattice],
        "proposed_frac_coords": [
            proposed.frac_coords[proposed.atoms_of(i)].flatten().tolist()
            for i in range(len(proposed))
        ],
    }
    extra |= _value_columns(candidates)
    parquet.write(batch, path, extra=extra)


def _value_columns(candidates: list[Candidate]) -> dict[str, list[Any]]:
    names = {name: None for c in candidates for name in c.values if name not in _INTERNAL}
    return {name: [c.values.get(name) for c in candidates] for name in sorted(names)}


def _numbers(results: Results) -> dict[str, Any]:
    """Return the numeric values of the delivered crystals as columns."""
    import torch

    columns = {}
    for name in ("rank", "score", *sorted({n for row in results.rows for n in row})):
        values = [row.get(name) for row in results.rows]
        if values and all(v is None or isinstance(v, int | float) for v in values):
            numbers = [float("nan") if v is None else float(v) for v in values]
            columns[name] = torch.tensor(numbers, dtype=torch.float64)
    return columns
