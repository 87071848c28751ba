"""Does the spread of several potentials tell how wrong their verdict on stability is?

    python benchmarks/build_hull_energies.py --extend   # CHGNet energies of the validation rows
    python benchmarks/votes.py                          # CHGNet, MACE, ORB, UMA: all rows
    python benchmarks/votes.py --sevennet 200           # CHGNet and SevenNet-0: 200 rows

Validation rows of MP-20, each as if it were new: its own formula is taken out of every hull, DFT's
included, so that distances have a sign. Each potential's energies are compared with its own hull of
known crystals: CHGNet's is the table that ships; those of MACE, ORB and UMA are MP-20 itself, with
the energies that come with ``hull_reference.parquet``; SevenNet-0's holds what the row would
decompose into by the hulls of CHGNet and of DFT, computed here, single points at the given
geometry, resumable, under ``MATMILL_HULL_WORK``.

Writes ``votes.json`` or ``votes_sevennet.json`` beside them and prints the same.
"""

import argparse
import json
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from hull_common import DATA, WORK, read_structures, reduced_formulas, write_atomic
from matmill.crystals.batch import CrystalBatch, concatenate
from matmill.verify.hull import Hull, lowest_mixture
from matmill.verify.hull_entries import (
    HullEntries,
    counts_from_lists,
    element_masks,
    lowest_of_each_formula,
)

LIMITS = (0.0, 0.025)
NEAR = 0.1  # known crystals further above their hull cannot become part of it here
FILES = ("mp_union", "mp_20", "novelty_reference", "element_references")


@dataclass(frozen=True)
class Rows:
    """Validation rows; all arrays are ``(n_rows,)`` or ``(n_rows, 119)``."""

    batch: CrystalBatch
    counts: np.ndarray  # of the reduced formula


class Table:
    """Entries of one method, asked for hulls that lack one formula."""

    def __init__(self, entries: HullEntries, near: np.ndarray | None = None) -> None:
        good = np.isfinite(entries.energy_ev_per_atom)
        good &= True if near is None else near
        self.counts = entries.counts[good]
        self.energy = entries.energy_ev_per_atom[good]
        self.fractions = self.counts / self.counts.sum(1, keepdims=True)
        self.masks = element_masks(self.counts > 0)

    def competitors(self, counts: np.ndarray) -> np.ndarray:
        """Return the entries of the system of a formula but for those of the formula."""
        mask = element_masks((counts > 0)[None])[0]
        inside = np.nonzero(((self.masks & ~mask) == 0).all(1))[0]
        return inside[(self.counts[inside] != counts).any(1)]

    def value(self, counts: np.ndarray) -> float:
        """Return the hull's energy per atom at a formula, without that formula."""
        inside, there = self.competitors(counts), counts > 0
        if not len(inside):
            return float("nan")
        fractions = self.fractions[inside][:, there]
        return lowest_mixture(fractions, self.energy[inside], counts[there] / counts.sum())

    def products(self, counts: np.ndarray) -> list[np.ndarray]:
        """Return the formulas that a formula decomposes into, and every element that it has."""
        from scipy.optimize import linprog

        inside, there = self.competitors(counts), counts > 0
        if not len(inside):
            return []
        fractions = self.fractions[inside][:, there]
        answer = linprog(
            self.energy[inside],
            A_eq=fractions.T,
            b_eq=counts[there] / counts.sum(),
            bounds=(0, None),
            method="highs",
        )
        if not answer.success:
            return []
        used = (answer.x > 1e-9) | (self.fractions[inside] == 1.0).any(1)
        return list(self.counts[inside[used]])

    def above(self, rows: Rows, energy_ev_per_atom: np.ndarray) -> np.ndarray:
        """Return the signed distance of each row."""
        return energy_ev_per_atom - np.array([self.value(row) for row in rows.counts])


def validation_rows() -> Rows:
    """Return the validation rows of MP-20 with a DFT distance and a formation energy."""
    path = DATA / "mp_20.parquet"
    columns = ["split", "energy_above_hull_ev", "energy_above_hull_est_ev"]
    about = pq.read_table(path, columns=columns).to_pandas()
    known = about["energy_above_hull_ev"].fillna(about["energy_above_hull_est_ev"]).notna()
    batch = read_structures(path)
    batch = batch.select(torch.from_numpy(np.nonzero((about["split"] == "val") & known)[0]))
    return Rows(batch, reduced_formulas(batch))


