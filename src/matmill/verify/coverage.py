"""COV-R and COV-P: do generated crystals reach every kind of known one, and only such kinds?

Fingerprints are those of CDVAE: of a structure the mean over its sites of CrystalNN order
parameters (61 numbers), of a composition the 132 statistics of Magpie, standardised by the
constants that were published with the cut-offs. Equivalent atoms have equal fingerprints, so one
atom of each orbit will do where a change below the tolerance of the symmetry does not matter.

Source:
    Xie et al., Crystal Diffusion Variational Autoencoder (2022), appendix; Zimmermann and Jain,
    Local structure order parameters (2020); Ward et al., Magpie (2016).
"""

import math
import warnings
from collections.abc import Callable
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from matmill.crystals.batch import CrystalBatch
from matmill.crystals.composition import element_counts
from matmill.crystals.convert import to_structure
from matmill.crystals.magpie import magpie_scaler, magpie_vectors
from matmill.crystals.symmetry import datasets
from matmill.verify.metrics import Metric, mean, share
from matmill.verify.validity import check, smallest_distance

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

_ORBIT_A = 0.01  # tolerance in Å within which sites count as equivalent
_LEAST_DISTANCE_A = 0.05
_SPARSE_A3 = 60.0  # for each atom; the most open zeolites have less
_MOST_NEIGHBOURS = 50_000
_MOST_ATOMS_PER_A3 = 2.0  # ten times those of diamond: more would fill memory with neighbours


def structure_fingerprints(
    batch: CrystalBatch,
    *,
    every_site: bool = False,
    on_crystal: Callable[[int], None] | None = None,
) -> Float[Tensor, "n_crystals 61"]:
    """Return the mean order parameters of the sites of each crystal; NaN where there are none.

    Args:
        batch: The crystals; about 20 ms for each site that is looked at.
        every_site: Look at every atom, as the original does, and at crystals that fail
            `validity.check` as well; otherwise at one atom of each orbit of a crystal that passes.
        on_crystal: Told the position of each crystal as it is finished.
    """
    found = torch.full((len(batch), N_STRUCTURE), torch.nan, dtype=torch.float64)
    # Overlapping atoms have no neighbours to tell, and looking for them would never end.
    ends = ~_loses_neighbours(batch)
    if every_site:
        whole, orbits = (ends & _has_room(batch)).tolist(), [None] * len(batch)
    else:
        sound = torch.tensor([fate is None for fate in check(batch)], dtype=torch.bool)
        whole, orbits = (ends & sound).tolist(), datasets(batch, symprec=_ORBIT_A)
    for i, data in enumerate(orbits):
        if whole[i]:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # oxidation states are missing, at every site
                found[i] = _mean_over_sites(to_structure(batch, i), data)
        if on_crystal is not None:
            on_crystal(i)
    return found


def composition_fingerprints(batch: CrystalBatch) -> Float[Tensor, "n_crystals 132"]:
    """Return Magpie's statistics: least, largest, range, mean, mean deviation and mode.

    Of 22 properties of the elements, by the published table, not standardised. NaN for a property
    that Magpie does not know of one of the elements.
    """
    return magpie_vectors(element_counts(batch), missing="unknown")


def coverage(
    generated: tuple[Float[Tensor, "n 61"], Float[Tensor, "n 132"]],
    reference: tuple[Float[Tensor, "m 61"], Float[Tensor, "m 132"]],
    *,
    cutoffs: tuple[float, float] = MP_20_CUTOFFS,
) -> list[Metric]:
    """Return COV-R, COV-P and the mean smallest distances behind them.

    The nearest crystal in structure and the nearest in composition may be two different ones, as in
    the original. Crystals without a fingerprint are near nothing and stay in the denominator.

    Args:
        generated: Structure and composition fingerprints of the samples.
        reference: The same of known crystals.
        cutoffs: Largest distances in structure and in composition.
    """
    mine, theirs = nearest(generated, reference)
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
) -> tuple[Distances, Distances]:
    """Return the smallest distances of the samples, and those of the known crystals.

    Infinite for crystals without a fingerprint. Arguments as of `coverage`.
    """
    mine, theirs = (standardised(x) for x in (generated[1], reference[1]))
    structure = _smallest(generated[0], reference[0])
    composition = _smallest(mine, theirs)
    return (structure[0], composition[0]), (structure[1], composition[1])


def standardised(prints: Float[Tensor, "n 132"]) -> Float[Tensor, "n 132"]:
    """Return composition fingerprints in the published units; unknown numbers become 0, the mean.

    A crystal about which nothing is known stays NaN.
    """
    middle, width = magpie_scaler()
    scaled = ((prints - middle) / width).nan_to_num(nan=0.0)
    return scaled.masked_fill(torch.isnan(prints).all(1, keepdim=True), torch.nan)


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


def _has_room(batch: CrystalBatch) -> Bool[Tensor, " n_crystals"]:
    """Return which crystals are finite, and sparse enough for neighbours to be looked for."""
    bad_atom = ~torch.isfinite(batch.frac_coords).all(1)
    n_bad = torch.zeros(len(batch), dtype=torch.int64)
    n_bad = n_bad.index_add(0, batch.crystal_index, bad_atom.long())
    good = (n_bad == 0) & torch.isfinite(batch.lattice).flatten(1).all(1)
    good &= batch.n_atoms / batch.volume <= _MOST_ATOMS_PER_A3
    rows = torch.nonzero(good).flatten()
    good[rows] = smallest_distance(batch.select(rows)) >= _LEAST_DISTANCE_A
    return good


def _loses_neighbours(batch: CrystalBatch) -> Bool[Tensor, " n_crystals"]:
    """Return which crystals are so sparse and long that neighbours would be sought in 50,000 atoms.

    Where a site's cell does not close among the atoms within 13 Å, the search goes on to the
    longest diagonal of the cell, in one call that no timer can end.
    """
    corners = torch.tensor([[1, 1, 1], [-1, 1, 1], [1, -1, 1], [1, 1, -1]], dtype=torch.float64)
    reach = (corners @ batch.lattice.double()).norm(dim=-1).amax(1)
    per_atom = batch.volume.double() / batch.n_atoms
    count = 4.0 / 3.0 * math.pi * reach**3 / per_atom
    return (per_atom > _SPARSE_A3) & (count > _MOST_NEIGHBOURS)


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
