"""Two thousand structures that are out to break an evaluation, and what becomes of each.

    python benchmarks/hostile.py
    python benchmarks/hostile.py -n 200 --relax 20 --out hostile.json

Overlaps, huge and tiny cells, 1 to 500 atoms, NaN and infinities, exotic elements, flat and needle
cells, disordered CIFs, truncated files, wrong suffixes, wrong types in JSON, empty files and one
folder full of rubbish: made as files, read and judged like anybody's samples. Prints how many have
each status, the slowest structures alone (each judged by itself, in its own folder, by every stage
that `matmill evaluate` has without relaxation), and checks that none was lost.
"""

import argparse
import json
import os
import resource
import sys
import tempfile
import time
from collections import Counter, defaultdict
from contextlib import suppress
from pathlib import Path

import numpy as np
import torch

from generator_common import save
from matmill.crystals.batch import CrystalBatch
from matmill.crystals.elements import SYMBOLS
from matmill.errors import DataError
from matmill.verify.evaluation import Against, evaluate
from matmill.verify.samples import read_samples

SLOWEST = 10
LIMIT_S = 5.0


def cube(a):
    return np.diag([a, a, a]).astype(float)


def random_cell(rng, n, volume_per_atom=15.0):
    """Return a plausible random triclinic cell of ``n`` atoms."""
    lattice = np.eye(3) + 0.3 * rng.standard_normal((3, 3))
    return lattice * (n * volume_per_atom / abs(np.linalg.det(lattice))) ** (1 / 3)


def grid(rng, n):
    """Return ``n`` different places of a grid, jittered: no two atoms meet."""
    side = int(np.ceil(n ** (1 / 3)))
    places = np.stack(np.meshgrid(*[np.arange(side)] * 3, indexing="ij"), -1).reshape(-1, 3)
    chosen = places[rng.permutation(len(places))[:n]]
    return (chosen + 0.3 * rng.random((n, 3))) / side


def cif(lattice, frac, numbers):
    """Return a CIF of any numbers, sound or not."""
    a, b, c = (float(np.linalg.norm(v)) for v in lattice)

    def angle(u, v):
        with np.errstate(all="ignore"):
            return float(np.degrees(np.arccos(u @ v / np.linalg.norm(u) / np.linalg.norm(v))))

    angles = angle(lattice[1], lattice[2]), angle(lattice[0], lattice[2]), angle(*lattice[:2])
    lines = ["data_hostile"]
    for name, value in zip("abc", (a, b, c), strict=True):
        lines.append(f"_cell_length_{name} {value}")
    for name, value in zip(("alpha", "beta", "gamma"), angles, strict=True):
        lines.append(f"_cell_angle_{name} {value}")
    lines += ["loop_", "_atom_site_type_symbol"]
    lines += [f"_atom_site_fract_{axis}" for axis in "xyz"]
    for z, position in zip(numbers, frac, strict=True):
        symbol = SYMBOLS[z] if 0 < z < len(SYMBOLS) else f"Q{z}"
        lines.append(f"{symbol} {position[0]} {position[1]} {position[2]}")
    return "\n".join(lines) + "\n"


def extxyz(lattice, frac, numbers):
    """Return one frame of any numbers."""
    cell = " ".join(str(x) for x in np.asarray(lattice).ravel())
    lines = [str(len(numbers)), f'Lattice="{cell}" Properties=species:S:1:pos:R:3 pbc="T T T"']
    for z, place in zip(numbers, frac @ lattice, strict=True):
        lines.append(f"{SYMBOLS[z % len(SYMBOLS)]} {place[0]} {place[1]} {place[2]}")
    return "\n".join(lines) + "\n"


def structure(lattice, frac, numbers):
    """Return pymatgen's JSON of any numbers."""
    return json.dumps(
        {
            "@module": "pymatgen.core.structure",
            "@class": "Structure",
            "lattice": {"matrix": np.asarray(lattice).tolist()},
            "sites": [
                {"species": [{"element": SYMBOLS[z % len(SYMBOLS)], "occu": 1}], "abc": list(x)}
                for z, x in zip(numbers, np.asarray(frac).tolist(), strict=True)
            ],
        }
    )


def sound(rng, low=1, high=20, volume=15.0):
    n = int(rng.integers(low, high + 1))
    return random_cell(rng, n, volume), grid(rng, n), rng.integers(1, 95, n)


def overlapping(rng):
    lattice, frac, numbers = sound(rng, 2)
    frac[1] = frac[0] + 10.0 ** rng.uniform(-9, -1.5)
    return lattice, frac, numbers


def tiny(rng):
    n = int(rng.integers(1, 9))
    return cube(10.0 ** rng.uniform(-6, 0.3)), grid(rng, n), rng.integers(1, 95, n)


