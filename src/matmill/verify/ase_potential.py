"""Any ASE calculator behind the seam of potentials: one crystal after another, in its own units."""

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch

from matmill.crystals.batch import CrystalBatch
from matmill.crystals.convert import to_atoms
from matmill.verify.potentials import OTHER, PotentialOutput

if TYPE_CHECKING:
    from ase.calculators.calculator import Calculator


class AsePotential:
    """Any ASE calculator as a potential.

    A crystal that the calculator refuses (an element that it does not know, say) gets NaN.

    Args:
        make_calculator: Returns a fresh calculator with energy, forces and stress.
        name: Name with version, for tables and caches.
        hash: Content hash of its weights or settings.
        scheme: Which corrections its energies carry, one of `potentials.SCHEMES`.
    """

    def __init__(
        self,
        make_calculator: "Callable[[], Calculator]",
        *,
        name: str,
        hash: str,
        scheme: str = OTHER,
    ) -> None:
        self.name = name
        self.hash = hash
        self.scheme = scheme
        self._calculator = make_calculator()

    def compute(self, batch: CrystalBatch, *, forces: bool = True) -> PotentialOutput:
        """Return energies, and forces and stress if asked."""
        n = len(batch)
        energy = torch.full((n,), torch.nan, dtype=torch.float64)
        force = torch.full((len(batch.frac_coords), 3), torch.nan, dtype=torch.float64)
        stress = torch.full((n, 3, 3), torch.nan, dtype=torch.float64)
        for i in range(n):
            atoms = to_atoms(batch, i)
            atoms.calc = self._calculator
            try:
                energy[i] = float(atoms.get_potential_energy())
                if forces:
                    force[batch.atoms_of(i)] = torch.as_tensor(atoms.get_forces()).double()
                    stress[i] = torch.as_tensor(atoms.get_stress(voigt=False)).double()
            except (ValueError, KeyError, IndexError, ArithmeticError, RuntimeError):
                energy[i] = torch.nan
        return PotentialOutput(
            energy_ev=energy,
            forces_ev_per_a=force if forces else None,
            stress_ev_per_a3=stress if forces else None,
        )
