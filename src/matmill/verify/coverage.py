"""COV-R and COV-P: do generated crystals reach every kind of known one, and only such kinds?

Fingerprints are those of CDVAE: of a structure the mean over its sites of CrystalNN order
parameters (61 numbers), of a composition the 132 statistics of Magpie, standardised by training.
Equivalent atoms have equal fingerprints, so one atom of each orbit is looked at.

Source:
    Xie et al., Crystal Diffusion Variational Autoencoder (2022), appendix; Zimmermann and Jain,
    Local structure order parameters (2020); Ward et al., Magpie (2016).
"""

import warnings
from collections.abc import Callable
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from matmill.crystals.batch import CrystalBatch
from matmill.crystals.composition import element_counts
from matmill.crystals.convert import to_structure
from matmill.crystals.elements import table
from matmill.crystals.symmetry import datasets
from matmill.verify.metrics import Metric, mean, share
from matmill.verify.validity import check

if TYPE_CHECKING:
    from moyopy import MoyoDataset
    from pymatgen.core import Structure

MP_20_CUTOFFS = (0.4, 10.0)
"""Largest distance in structure and in composition at which MP-20 crystals count as near."""

LARGEST_COORDINATION = 24
# Order parameters by coordination number; every coordination number has its weight as well.
_MOTIFS: dict[int, tuple[str, ...]] = {
    1: ("sgl_bd",),
    2: ("L-shaped", "water-like", "bent 120 degrees", "bent 150 degrees", "linear"),
    3: ("trigonal planar", "trigonal non-coplanar", "T-shaped"),
    4: (
        "square co-planar",
        "tetrahedral",
        "rectangular see-saw-like",
        "see-saw-like",
        "trigonal pyramidal",
    ),
    5: ("pentagonal planar", "square pyramidal", "trigonal bipyramidal"),
    6: ("hexagonal planar", "octahedral", "pentagonal pyramidal"),
    7: ("hexagonal pyramidal", "pentagonal bipyramidal"),
    8: ("body-centered cubic", "hexagonal bipyramidal"),
    9: ("q2", "q4", "q6"),
    10: ("q2", "q4", "q6"),
    11: ("q2", "q4", "q6"),
    12: ("cuboctahedral", "q2", "q4", "q6"),
}
N_STRUCTURE = LARGEST_COORDINATION + sum(len(names) for names in _MOTIFS.values())

_SHELLS = {"s": 2, "p": 6, "d": 10, "f": 14}
_MAGPIE = (
    "mendeleev_number",
    "mass",
    "melting_point",
    "group",
    "period",
    "covalent_radius",
    "electronegativity",
    "ground_state_volume",
    "ground_state_band_gap",
    "ground_state_moment",
    "ground_state_space_group",
)


def structure_fingerprints(
    batch: CrystalBatch, *, on_crystal: Callable[[int], None] | None = None
) -> Float[Tensor, "n_crystals 61"]:
    """Return the mean order parameters of the sites of each crystal; NaN where there are none.

    Args:
        batch: The crystals; about 20 ms for each inequivalent atom.
        on_crystal: Told the position of each crystal as it is finished.
    """
    found = torch.full((len(batch), N_STRUCTURE), torch.nan, dtype=torch.float64)
    # Overlapping atoms have no neighbours to tell, and looking for them would never end.
    whole = [fate is None for fate in check(batch)]
    for i, data in enumerate(datasets(batch, symprec=0.01)):
        if whole[i]:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # oxidation states are missing, at every site
                found[i] = _mean_over_sites(to_structure(batch, i), data)
        if on_crystal is not None:
            on_crystal(i)
    return found


def composition_fingerprints(batch: CrystalBatch) -> Float[Tensor, "n_crystals 132"]:
    """Return Magpie's statistics: least, largest, range, mean, mean deviation and mode.

    Of 22 properties of the elements; a property that an element lacks counts as 0. The mode is the
    value of the most frequent element, the lightest at a tie.
    """
    counts = element_counts(batch).double()
    weight = counts / counts.sum(1, keepdim=True)
    values = _magpie_table()  # (119, 22)
    present = (counts > 0)[:, :, None]
    low = torch.where(present, values, torch.inf).amin(1)
    high = torch.where(present, values, -torch.inf).amax(1)
    middle = weight @ values
    deviation = (weight[:, :, None] * (values - middle[:, None]).abs()).sum(1)
    mode = values[counts.argmax(1)]
    return torch.stack([low, high, high - low, middle, deviation, mode], dim=2).flatten(1)


def coverage(
    generated: tuple[Float[Tensor, "n 61"], Float[Tensor, "n 132"]],
    reference: tuple[Float[Tensor, "m 61"], Float[Tensor, "m 132"]],
    scaler: Float[Tensor, "k 132"],
    *,
    cutoffs: tuple[float, float] = MP_20_CUTOFFS,
) -> list[Metric]:
    """Return COV-R, COV-P and the mean smallest distances behind them.

    The nearest crystal in structure and the nearest in composition may be two different ones, as in
    the original. Crystals without a fingerprint are near nothing and stay in the denominator.

    Args:
        generated: Structure and composition fingerprints of the samples.
        reference: The same of known crystals.
        scaler: Composition fingerprints of training crystals, to standardise by.
        cutoffs: Largest distances in structure and in composition.
    """
    mine, theirs = nearest(generated, reference, scaler)
    near = [(s <= cutoffs[0]) & (c <= cutoffs[1]) for s, c in (mine, theirs)]
    return [
        share(f"COV-R ({cutoffs[0]:g}/{cutoffs[1]:g})", near[1]),
        share(f"COV-P ({cutoffs[0]:g}/{cutoffs[1]:g})", near[0]),
        mean("AMSD-R", theirs[0]),
        mean("AMSD-P", mine[0]),
        mean("AMCD-R", theirs[1]),
        mean("AMCD-P", mine[1]),
    ]


