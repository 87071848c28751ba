"""How far relaxation moved the atoms: two published definitions beside `metrics.relaxation_rmsd`.

They differ by more than their noise: one looks for the best mapping of the two cells and averages
over atoms that symmetry makes equal, the other takes coordinates as they are stored.
"""

from math import nan

import torch
from jaxtyping import Float
from torch import Tensor

from matmill.crystals.batch import CrystalBatch
from matmill.crystals.convert import to_structure
from matmill.crystals.lattice import to_parameters


def rmsd_as_stored(before: CrystalBatch, after: CrystalBatch) -> Float[Tensor, " n_crystals"]:
    """Return the root mean square of raw Cartesian differences in Å.

    No image, drift or cell is looked at: an atom that was wrapped across a face counts a whole
    lattice vector. `unwrapped` makes the coordinates continuous first.

    Source:
        LeMaterial/lemat-genbench, preprocess/multi_mlip_preprocess.py.
    """
    square = (after.cart_coords.double() - before.cart_coords.double()).square().sum(1)
    total = torch.zeros(len(before), dtype=torch.float64)
    return (total.index_add(0, before.crystal_index, square) / before.n_atoms).sqrt()


def unwrapped(before: CrystalBatch, after: CrystalBatch) -> CrystalBatch:
    """Return the relaxed crystals with every atom in the image next to where it started."""
    step = after.frac_coords.double() - before.frac_coords.double()
    return CrystalBatch(
        lattice=after.lattice,
        frac_coords=before.frac_coords.double() + step - torch.round(step),
        atomic_numbers=after.atomic_numbers,
        n_atoms=after.n_atoms,
    )


def rmsd_of_matcher(before: CrystalBatch, after: CrystalBatch, i: int) -> float:
    """Return the RMS of pymatgen's best mapping of one crystal before on after, in Å.

    At 0.5/0.5/10, unscaled, supercells allowed; what does not match counts 0.5 in units of
    (volume / atom)^(1/3). Sites are averaged over the primitive cell first, so small moves are
    under-reported.

    Source:
        microsoft/mattergen, mattergen/evaluation/metrics/structure.py.
    """
    from pymatgen.analysis.structure_matcher import StructureMatcher

    matcher = StructureMatcher(
        ltol=0.5, stol=0.5, angle_tol=10.0, scale=False, attempt_supercell=True
    )
    cells = to_parameters(torch.stack([before.lattice[i], after.lattice[i]]).double()).mean(0)
    volume = _volume(cells.tolist())
    if not volume > 0:
        return nan
    spacing = (volume / int(before.n_atoms[i])) ** (1.0 / 3.0)
    found = matcher.get_rms_dist(to_structure(before, i), to_structure(after, i))
    return (0.5 if found is None else float(found[0])) * spacing


def _volume(parameters: list[float]) -> float:
    from pymatgen.core import Lattice

    return float(Lattice.from_parameters(*parameters).volume)
