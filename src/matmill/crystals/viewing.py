"""What a page needs to show crystals in three dimensions: the viewer, and crystals as JSON.

The viewer is one plain script without dependencies, so that a report is one file that opens
offline. ``viewer.js`` beside this file draws what `entries` and `styles` return.
"""

import json
import math
from collections.abc import Sequence
from importlib.resources import files as resources
from typing import Any

from matmill.crystals.batch import CrystalBatch
from matmill.crystals.elements import SYMBOLS, table
from matmill.crystals.symmetry import conventional

MAX_ATOMS_SHOWN = 200


def viewer() -> str:
    """Return the script of the viewer."""
    return resources("matmill.crystals").joinpath("viewer.js").read_text(encoding="utf-8")


def entries(
    batch: CrystalBatch,
    names: Sequence[str],
    facts: Sequence[str],
    *,
    symprec: float | None = 0.01,
) -> list[dict[str, Any]]:
    """Return what the viewer draws: conventional cells where the symmetry search gives one.

    Args:
        batch: The crystals.
        names: A heading for each.
        facts: Lines of text shown beside each.
        symprec: Tolerance in Å of the conventional cell; None shows every cell as it is.
    """
    shown = batch if symprec is None else conventional(batch, symprec)
    found = []
    for i, (name, text) in enumerate(zip(names, facts, strict=True)):
        source = shown if int(shown.n_atoms[i]) <= MAX_ATOMS_SHOWN else batch
        atoms = source.atoms_of(i)
        found.append(
            {
                "name": name,
                "lattice": _rounded(source.lattice[i].tolist()),
                "frac": _rounded(source.frac_coords[atoms].tolist()),
                "symbols": [SYMBOLS[z] for z in source.atomic_numbers[atoms].tolist()],
                "facts": text,
            }
        )
    return found


def styles(batch: CrystalBatch) -> dict[str, dict[str, Any]]:
    """Return colour (0-255, the convention of Jmol) and covalent radius (Å) by symbol."""
    from ase.data.colors import jmol_colors

    radii = table("covalent_radius")
    found = {}
    for z in sorted(set(batch.atomic_numbers.tolist())):
        color = jmol_colors[z] if z < len(jmol_colors) else (0.7, 0.7, 0.7)
        radius = radii[z].item()
        found[SYMBOLS[z]] = {
            "color": [round(255 * float(c)) for c in color],
            "radius": 1.5 if math.isnan(radius) else round(radius, 2),
        }
    return found


def script(value: Any) -> str:  # noqa: ANN401 - any JSON value
    """Return JSON that may stand inside a script element."""
    return json.dumps(value, ensure_ascii=False).replace("</", "<\\/")


def _rounded(values: list[list[float]]) -> list[list[float]]:
    return [[round(x, 5) for x in row] for row in values]
