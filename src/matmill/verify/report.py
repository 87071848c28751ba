"""Relaxing files: read, relax, place above the hull, write. What `matmill relax` calls."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass
from functools import partial
from math import nan
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from matmill.crystals.batch import CrystalBatch
from matmill.crystals.files import read, write
from matmill.progress import OnEvent, ignore
from matmill.units import convert
from matmill.verify import schemes
from matmill.verify.backends import DEFAULT, potential_maker
from matmill.verify.hull import Hull
from matmill.verify.metrics import relaxation_rmsd
from matmill.verify.potentials import Potential, scheme_of
from matmill.verify.relax import Relaxed, RelaxSettings, relax
from matmill.verify.relax_workers import Mapper, n_processes, relax_in_workers
from matmill.verify.validity import check

StartWorkers = Callable[[int], AbstractContextManager[Mapper]]
"""Starts so many processes, and stops them at the end of a ``with`` block."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RelaxRow:
    """One relaxed crystal as a row of a table; NaN for what was not computed.

    Attributes:
        id: Id from the file.
        formula: Reduced formula.
        status: ``"converged"`` or the fate that stopped it.
        converged: Whether all forces are below the limit.
        steps: Steps taken.
        start_energy_ev_per_atom: Before the first step, by the potential.
        energy_ev_per_atom: At the end, by the potential.
        energy_drop_ev_per_atom: How much lower than at the start.
        energy_above_hull_ev_per_atom: NaN where the hull lacks an element or nothing was computed.
        hull_name: Reference hull; empty where no hull of this potential ships.
        n_competitors: Known crystals of exactly this chemical system.
        max_force_ev_per_a: Largest force at the end, atoms and cell.
        max_cell_force_ev: That of the cell: the largest row of its virial by the number of atoms.
        stress_gpa: xx, yy, zz, yz, xz, xy at the end, positive when the cell wants to shrink.
        rmsd_a: How far atoms moved, root mean square in Å, each atom from where it was, shortest
            image, drift and the change of the cell taken out.
        volume_ratio: Volume after over volume before.
        potential_name: Name and version of the potential.
        energy_scheme: Which corrections its energies carry (see `potentials.SCHEMES`).
    """

    id: str
    formula: str
    status: str
    converged: bool
    steps: int
    start_energy_ev_per_atom: float
    energy_ev_per_atom: float
    energy_drop_ev_per_atom: float
    energy_above_hull_ev_per_atom: float
    hull_name: str
    n_competitors: int
    max_force_ev_per_a: float
    max_cell_force_ev: float
    stress_gpa: tuple[float, ...]
    rmsd_a: float
    volume_ratio: float
    potential_name: str
    energy_scheme: str

    def as_dict(self) -> dict[str, object]:
        """Return the row as a dictionary."""
        return asdict(self)


_WRITTEN = (
    "start_energy_ev_per_atom",
    "energy_ev_per_atom",
    "energy_above_hull_ev_per_atom",
    "max_force_ev_per_a",
    "max_cell_force_ev",
    "rmsd_a",
)


def relax_files(
    files: Sequence[Path],
    settings: RelaxSettings,
    *,
    out: Path | None = None,
    potential: str = DEFAULT,
    weights: Path | None = None,
    n_workers: int = 1,
    start_workers: StartWorkers | None = None,
    give_up_above_ev: float | None = None,
    on_event: OnEvent = ignore,
) -> tuple[list[RelaxRow], list[str]]:
    """Relax the crystals of some files and write them.

    Crystals that cannot be relaxed (overlapping atoms, elements beyond plutonium) keep their
    geometry and say why.

    Args:
        files: Structure files and folders.
        settings: When to stop.
        out: Where to write the relaxed crystals, with what was found as properties.
        potential: A name, or ``module:attribute``.
        weights: A file of weights for it.
        n_workers: Processes; 0 for one a core where that is worth their start-up.
        start_workers: Starts them; without it everything happens here.
        give_up_above_ev: Crystals that will not come within so many eV/atom of the hull are given
            up early.
        on_event: Told about the progress.

    Returns:
        One row per crystal, and one line per crystal that could not be read.
    """
    make = potential_maker(potential, weights)
    loaded = make()  # before anything is read: a wrong name or an absent package costs no time
    found = read(list(files), on_event=on_event)
    crystals = found.crystals.to(dtype=torch.float64)
    n = n_processes(n_workers, crystals) if start_workers is not None else 1
    hull = Hull.of_potential(loaded.name)  # without one there are no distances
    if start_workers is None or n == 1:
        rows, relaxed = relax_rows(
            crystals, loaded, hull, settings, give_up_above_ev=give_up_above_ev, on_event=on_event
        )
    else:
        with start_workers(n) as workers:
            rows, relaxed = relax_rows(
                crystals,
                loaded,
                hull,
                settings,
                give_up_above_ev=give_up_above_ev,
                on_event=on_event,
                run=partial(
                    relax_in_workers,
                    make_potential=make,
                    settings=settings,
                    workers=workers,
                    n_workers=n,
                ),
            )
    if out is not None:
        write(relaxed, out)
    return rows, [str(complaint) for complaint in found.complaints]