def reference(column: str, *, recommended: bool) -> tuple[Table, dict[str, float]]:
    """Return the hull of a column of ``hull_reference.parquet``, and its energies by id."""
    table = pq.read_table(DATA / "hull_reference.parquet")
    if recommended:
        table = table.filter(table["recommended"])
    table = table.filter(table[column].is_valid())
    counts = counts_from_lists(
        table["elements_z"].combine_chunks(), table["counts"].combine_chunks()
    )
    energy, ids = table[column].to_numpy().astype(float), table["material_id"].to_pylist()
    by_id = dict(zip(ids, energy.tolist(), strict=True))
    if column.startswith("formation"):  # the elements are at zero by definition
        alone = np.eye(counts.shape[1], dtype=counts.dtype)[1:]
        counts = np.concatenate([counts, alone])
        energy = np.concatenate([energy, np.zeros(len(alone))])
        ids += [f"element-{z + 1}" for z in range(len(alone))]
    return Table(lowest_of_each_formula(counts, energy, ids)), by_id


def chgnet() -> tuple[Table, dict[str, float]]:
    """Return CHGNet's hull and its energies per atom by id, of table and validation rows."""
    entries = Hull.load().entries
    energy = dict(zip(entries.ids, entries.energy_ev_per_atom.tolist(), strict=True))
    for path in sorted((WORK / "energies").glob("*.parquet")):
        part = pq.read_table(path)
        per_atom = part["energy_ev"].to_numpy() / part["n_atoms"].to_numpy()
        for key, value in zip(part["material_id"].to_pylist(), per_atom.tolist(), strict=True):
            energy.setdefault(key, value)
    assert entries.above_hull_ev_per_atom is not None
    return Table(entries, entries.above_hull_ev_per_atom <= NEAR), energy


def sevennet(rows: Rows, hulls: Sequence[Table], minutes: float) -> tuple[Table, dict[str, float]]:
    """Return SevenNet-0's hull of what the rows decompose into, and its energies by id.

    A row of which a competing formula has no structure or no energy yet has no energy either.
    """
    entries = Hull.load().entries
    id_of = {row.tobytes(): key for row, key in zip(entries.counts, entries.ids, strict=True)}
    place = {key: i for i, key in enumerate(entries.ids)}
    needs: dict[str, list[str | None]] = {}
    for key, row in zip(rows.batch.ids, rows.counts, strict=True):
        formulas = {f.tobytes() for hull in hulls for f in hull.products(row)}
        needs[key] = [id_of.get(formula) for formula in sorted(formulas)]
    order = list(dict.fromkeys(k for key, own in needs.items() for k in (key, *own) if k))
    energy = _sevennet_energies(rows.batch, order, minutes)
    for key, own in needs.items():
        if not own or not all(k is not None and k in energy for k in own):
            energy[key] = float("nan")
    competing = sorted({k for own in needs.values() for k in own if k is not None and k in energy})
    sys.stderr.write(f"{len(competing)} competing formulas with an energy\n")
    values = np.array([energy[key] for key in competing])
    counts = entries.counts[[place[key] for key in competing]]
    return Table(lowest_of_each_formula(counts, values, competing)), energy


def _sevennet_energies(first: CrystalBatch, order: list[str], minutes: float) -> dict[str, float]:
    """Return energies per atom by id, computing in this order what the parts on disk lack."""
    from matmill.verify.sevennet import load_sevennet

    folder = WORK / "sevennet"
    parts = sorted(folder.glob("*.parquet"))
    found: dict[str, float] = {}
    for path in parts:
        part = pq.read_table(path)
        keys, values = part["material_id"].to_pylist(), part["energy_ev_per_atom"].to_pylist()
        found.update(zip(keys, values, strict=True))
    todo = [key for key in order if key not in found]
    if not todo or minutes <= 0:
        return found
    batches, seen, needed = [first], set(first.ids), set(todo)
    for name in FILES:
        batch = read_structures(DATA / f"{name}.parquet")
        if name == "element_references":
            batch = batch.with_ids([f"ref:{key}" for key in batch.ids])
        new = [i for i, key in enumerate(batch.ids) if key in needed and key not in seen]
        seen.update(batch.ids)
        batches.append(batch.select(torch.tensor(new, dtype=torch.int64)))
    batch = concatenate(batches)
    place = {key: i for i, key in enumerate(batch.ids)}
    batch = batch.select(torch.tensor([place[key] for key in todo if key in place]))
    sys.stderr.write(f"{len(batch)} single points, {int(batch.n_atoms.sum())} atoms\n")
    potential, begin, done = load_sevennet(), time.process_time(), 0
    end = time.monotonic() + 60 * minutes
    few = batch.select(torch.arange(min(2, len(batch))))
    whole = potential.compute(few).energy_ev
    # The network always differentiates; energies alone cost a third without that.
    potential._network._modules.pop("force_output")
    with torch.no_grad():
        torch.testing.assert_close(potential.compute(few, forces=False).energy_ev, whole)
    for k, chunk in enumerate(batch.chunks(400)):
        if time.monotonic() > end:
            break
        with torch.no_grad():
            energy = potential.compute(chunk, forces=False).energy_ev / chunk.n_atoms
        table = pa.table({"material_id": list(chunk.ids), "energy_ev_per_atom": energy.numpy()})
        write_atomic(table, folder / f"{len(parts) + k:04d}.parquet")
        found.update(zip(chunk.ids, energy.tolist(), strict=True))
        done += int(chunk.n_atoms.sum())
        seconds = time.process_time() - begin
        sys.stderr.write(f"{done} atoms, {seconds:.0f} s of processor time\n")
    return found