def huge(rng):
    n = int(rng.integers(1, 9))
    return cube(10.0 ** rng.uniform(2, 6)), grid(rng, n), rng.integers(1, 95, n)


def crowded(rng):
    return sound(rng, 100, 500)


def one_kind(rng):
    """Return many atoms of one element on a near-perfect lattice: many mappings to try."""
    side = int(rng.integers(3, 8))
    n = side**3
    places = np.stack(np.meshgrid(*[np.arange(side)] * 3, indexing="ij"), -1).reshape(-1, 3) / side
    places = places + 10.0 ** rng.uniform(-6, -2) * rng.standard_normal((n, 3))
    return cube(2.8 * side), places, np.full(n, int(rng.choice([26, 13, 14])))


def not_finite(rng):
    lattice, frac, numbers = sound(rng)
    target = lattice if rng.random() < 0.5 else frac
    target[int(rng.integers(len(target))), int(rng.integers(3))] = rng.choice(
        [np.nan, np.inf, -np.inf, 1e300]
    )
    return lattice, frac, numbers


def exotic(rng):
    lattice, frac, numbers = sound(rng)
    return lattice, frac, rng.integers(84, 119, len(numbers))


def flat(rng):
    lattice, frac, numbers = sound(rng)
    lattice[2] = lattice[0] * rng.uniform(0.5, 2) + 10.0 ** rng.uniform(-12, 0)
    return lattice, frac, numbers


def needle(rng):
    n = int(rng.integers(1, 12))
    edges = np.array([1.0, 1.0, 1.0]) * 2.5
    edges[int(rng.integers(3))] = 10.0 ** rng.uniform(2, 4)
    return np.diag(edges), grid(rng, n), rng.integers(1, 95, n)


def skewed(rng):
    lattice, frac, numbers = sound(rng)
    lattice[1] += rng.integers(5, 5000) * lattice[0]
    return lattice, frac, numbers


GEOMETRIES = {
    "sound": sound,
    "overlapping": overlapping,
    "tiny": tiny,
    "huge": huge,
    "crowded": crowded,
    "one kind": one_kind,
    "not finite": not_finite,
    "exotic": exotic,
    "flat": flat,
    "needle": needle,
    "skewed": skewed,
}


def disordered(rng):
    text = cif(*sound(rng, 2))
    lines = text.splitlines()
    at = lines.index("_atom_site_fract_z") + 1
    lines[at:at] = ["_atom_site_occupancy"]
    values = rng.choice(["0.5", "1", "0.33(2)", "abc", "-1", "?"], len(lines) - at - 1)
    rows = [f"{line} {x}" for line, x in zip(lines[at + 1 :], values, strict=True)]
    return "\n".join(lines[: at + 1] + rows) + "\n", ".cif"


def truncated(rng):
    writer, suffix = [(cif, ".cif"), (extxyz, ".extxyz"), (structure, ".json")][rng.integers(3)]
    text = writer(*sound(rng))
    return text[: int(rng.integers(0, len(text)))], suffix


def wrong_suffix(rng):
    writer = [cif, extxyz, structure][rng.integers(3)]
    suffix = rng.choice([".cif", ".json", ".extxyz", ".vasp", ".jsonl", ".parquet", ".dat", ".txt"])
    return writer(*sound(rng)), str(suffix)


def symmetric_cif(rng):
    """Return a CIF with strange symmetry operations, or a group without any."""
    text = cif(*sound(rng, 1, 4))
    kind = int(rng.integers(4))
    head, _, tail = text.partition("loop_")
    if kind == 0:
        group = rng.choice(["F m -3 m", "P 6_3/m m c", "Q 7", "", "R -3 m :H", "P1 21/n 1"])
        return f"{head}_symmetry_space_group_name_H-M '{group}'\nloop_{tail}", ".cif"
    operations = {
        1: ["x,y,z", "-x,-y", "x+1/0,y,z"],
        2: [f"x+{i}/97,y,z" for i in range(97)],
        3: ["x,y,z", "y,x,-z+1/2", "2x,y,z", "zz,x,y"],
    }[kind]
    rows = "\n".join(f"'{o}'" for o in operations)
    return f"{head}loop_\n_symmetry_equiv_pos_as_xyz\n{rows}\nloop_{tail}", ".cif"


def rubbish(rng):
    kind = int(rng.integers(6))
    suffix = str(rng.choice([".cif", ".json", ".jsonl", ".extxyz", ".vasp", ".parquet"]))
    if kind == 0:
        return "", suffix
    if kind == 1:
        return rng.bytes(int(rng.integers(1, 4000))), suffix
    if kind == 2:
        return "[" * 3000 + "]" * 3000, ".json"
    if kind == 3:
        return json.dumps(
            {"lattice": {"matrix": "abc"}, "sites": [None, 7, {"species": 1}]}
        ), ".json"
    if kind == 4:
        return f'{10**9}\nLattice="1 0 0 0 1 0 0 0 1"\nH 0 0 0\n', ".extxyz"
    return "data_x\n_cell_length_a ?\nloop_\n_atom_site_fract_x\n\n", ".cif"