def relax_rows(
    crystals: CrystalBatch,
    potential: Potential,
    hull: Hull | None,
    settings: RelaxSettings,
    *,
    give_up_above_ev: float | None = None,
    run: Callable[..., Relaxed] | None = None,
    on_event: OnEvent = ignore,
) -> tuple[list[RelaxRow], CrystalBatch]:
    """Relax crystals and return a row for each, with the crystals in the same order.

    Args:
        crystals: The crystals.
        potential: Its energies go into the rows.
        hull: Distances to it are stated; None for none.
        settings: When to stop.
        give_up_above_ev: See `relax_files`.
        run: Relaxes a batch somewhere else; takes ``limit_ev_per_atom`` and ``on_event``.
        on_event: Told about the progress.

    Raises:
        InputError: If the potential's energies do not compare with the hull.
    """
    objections = check(crystals)
    good = torch.tensor(
        [i for i, objection in enumerate(objections) if objection is None], dtype=torch.int64
    )
    start = crystals.select(good)
    name = "" if hull is None else schemes.hull_name(hull, potential)
    limit = None
    if give_up_above_ev is not None and hull is not None:
        at_zero = schemes.energy_above(hull, potential, torch.zeros(len(start)).double(), start)
        limit = give_up_above_ev - at_zero
    run = run or partial(relax, potential=potential, settings=settings)
    result = run(start, limit_ev_per_atom=limit, on_event=on_event)
    everything = Relaxed.untouched(crystals)
    everything.put(good, result)
    after = everything.batch
    # What was never relaxed keeps its coordinates to the last digit.
    kept = torch.ones(len(crystals), dtype=torch.bool)
    kept[good] = False
    after.frac_coords[kept[crystals.crystal_index]] = crystals.frac_coords[
        kept[crystals.crystal_index]
    ].double()
    above = torch.full((len(crystals),), nan, dtype=torch.float64)
    competitors = [0] * len(crystals)
    if hull is not None:
        above[good] = schemes.energy_above(hull, potential, result.energy_ev, result.batch)
        competitors = hull.n_competitors(crystals).tolist()
    rmsd = torch.full_like(above, nan)
    rmsd[good] = relaxation_rmsd(start, result.batch)
    columns: dict[str, Tensor] = {
        "start_energy_ev_per_atom": everything.start_energy_ev / crystals.n_atoms,
        "energy_ev_per_atom": everything.energy_ev / crystals.n_atoms,
        "energy_above_hull_ev_per_atom": above,
        "max_force_ev_per_a": everything.max_force,
        "max_cell_force_ev": everything.max_cell_force,
        "rmsd_a": rmsd,
    }
    columns["energy_drop_ev_per_atom"] = (
        columns["start_energy_ev_per_atom"] - columns["energy_ev_per_atom"]
    )
    columns["volume_ratio"] = after.volume / crystals.volume
    stress = everything.stress_ev_per_a3 * convert(1.0, "eV/A3", "GPa")
    voigt = stress.flatten(1)[:, [0, 4, 8, 5, 2, 1]]
    fates = [objections[i] or everything.status[i] for i in range(len(crystals))]
    formulas = crystals.formula
    rows = [
        RelaxRow(
            id=crystals.ids[i] if crystals.ids else str(i),
            formula=formulas[i],
            status="converged" if fate is None else fate.value,
            converged=bool(everything.converged[i]),
            steps=int(everything.steps[i]),
            hull_name=name,
            n_competitors=competitors[i],
            stress_gpa=tuple(voigt[i].tolist()),
            potential_name=potential.name,
            energy_scheme=scheme_of(potential),
            **_numbers(columns, i),
        )
        for i, fate in enumerate(fates)
    ]
    written = {name: columns[name] for name in _WRITTEN}
    return rows, after.with_properties(**written)


def _numbers(columns: dict[str, Tensor], i: int) -> dict[str, Any]:
    return {name: float(column[i]) for name, column in columns.items()}
