"""Make the table of Wyckoff positions: computed from the operations, named as moyopy names them.

    python benchmarks/wyckoff_positions.py

The positions come from `matmill.generate.wyckoff.derive`. Only the letters are conventions: a
crystal with one atom on a position and a general orbit that pins the group is analysed, and the
letter is read off at the standardised site. The run fails unless every position of all 230 groups
gets one letter, no two the same, and there are 1731 of them. The swaps are generators of what the
affine normaliser does to the letters: "bac" turns a into b and b into a.
"""

import argparse
import json
from pathlib import Path

import moyopy
import numpy as np
import torch

from matmill.crystals.wyckoff_letters import ASSET
from matmill.generate.wyckoff.derive import wyckoff_pieces
from matmill.generate.wyckoff.normaliser import position_permutations
from matmill.generate.wyckoff.positions import operations
from matmill.randomness import child
from matmill.training.checkpoint import write_atomically

_TRIES = 60
ASSETS = Path(__file__).parents[1] / "src" / "matmill" / "assets"


def random_lattice(rotations, rng):
    """Return lattice vectors in rows that the rotations leave alone and nothing more does."""
    metric = torch.randn(3, 3, generator=rng, dtype=torch.float64).numpy() * 0.25 + np.eye(3)
    metric = metric @ metric.T
    metric = np.mean([r.T @ metric @ r for r in rotations], axis=0)
    lattice = np.linalg.cholesky(metric)
    return lattice * (4000.0 / abs(np.linalg.det(lattice))) ** (1 / 3)


def orbit(point, rotations, shifts):
    """Return the distinct images of a point."""
    images = (rotations @ point + shifts) % 1.0
    kept = []
    for image in images:
        steps = np.array([image - k for k in kept]).reshape(-1, 3)
        if not (np.abs(steps - np.round(steps)) < 1e-5).all(-1).any():
            kept.append(image)
    return np.array(kept)


def letters(space_group, classes, rng):
    """Return one letter for each class of pieces."""
    rotations, shifts = (a.numpy() for a in operations(space_group))
    names = {}
    for _ in range(_TRIES):
        for pieces in classes:
            lattice = random_lattice(rotations, rng)
            draw = torch.rand(3, 3, generator=rng, dtype=torch.float64).numpy()
            point = pieces[0].anchor + draw[0, : len(pieces[0].basis)] @ pieces[0].basis
            special = orbit(point, rotations, shifts)
            general = [orbit(p, rotations, shifts) for p in draw[1:]]
            sites = np.concatenate([special, *general])
            kinds = [1] * len(special) + [2] * len(general[0]) + [3] * len(general[1])
            cell = moyopy.Cell(lattice.tolist(), sites.tolist(), kinds)
            try:
                data = moyopy.MoyoDataset(cell, symprec=1e-4)
            except ValueError:
                continue
            if data.number != space_group:
                continue
            # The analysis may choose another of the equivalent origins: read where it put it.
            site = np.array(data.prim_std_cell.positions)[data.mapping_std_prim[0]]
            holders = [k for k, c in enumerate(classes) if any(p.holds(site) for p in c)]
            here = min(holders, key=lambda k: len(classes[k][0].basis))
            if names.setdefault(here, data.wyckoffs[0]) != data.wyckoffs[0]:
                raise SystemExit(f"group {space_group}: two letters for one position")
        if len(names) == len(classes):
            break
    if len(set(names.values())) != len(classes):
        raise SystemExit(f"group {space_group}: {len(names)} of {len(classes)} positions named")
    return [names[k] for k in range(len(classes))]


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=ASSETS / ASSET)
    arguments = parser.parse_args()
    table, total = {}, 0
    for space_group in range(1, 231):
        rotations, shifts = (a.numpy() for a in operations(space_group))
        classes = wyckoff_pieces(rotations, shifts)
        names = letters(space_group, classes, child(0, "wyckoff", space_group))
        rows = []
        for letter, (piece, *_) in sorted(zip(names, classes, strict=True), key=_by_letter):
            in_48ths = np.round(piece.anchor * 48).astype(int).tolist()
            n_sites = len(rotations) // int(piece.stabiliser.sum())
            rows.append([letter, n_sites, in_48ths, piece.basis.tolist()])
        swaps = [
            "".join(
                name
                for _, name in sorted(
                    zip(names, (names[k] for k in p), strict=True), key=_by_letter
                )
            )
            for p in position_permutations(rotations, shifts, classes)
        ]
        table[space_group] = {"positions": rows, "swaps": swaps}
        total += len(rows)
    if total != 1731:
        raise SystemExit(f"{total} positions, but there are 1731")
    groups = (f"  {json.dumps(str(k))}: {json.dumps(v)}" for k, v in table.items())
    text = "{\n" + ",\n".join(groups).replace(", ", ",") + "\n}\n"
    write_atomically(arguments.out, text.encode())
    print(f"{total} positions of {len(table)} groups, {len(text) / 1e3:.0f} kB: {arguments.out}")


def _by_letter(named):
    letter = named[0]
    return letter.isupper(), letter  # group 47 runs past z; its last letter is A


if __name__ == "__main__":
    main()
