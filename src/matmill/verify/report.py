"""Relaxing files: read, relax, place above the hull, write. What `matmill relax` calls."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from matmill.crystals.batch import CrystalBatch
from matmill.crystals.files import read, write
from matmill.progress import OnEvent, ignore
from matmill.verify import schemes
from matmill.verify.hull import Hull
from matmill.verify.potentials import Potential, load_chgnet
from matmill.verify.relax import RelaxSettings, relax
from matmill.verify.validity import check


@dataclass(frozen=True, slots=True, kw_only=True)
class RelaxRow:
    """One relaxed crystal as a row of a table.

    Attributes:
        id: Id from the file.
        formula: Reduced formula.
        status: ``"converged"`` or the fate that stopped it.
        steps: Steps taken.
        energy_ev_per_atom: At the end, by the potential.
        energy_drop_ev_per_atom: How much lower than at the start.
        energy_above_hull_ev_per_atom: NaN where the hull lacks an element or nothing was computed.
        hull_name: Reference hull; empty where no hull of this potential ships.
        n_competitors: Known crystals of exactly this chemical system.
        max_force_ev_per_a: Largest force at the end, atoms and cell.
        volume_ratio: Volume after over volume before.
    """

    id: str
    formula: str
    status: str
    steps: int
    energy_ev_per_atom: float
    energy_drop_ev_per_atom: float
    energy_above_hull_ev_per_atom: float
    hull_name: str
    n_competitors: int
    max_force_ev_per_a: float
    volume_ratio: float

    def as_dict(self) -> dict[str, object]:
        """Return the row as a dictionary."""
        return asdict(self)


def relax_files(
    files: Sequence[Path],
    settings: RelaxSettings,
    *,
    out: Path | None = None,
    potential: Potential | None = None,
    on_event: OnEvent = ignore,
) -> tuple[list[RelaxRow], list[str]]:
    """Relax the crystals of some files and write them.

    Crystals that cannot be relaxed (overlapping atoms, elements beyond plutonium) keep their
    geometry and say why.

    Args:
        files: Structure files and folders.
        settings: When to stop.
        out: Where to write the relaxed crystals, with energies as properties.
        potential: CHGNet 0.3.0 unless given.
        on_event: Told about the progress.

    Returns:
        One row per crystal, and one line per crystal that could not be read.
    """
    found = read(list(files), on_event=on_event)
    crystals = found.crystals.to(dtype=torch.float64)
    potential = potential or load_chgnet()
    hull = Hull.of_potential(potential.name)  # without one there are no distances
    rows, relaxed = relax_rows(crystals, potential, hull, settings, on_event=on_event)
    if out is not None:
        write(relaxed, out)
    return rows, [str(complaint) for complaint in found.complaints]


def relax_rows(
    crystals: CrystalBatch,
    potential: Potential,
    hull: Hull | None,
    settings: RelaxSettings,
    *,
    on_event: OnEvent = ignore,
) -> tuple[list[RelaxRow], CrystalBatch]:
    """Relax crystals and return a row for each, with the crystals in the same order.

    Without a hull there are no distances.

    Raises:
        InputError: If the potential's energies do not compare with the hull.
    """
    n = len(crystals)
    name = "" if hull is None else schemes.hull_name(hull, potential)
    objections = check(crystals)
    good = torch.tensor([i for i in range(n) if objections[i] is None], dtype=torch.int64)
    result = relax(crystals.select(good), potential, settings, on_event=on_event)
    above = torch.full_like(result.energy_ev, torch.nan)
    competitors = [0] * n
    if hull is not None:
        above = schemes.energy_above(hull, potential, result.energy_ev, result.batch)
        competitors = hull.n_competitors(crystals).tolist()
    lattice, frac = crystals.lattice.clone(), crystals.frac_coords.clone()
    place = {int(row): i for i, row in enumerate(good)}
    for row, i in place.items():
        lattice[row] = result.batch.lattice[i]
        frac[crystals.atoms_of(row)] = result.batch.frac_coords[result.batch.atoms_of(i)]
    nan = torch.full((n,), torch.nan, dtype=torch.float64)
    energy, drop, distance, force = nan.clone(), nan.clone(), nan.clone(), nan.clone()
    n_atoms = result.batch.n_atoms
    energy[good] = result.energy_ev / n_atoms
    drop[good] = (result.start_energy_ev - result.energy_ev) / n_atoms
    distance[good] = above
    force[good] = result.max_force
    relaxed = CrystalBatch(
        lattice=lattice,
        frac_coords=frac,
        atomic_numbers=crystals.atomic_numbers,
        n_atoms=crystals.n_atoms,
        ids=crystals.ids,
        properties={
            **crystals.properties,
            "energy_ev_per_atom": energy,
            "energy_above_hull_ev_per_atom": distance,
        },
    )
    rows = []
    for row in range(n):
        i = place.get(row)
        fate = objections[row] if i is None else result.status[i]
        rows.append(
            RelaxRow(
                id=crystals.ids[row] if crystals.ids else str(row),
                formula=crystals.formula[row],
                status="converged" if fate is None else fate.value,
                steps=0 if i is None else int(result.steps[i]),
                energy_ev_per_atom=float(energy[row]),
                energy_drop_ev_per_atom=float(drop[row]),
                energy_above_hull_ev_per_atom=float(distance[row]),
                hull_name=name,
                n_competitors=competitors[row],
                max_force_ev_per_a=float(force[row]),
                volume_ratio=float(relaxed.volume[row] / crystals.volume[row]),
            )
        )
    return rows, relaxed
