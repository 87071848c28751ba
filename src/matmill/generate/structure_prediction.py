"""Which structures a formula may have: sample cells of all sizes, merge, rank by energy.

The generator proposes, a potential ranks. Energies are of single points unless the samples are
relaxed first; samples of a generator lie some tenths of an eV above their minima, so the order of
unrelaxed structures is a rough one.
"""

import json
import time
from dataclasses import dataclass, replace
from functools import reduce
from math import gcd
from pathlib import Path
from typing import Any

import torch

from matmill.crystals import files, symmetry
from matmill.crystals.batch import CrystalBatch
from matmill.crystals.matching import MatchTolerance
from matmill.errors import InputError
from matmill.generate.deliver import record, with_groups
from matmill.generate.protocol import GenerationRequest, Generator
from matmill.progress import Event, OnEvent, ignore
from matmill.randomness import child
from matmill.training.checkpoint import write_atomically
from matmill.verify.novelty import first_of_each
from matmill.verify.potentials import Potential
from matmill.verify.relax import RelaxSettings, relax

_HULL = "energy_above_hull_ev"
ENERGY, ABOVE, UNITS, TIMES = (
    "energy_per_atom_ev",
    "energy_above_best_ev",
    "formula_units",
    "times_found",
)


@dataclass(frozen=True, kw_only=True)
class Ranked:
    """Structures of one formula, the lowest energy first.

    Attributes:
        crystals: Different structures, with the properties ``energy_per_atom_ev``,
            ``energy_above_best_ev`` (NaN where the potential knows nothing), ``formula_units``,
            ``times_found`` (samples that were merged) and the space groups asked for and found.
        n_samples: Samples that were drawn.
        n_judged: Of these, samples with an energy.
        n_converged: Relaxations that converged; None without relaxation.
        units_sampled: Formula units in the cell -> samples.
        potential: Name and version.
        seconds: Wall time.
        warnings: What the generator had to say about the request.
    """

    crystals: CrystalBatch
    n_samples: int
    n_judged: int
    n_converged: int | None
    units_sampled: dict[int, int]
    potential: str
    seconds: float
    warnings: list[str]


def predict_structures(
    generator: Generator,
    request: GenerationRequest,
    potential: Potential,
    *,
    seed: int,
    relaxation: RelaxSettings | None = None,
    tolerance: MatchTolerance | None = None,
    on_event: OnEvent = ignore,
) -> Ranked:
    """Sample ``request.n`` structures of ``request.formula`` and rank those that differ.

    Every number of formula units that fits is tried, as often as cells of that size occur in
    training. Unless told otherwise the generator is asked for crystals on the hull.

    Args:
        generator: Proposes structures.
        request: With a formula; ``n_atoms`` limits the cells.
        potential: Gives the energies.
        seed: Everything random follows from it.
        relaxation: Relax all samples so before they are compared; None leaves them as they are.
        tolerance: Of the matcher that merges samples.
        on_event: Receives progress.

    Raises:
        InputError: If there is no formula, or the generator cannot meet the request.
    """
    formula = request.formula
    if formula is None:
        raise InputError("Structures are predicted for a formula: give one, such as GaN.")
    if _HULL in generator.card["conditions"] and _HULL not in request.conditions:
        known = generator.card["conditions"][_HULL]
        if known["low"] is not None:
            request = replace(request, conditions={**request.conditions, _HULL: 0.0})
    warnings = generator.check(request)
    started, n_done = time.monotonic(), 0

    def show(batch: CrystalBatch) -> None:
        nonlocal n_done
        n_done += len(batch)
        on_event(Event(stage="generate", done=n_done, total=request.n))

    samples = generator.sample(request, child(seed, "generate"), show)
    units = samples.n_atoms // _atoms_a_unit(formula)
    n_converged = None
    if relaxation is not None:
        relaxed = relax(samples, potential, relaxation, on_event=on_event)
        samples, energy = relaxed.batch, relaxed.energy_ev
        n_converged = int(relaxed.converged.sum())
    else:
        energy = potential.compute(samples, forces=False).energy_ev
    samples = samples.with_properties(**{ENERGY: energy / samples.n_atoms, UNITS: units.double()})
    values, counts = torch.unique(units, return_counts=True)
    return Ranked(
        crystals=with_groups(_merged(samples, tolerance), request),
        n_samples=len(samples),
        n_judged=int(torch.isfinite(energy).sum()),
        n_converged=n_converged,
        units_sampled=dict(zip(values.tolist(), counts.tolist(), strict=True)),
        potential=potential.name,
        seconds=time.monotonic() - started,
        warnings=warnings,
    )


def _merged(samples: CrystalBatch, tolerance: MatchTolerance | None) -> CrystalBatch:
    """Return different structures by energy, with how often each was found."""
    if not len(samples):
        nothing = torch.zeros(0, dtype=torch.float64)
        return samples.with_properties(**{ABOVE: nothing, TIMES: nothing})
    energy = samples.properties[ENERGY].nan_to_num(nan=torch.inf)
    samples = samples.select(torch.argsort(energy, stable=True))
    # In this order the first of several equal ones is the one of lowest energy.
    first = torch.tensor(first_of_each(samples, tolerance))
    kept, times = torch.unique(first, return_counts=True)
    ranked = samples.select(kept)
    own = ranked.properties[ENERGY]
    best = own[torch.isfinite(own)].min() if bool(torch.isfinite(own).any()) else torch.nan
    return ranked.with_properties(**{ABOVE: own - best, TIMES: times.double()})


def _atoms_a_unit(formula: dict[str, int]) -> int:
    return sum(formula.values()) // reduce(gcd, formula.values())


def rows(ranked: Ranked) -> list[dict[str, Any]]:
    """Return one plain row for each structure, best first."""
    crystals = ranked.crystals
    columns: dict[str, list[float]] = {
        name: values.tolist() for name, values in crystals.properties.items()
    }
    whole = (UNITS, TIMES, "space_group_requested", "space_group_found")
    return [
        {
            "id": name,
            "formula": crystals.formula[i],
            "n_atoms": int(crystals.n_atoms[i]),
            **{c: _number(columns[c][i]) for c in (ENERGY, ABOVE)},
            **{c: None if columns[c][i] != columns[c][i] else int(columns[c][i]) for c in whole},
        }
        for i, name in enumerate(crystals.ids)
    ]


def _number(value: float) -> float | None:
    return value if value == value else None


def write(
    ranked: Ranked,
    out: Path,
    generator: Generator,
    request: GenerationRequest,
    *,
    seed: int,
    relaxation: RelaxSettings | None = None,
) -> list[Path]:
    """Write the structures, best first, and a record of what made them.

    Raises:
        InputError: If the file exists, or its suffix is unknown.
    """
    if out.is_file():
        raise InputError(f"{out} exists. Choose another --out, or remove it.")
    files.write(ranked.crystals, out if out.suffix else f"{out}/")
    content = record(generator, request, seed, ranked.seconds, ranked.warnings)
    content["symmetry"] = {"library": "moyopy", "symprec_angstrom": symmetry.SYMPREC}
    content["structure_prediction"] = {
        "potential": ranked.potential,
        "relaxation": None if relaxation is None else relaxation.model_dump(),
        "samples": ranked.n_samples,
        "samples_with_energy": ranked.n_judged,
        "relaxations_converged": ranked.n_converged,
        "formula_units_sampled": ranked.units_sampled,
        "structures": rows(ranked),
    }
    path = out.with_name(out.name + ".json")
    write_atomically(path, f"{json.dumps(content, indent=2)}\n".encode())
    return [out, path]
