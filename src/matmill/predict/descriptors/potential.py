"""The `potential` block: what the embedded potential (CHGNet, frozen) knows of each crystal."""

from functools import cache

import torch
from torch import Tensor

from matmill.crystals.batch import CrystalBatch
from matmill.predict.descriptors.bonds import check
from matmill.predict.descriptors.pooling import pooled
from matmill.predict.descriptors.table import Features, from_columns
from matmill.units import convert
from matmill.verify.potentials import CHGNetPotential, load_chgnet


def potential_block(batch: CrystalBatch) -> Features:
    """Return statistics over the atoms of CHGNet's features, energies, moments, forces and stress.

    Args:
        batch: Any number of crystals. They are described as they are given, not relaxed.

    Returns:
        One row a crystal; NaN where it holds an element beyond plutonium, which CHGNet never saw.

    Raises:
        InputError: If a crystal has no volume, unknown coordinates or a masked atom.

    Source:
        Deng et al., CHGNet (2023).
    """
    check(batch)
    sites = load().describe(batch)
    owner, n = batch.crystal_index, len(batch)
    columns: dict[str, Tensor] = {}
    for place, values in enumerate(sites.after.double().unbind(1)):
        columns |= pooled(values, owner, n, f"feature_{place:02d}")
    columns |= pooled(sites.energy_ev, owner, n, "site_energy_ev")
    columns |= pooled(sites.moment_bohr_magneton, owner, n, "moment_bohr_magneton")
    force = sites.forces_ev_per_a.norm(dim=1)
    columns |= pooled(force, owner, n, "force_ev_per_angstrom", ("mean", "max"))
    stress = sites.stress_ev_per_a3 * convert(1.0, "eV/A3", "GPa")
    pressure = -stress.diagonal(dim1=1, dim2=2).mean(1)
    columns["pressure_gpa"] = pressure
    shear = stress + pressure[:, None, None] * torch.eye(3, dtype=torch.float64)
    columns["shear_stress_gpa"] = (1.5 * (shear**2).sum((1, 2))).sqrt()
    return from_columns(columns)


@cache
def load() -> CHGNetPotential:
    """Return the potential, loaded once."""
    return load_chgnet()