def report(truth: np.ndarray, above: dict[str, np.ndarray]) -> dict[str, object]:
    """Return errors, what the spread says of them, and how good votes are."""
    from scipy.stats import spearmanr

    from matmill.verify.ensemble import vote

    good = np.isfinite(truth) & np.all([np.isfinite(v) for v in above.values()], axis=0)
    truth = truth[good]
    columns = {name: values[good] for name, values in above.items()}
    tensors = [torch.from_numpy(values) for values in columns.values()]
    names = list(columns)
    votes = vote(tensors, names=names)
    mean, spread = votes.mean_ev_per_atom.numpy(), votes.std_ev_per_atom.numpy()
    error = np.abs(mean - truth)
    thirds = np.array_split(np.argsort(spread), 3)
    answer: dict[str, object] = {
        "n": len(truth),
        "errors_mev_per_atom": {
            name: {
                "mae": _mev(np.abs(values - truth).mean()),
                "median": _mev(np.median(np.abs(values - truth))),
                "bias": _mev((values - truth).mean()),
            }
            for name, values in {**columns, "mean of all": mean}.items()
        },
        "spread": {
            "mean_mev_per_atom": _mev(spread.mean()),
            "pearson_with_error_of_the_mean": _round(np.corrcoef(spread, error)[0, 1]),
            "spearman_with_error_of_the_mean": _round(spearmanr(spread, error).statistic),
            "spearman_with_error_of_the_first": _round(
                spearmanr(spread, np.abs(columns[names[0]] - truth)).statistic
            ),
            "mae_mev_by_third_of_spread": [_mev(error[part].mean()) for part in thirds],
        },
        "stable": {},
    }
    for limit in LIMITS:
        true = truth <= limit
        robust = vote(tensors, names=names, limit_ev_per_atom=limit).is_robust.numpy()
        picks = {**{name: values <= limit for name, values in columns.items()},
                 "mean of all": mean <= limit, "robustly stable": robust}  # fmt: skip
        answer["stable"][f"at_{limit:g}_ev"] = {  # type: ignore[index]
            "share_by_dft": _round(true.mean()),
            **{
                name: {
                    "precision": _round((pick & true).sum() / max(pick.sum(), 1)),
                    "recall": _round((pick & true).sum() / max(true.sum(), 1)),
                    "n": int(pick.sum()),
                }
                for name, pick in picks.items()
            },
        }
    return answer


def _mev(value: float) -> float:
    return round(1000 * float(value), 1)


def _round(value: float) -> float:
    return round(float(value), 3)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sevennet", type=int, metavar="N", help="with SevenNet-0, on N rows")
    parser.add_argument("--minutes", type=float, default=60.0, help="of computing SevenNet-0")
    parser.add_argument("--rows", type=int, metavar="N", help="so many rows at random, not all")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    rows = validation_rows()
    n_rows = arguments.sevennet or arguments.rows
    if n_rows:
        rng = torch.Generator().manual_seed(0)
        chosen = torch.randperm(len(rows.batch), generator=rng)[:n_rows]
        rows = Rows(rows.batch.select(chosen), rows.counts[chosen.numpy()])
    dft, formation = reference("formation_energy_per_atom_ev", recommended=True)
    own, chgnet_energy = chgnet()

    def of(energies: dict[str, float]) -> np.ndarray:
        return np.array([energies.get(key, np.nan) for key in rows.batch.ids])

    truth = dft.above(rows, of(formation))
    above = {"chgnet-0.3.0": own.above(rows, of(chgnet_energy))}
    if arguments.sevennet:
        table, energy = sevennet(rows, (own, dft), arguments.minutes)
        above["sevennet-0"] = table.above(rows, of(energy))
    else:
        for name in ("mace", "orb", "uma"):
            table, energy = reference(f"{name}_energy_per_atom_ev", recommended=False)
            above[name] = table.above(rows, of(energy))
    answer = {"rows": len(rows.batch), **report(truth, above)}
    path = WORK / ("votes_sevennet.json" if arguments.sevennet else "votes.json")
    path.write_text(json.dumps(answer, indent=2) + "\n", encoding="utf-8")
    sys.stdout.write(json.dumps(answer, indent=2) + "\n")


if __name__ == "__main__":
    main()