Distances = tuple[Float[Tensor, " n"], Float[Tensor, " n"]]
"""Of each crystal, to the nearest of the other set: in structure, and in composition."""


def nearest(
    generated: tuple[Float[Tensor, "n 61"], Float[Tensor, "n 132"]],
    reference: tuple[Float[Tensor, "m 61"], Float[Tensor, "m 132"]],
    scaler: Float[Tensor, "k 132"],
) -> tuple[Distances, Distances]:
    """Return the smallest distances of the samples, and those of the known crystals.

    Infinite for crystals without a fingerprint. Arguments as of `coverage`.
    """
    middle, width = scaler.mean(0), scaler.std(0)
    width = torch.where(width > 1e-9, width, torch.ones_like(width))
    mine, theirs = ((x - middle) / width for x in (generated[1], reference[1]))
    structure = _smallest(generated[0], reference[0])
    composition = _smallest(mine, theirs)
    return (structure[0], composition[0]), (structure[1], composition[1])


def _smallest(
    a: Float[Tensor, "n d"], b: Float[Tensor, "m d"]
) -> tuple[Float[Tensor, " n"], Float[Tensor, " m"]]:
    """Return the distance of each row to the nearest of the other set; infinite where NaN."""
    of_a = torch.full((len(a),), torch.inf, dtype=torch.float64)
    of_b = torch.full((len(b),), torch.inf, dtype=torch.float64)
    for start in range(0, len(a), 1000):
        part = slice(start, start + 1000)
        distance = torch.cdist(a[part], b, compute_mode="donot_use_mm_for_euclid_dist")
        distance = distance.nan_to_num(nan=torch.inf)
        of_a[part] = distance.amin(1)
        of_b = torch.minimum(of_b, distance.amin(0))
    return of_a, of_b


def _mean_over_sites(structure: "Structure", data: "MoyoDataset | None") -> Tensor:
    """Return the mean over all sites, from one site of each orbit; NaN where neighbours fail."""
    orbits = list(range(len(structure))) if data is None else list(data.orbits)
    atoms, counts = np.unique(orbits, return_counts=True)
    try:
        sites = np.stack([_site(structure, int(atom)) for atom in atoms])
    except (ValueError, RuntimeError, IndexError, ZeroDivisionError):
        return torch.full((N_STRUCTURE,), torch.nan, dtype=torch.float64)
    return torch.from_numpy(np.average(sites, axis=0, weights=counts))


def _site(structure: "Structure", atom: int) -> np.ndarray:
    neighbours, parameters = _pymatgen()
    data = neighbours.get_nn_data(structure, atom)
    numbers: list[float] = []
    for coordination in range(1, LARGEST_COORDINATION + 1):
        weight = float(data.cn_weights.get(coordination, 0.0))
        numbers.append(weight)
        motifs = parameters.get(coordination, ())
        if not motifs:
            continue
        near = [entry["site"] for entry in data.cn_nninfo.get(coordination, [])]
        if not weight or not near:
            numbers += [0.0] * len(motifs)
            continue
        cluster, indices = [structure[atom], *near], list(range(1, len(near) + 1))
        for motif in motifs:
            value = motif.get_order_parameters(cluster, 0, indices_neighs=indices)[0]
            numbers.append(weight * (value or 0.0))
    return np.array(numbers)


@cache
def _pymatgen() -> tuple[Any, dict[int, list[Any]]]:
    """Return CrystalNN and the order parameters of each coordination number."""
    from pymatgen.analysis.local_env import CN_OPT_PARAMS, CrystalNN, LocalStructOrderParams

    settings: Any = CN_OPT_PARAMS
    found: dict[int, list[Any]] = {}
    for coordination, names in _MOTIFS.items():
        found[coordination] = []
        for name in names:
            kind, *rest = settings.get(coordination, {}).get(name, [name])
            # One object for each: parameters that are computed together are not the same numbers.
            options: Any = [dict(rest[0])] if rest else None
            found[coordination].append(LocalStructOrderParams([kind], parameters=options))
    return CrystalNN(), found


@cache
def _magpie_table() -> Float[Tensor, "119 22"]:
    number = torch.arange(119).double()
    columns = [number, *(table(name) for name in _MAGPIE)]
    filled = [table(f"n_valence_{shell}") for shell in _SHELLS]
    # An empty shell counts as absent, not as wide open: the convention of Magpie.
    unfilled = [
        torch.where(n > 0, capacity - n, 0 * n)
        for n, capacity in zip(filled, _SHELLS.values(), strict=True)
    ]
    columns += [*filled, torch.stack(filled).sum(0), *unfilled, torch.stack(unfilled).sum(0)]
    return torch.stack([column.double() for column in columns], dim=1).nan_to_num(0.0)