FILES = {
    "disordered": disordered,
    "truncated": truncated,
    "wrong suffix": wrong_suffix,
    "strange symmetry": symmetric_cif,
    "rubbish": rubbish,
}
KINDS = (*GEOMETRIES, *FILES)


def write_one(rng, kind, folder, number):
    """Write one hostile file and return its path."""
    if kind in GEOMETRIES:
        crystal = GEOMETRIES[kind](rng)
        with np.errstate(all="ignore"):
            writer, suffix = [(cif, ".cif"), (extxyz, ".extxyz"), (structure, ".json")][
                int(rng.integers(3))
            ]
            content = writer(*crystal)
    else:
        content, suffix = FILES[kind](rng)
    path = folder / f"{number:05d}-{kind.replace(' ', '_')}{suffix}"
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        path.write_text(content, encoding="utf-8")
    return path


def hostile_files(folder, n, seed):
    """Write ``n`` hostile files, all kinds in turn, and return their paths."""
    rng = np.random.default_rng(seed)
    return [write_one(rng, KINDS[i % len(KINDS)], folder, i) for i in range(n)]


def known_crystals():
    """Return a few sound crystals to compare with: small, as they are judged again and again."""
    metals = [3, 11, 13, 26, 29, 47]
    return CrystalBatch.from_lists(
        [cube(3.4 + 0.02 * z) for z in metals],
        [[[0, 0, 0], [0.5, 0.5, 0.5]]] * len(metals),
        [[z, 9] for z in metals],
    )


def peak_mb():
    """Return the largest memory that the process has held, in MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def told():
    """Return a listener that prints every stage as it ends, and the memory so far."""

    def listen(event):
        if event.done == event.total:
            print(f"{event.stage}: {event.done}, {peak_mb():.0f} MB", flush=True)

    return listen


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("-n", type=int, default=2000)
    parser.add_argument("--alone", type=int, help="judge so many by themselves, timed; all")
    parser.add_argument("--relax", type=int, default=0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    known = known_crystals()
    against = Against(reference=known, test=known)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        paths = hostile_files(folder, arguments.n, arguments.seed)
        begin = time.perf_counter()
        samples = read_samples(paths)
        reading = time.perf_counter() - begin
        entries = len(samples.entries)
        print(f"{entries} entries read in {reading:.1f} s, {peak_mb():.0f} MB", flush=True)
        card = evaluate(samples, against, n_relax=arguments.relax, name="hostile", on_event=told())
        whole = time.perf_counter() - begin
        seconds = []
        for path in paths[: arguments.alone]:
            begin = time.process_time()
            with suppress(DataError):  # a file of unknown kind is no sample at all
                evaluate(read_samples([path]), against, name="alone")
            seconds.append((time.process_time() - begin, path.name))
    by_kind = defaultdict(Counter)
    for row in card.rows:
        by_kind[Path(row["file"]).stem.partition("-")[2]][row["status"]] += 1
    print(f"{len(paths)} files, {len(samples.entries)} entries, {len(samples.ignored)} ignored")
    print(f"read in {reading:.1f} s, judged in {whole - reading:.1f} s")
    print(json.dumps(card.statuses, indent=1))
    for kind, counts in sorted(by_kind.items()):
        print(f"{kind:<18} {dict(counts)}")
    seconds.sort(reverse=True)
    print(
        "slowest alone, processor time:",
        *(f"{s:.2f} s {file}" for s, file in seconds[:SLOWEST]),
        sep="\n  ",
    )
    print(f"peak memory {peak_mb():.0f} MB")
    print(f"over {LIMIT_S:g} s alone: {sum(s > LIMIT_S for s, _ in seconds)}")
    report = {
        "command": " ".join(sys.argv),
        "n": len(paths),
        "n_entries": len(samples.entries),
        "ignored": len(samples.ignored),
        "statuses": card.statuses,
        "by_kind": {kind: dict(counts) for kind, counts in by_kind.items()},
        "seconds": {"reading": reading, "all": whole, **card.seconds},
        "slowest": seconds[:SLOWEST],
        "peak_memory_mb": peak_mb(),
        "cores": os.cpu_count(),
    }
    if arguments.out:
        save(report, arguments.out)
    lost = len(paths) - len(samples.ignored) - len({entry.file for entry in samples.entries})
    assert lost == 0, f"{lost} files without a status"


if __name__ == "__main__":
    main()
