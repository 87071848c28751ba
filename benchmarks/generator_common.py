"""What the generator's measurements share: known crystals, and samples that a kill cannot lose."""

import json
import os
import time
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from matmill.crystals.batch import CrystalBatch, concatenate
from matmill.data.table import open_table
from matmill.randomness import child
from matmill.verify.coverage import composition_fingerprints, coverage, structure_fingerprints
from matmill.verify.report import relax_rows

DATA = Path(os.environ.get("MATMILL_DATA", Path(__file__).parents[2] / "shared" / "data"))
PUBLISHED_GEOMETRY = ("mp_20", "mp_2020_pbe", "mpts_52")
"""Sources whose coordinates are those of the published splits."""


def mp_20(part, data=DATA, *, published_geometry=False):
    """Return the crystals of one published split of MP-20."""
    table = open_table(Path(data) / "mp_20.parquet")
    cells = zip(table.notes["split"], table.notes["structure_source"], strict=True)
    rows = [
        i
        for i, (name, source) in enumerate(cells)
        if name == part and (source in PUBLISHED_GEOMETRY or not published_geometry)
    ]
    return table.crystals.select(rows)


def training_formulas(data=DATA):
    """Return the reduced formulas of MP-20 train, the part that every generator here has seen."""
    return set(mp_20("train", data).formula)


def cached(file, make):
    """Return the crystals of a file, or make them and note what each cost in CPU seconds."""
    if file.exists():
        return unpacked(load_file(file))
    begin = time.process_time()
    batch = make().to(dtype=torch.float64)
    cost = (time.process_time() - begin) / max(1, len(batch))
    batch = batch.with_properties(cpu_s=torch.full((len(batch),), cost, dtype=torch.float64))
    keep(packed(batch), file)
    return batch


def packed(batch):
    """Return a batch as tensors by name: broken crystals too, which no file format takes."""
    fields = ("lattice", "frac_coords", "atomic_numbers", "n_atoms")
    tensors = {name: getattr(batch, name).contiguous() for name in fields}
    return tensors | {f"property:{k}": v.contiguous() for k, v in batch.properties.items()}


def unpacked(tensors):
    """Return the batch that `packed` made tensors of."""
    properties = {
        name.removeprefix("property:"): tensors.pop(name)
        for name in list(tensors)
        if name.startswith("property:")
    }
    return CrystalBatch(**tensors, properties=properties)


def keep(tensors, file):
    """Write tensors so that a kill never leaves half a file."""
    file.parent.mkdir(parents=True, exist_ok=True)
    partial = file.with_suffix(".partial")
    save_file(tensors, partial)
    partial.replace(file)


def sampled(generator, request_of, n, folder, name, *, seed, chunk=2500, stream=None, say=True):
    """Return ``n`` samples, made and kept in pieces.

    ``request_of(k, m)`` asks for the m crystals of piece k. Sets that share a ``stream`` start from
    the same random numbers.
    """
    parts = []
    for k, start in enumerate(range(0, n, chunk)):
        m = min(chunk, n - start)
        file = folder / f"{name}-{k:04d}-{m}.safetensors"
        is_new = not file.exists()
        parts.append(
            cached(
                file,
                lambda k=k, m=m: generator.sample(request_of(k, m), child(seed, stream or name, k)),
            )
        )
        if say and is_new:
            print(f"{name}: {start + m} of {n}", flush=True)
    return concatenate(parts)


def relaxed(batch, potential, hull, settings, folder, name, *, chunk=25):
    """Return relaxed crystals in order, with what happened as properties; kept in pieces."""
    parts = []
    for k, start in enumerate(range(0, len(batch), chunk)):
        part = batch.select(torch.arange(start, min(start + chunk, len(batch))))

        def make(part=part):
            rows, after = relax_rows(part, potential, hull, settings)
            column = {
                "converged": [float(row.status == "converged") for row in rows],
                "above_hull_ev": [row.energy_above_hull_ev_per_atom for row in rows],
                "drop_ev": [row.energy_drop_ev_per_atom for row in rows],
                "steps": [float(row.steps) for row in rows],
            }
            values = {k: torch.tensor(v, dtype=torch.float64) for k, v in column.items()}
            return after.with_properties(**values)

        is_new = not (file := folder / f"{name}-relaxed-{k:04d}-{len(part)}.safetensors").exists()
        parts.append(cached(file, make))
        if is_new:
            print(f"{name}: {start + len(part)} of {len(batch)} relaxed", flush=True)
    return concatenate(parts)


def fingerprinted(batch, folder, name, *, chunk=100):
    """Return structure fingerprints in order, kept in pieces, and the CPU seconds of new ones."""
    parts, begin = [], time.process_time()
    for k, start in enumerate(range(0, len(batch), chunk)):
        part = batch.select(torch.arange(start, min(start + chunk, len(batch))))
        file = folder / f"{name}-prints-{k:04d}-{len(part)}.safetensors"
        if not file.exists():
            keep({"prints": structure_fingerprints(part)}, file)
            print(f"{name}: {start + len(part)} of {len(batch)} fingerprints", flush=True)
        parts.append(load_file(file)["prints"])
    return torch.cat(parts), time.process_time() - begin


def covered(reference, batch, n, folders, name):
    """Return COV-R and the rest for the first n crystals and n of the reference (MP-20 test).

    ``folders`` keep the fingerprints: of the reference, which sets share, and of the batch.
    """
    chosen = subset(reference, n, 0, "coverage")
    mine = batch.select(torch.arange(min(n, len(batch))))
    shared, own = folders
    sides = [
        (fingerprinted(crystals, folder, label)[0], composition_fingerprints(crystals))
        for crystals, folder, label in ((mine, own, name), (chosen, shared, "mp-20-test"))
    ]
    return coverage(*sides)


def symmetry_key(generator, symmetry):
    """Return the mode, and for hard symmetry which model drew the templates.

    Raises:
        DataError: If that model is missing.
    """
    if symmetry != "hard":
        return symmetry
    card = getattr(generator.template_source(), "card", {})
    return f"hard-{card.get('weights_sha256', '')[:8]}"


def subset(batch, n, seed, name):
    """Return ``n`` crystals drawn at random, in a random order that a larger n continues."""
    order = torch.randperm(len(batch), generator=child(seed, name))
    return batch.select(order[:n])


def save(report, path):
    """Write a report as JSON; NaN becomes null."""

    def plain(value):
        if isinstance(value, dict):
            return {key: plain(entry) for key, entry in value.items()}
        if isinstance(value, list | tuple):
            return [plain(entry) for entry in value]
        if isinstance(value, float) and value != value:
            return None
        return value

    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    partial.write_text(json.dumps(plain(report), indent=2, ensure_ascii=False) + "\n")
    partial.replace(path)


def markdown(header, rows):
    """Return a Markdown table."""
    lines = [f"| {' | '.join(header)} |", "|" + "---|" * len(header)]
    return "\n".join(lines + [f"| {' | '.join(map(str, row))} |" for row in rows])


def with_interval(hits, n):
    """Return a share with its 95 % Wilson interval and its counts as text."""
    from matmill.verify.confidence import wilson

    low, high = wilson(hits, n)
    return f"{100 * hits / max(n, 1):.1f} % [{100 * low:.1f}, {100 * high:.1f}] ({hits}/{n})"
