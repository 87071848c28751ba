"""How many different things a set holds: effective numbers of kinds, and of fingerprints.

All are Vendi scores: the exponential of the entropy of the eigenvalues of a similarity matrix. For
kinds, which are the same or not, that is the exponential of the entropy of their shares. One kind
gives 1, n equally frequent kinds that share nothing give n. The number grows with the size of the
set, so compare sets of one size.

Source:
    Friedman and Dieng, The Vendi Score: A Diversity Evaluation Metric for Machine Learning (2023).
"""

import torch
from jaxtyping import Float
from torch import Tensor

from matmill.crystals.batch import CrystalBatch
from matmill.crystals.composition import anonymous_formulas, element_counts
from matmill.crystals.symmetry import find
from matmill.errors import InputError
from matmill.verify.distances import embed
from matmill.verify.metrics import Metric
from matmill.verify.spread import effective_number

PLACES = 10.0
"""Element mover's distance over which the similarity of two compositions falls to 1/e.

Our choice, as is the next: 500 crystals of MP-20 test then count as 180, neither all different nor
all alike. With a fifth of both they count as 478, and only copies would show.
"""

ANGSTROM = 1.0
"""Root-mean-square difference of average distances over which that of two geometries does, Å."""


def vendi_score(kernel: Float[Tensor, "n n"]) -> float:
    """Return the effective number of items under a similarity: exp of the eigenvalues' entropy.

    Args:
        kernel: Positive semi-definite with ones on the diagonal.

    Returns:
        1 to n; NaN for no items.

    Raises:
        InputError: If the diagonal is not 1.

    Source:
        Friedman and Dieng (2023), definition 3.1.
    """
    if not len(kernel):
        return float("nan")
    if not torch.allclose(kernel.diagonal().double(), torch.ones(len(kernel)).double()):
        raise InputError("An item is wholly similar to itself: the diagonal must be 1.")
    values = torch.linalg.eigvalsh(kernel.double() / len(kernel)).clamp_min(0.0)
    values = values[values > 0]
    return float(torch.exp(-(values * values.log()).sum()))


def fingerprint_kernel(
    batch: CrystalBatch, *, k: int = 100, places: float = PLACES, angstrom: float = ANGSTROM
) -> Float[Tensor, "m m"]:
    """Return how similar crystals are in composition and geometry, in (0, 1].

    ``exp(−elmd/places) · exp(−rms(AMD_i − AMD_j)/angstrom)``. Both factors are Laplace kernels of a
    Manhattan and a Euclidean distance, which are positive definite, and so is their product; the
    largest difference, which AMD is usually compared by, has no such kernel.

    Args:
        batch: The crystals; those without a fingerprint are left out.
        k: Neighbours of each atom.
        places: Scale of the composition, in steps of the modified Pettifor line.
        angstrom: Scale of the geometry, Å.
    """
    found = embed(batch, "elmd+amd", k=k)
    lines, prints = (part for part in found.parts if isinstance(part, Tensor))
    far = torch.cdist(lines, lines, p=1.0)
    apart = torch.cdist(prints, prints, compute_mode="donot_use_mm_for_euclid_dist") / k**0.5
    return torch.exp(-far / places - apart / angstrom)


def fingerprint_diversity(
    batch: CrystalBatch, rng: torch.Generator, *, most: int = 2000, k: int = 100
) -> Metric:
    """Return the effective number of crystals by `fingerprint_kernel`.

    Args:
        batch: The crystals.
        rng: Draws from a set that is larger than ``most``.
        most: Crystals looked at; the time grows with its third power, 2000 take some seconds.
        k: Neighbours of each atom.
    """
    if len(batch) > most:
        batch = batch.select(torch.randperm(len(batch), generator=rng)[:most].sort().values)
    kernel = fingerprint_kernel(batch, k=k)
    return _number("effective number of crystals (elmd, AMD)", vendi_score(kernel), len(kernel))


def element_diversity(batch: CrystalBatch) -> Metric:
    """Return the effective number of elements, each crystal counting the same.

    The share of an element is the mean over the crystals of its atomic fraction.
    """
    counts = element_counts(batch).double()
    share = (counts / counts.sum(1, keepdim=True)).mean(0) if len(batch) else counts.sum(0)
    share = share[share > 0]
    value = float(torch.exp(-(share * share.log()).sum())) if len(batch) else float("nan")
    return _number("effective number of elements", value, len(batch))


def space_group_diversity(batch: CrystalBatch, *, symprec: float = 0.1) -> Metric:
    """Return the effective number of space groups (moyopy); a failed search counts as P1."""
    groups = find(batch, symprec=symprec).number.tolist()
    return _kinds(f"effective number of space groups at symprec {symprec:g}", groups)


def size_diversity(batch: CrystalBatch) -> Metric:
    """Return the effective number of cell sizes, in atoms; it depends on the choice of cell."""
    return _kinds("effective number of cell sizes", batch.n_atoms.tolist())


def formula_diversity(batch: CrystalBatch) -> Metric:
    """Return the effective number of anonymous formulas, such as AB3."""
    return _kinds("effective number of anonymous formulas", list(anonymous_formulas(batch)))


def diversity(
    batch: CrystalBatch, rng: torch.Generator, *, symprec: float = 0.1, most: int = 2000
) -> list[Metric]:
    """Return every effective number of a set.

    Args:
        batch: The crystals, float64.
        rng: Draws from a set that is larger than ``most``, for the fingerprints.
        symprec: Tolerance of the space groups, Å.
        most: Crystals whose fingerprints are compared.
    """
    return [
        element_diversity(batch),
        space_group_diversity(batch, symprec=symprec),
        size_diversity(batch),
        formula_diversity(batch),
        fingerprint_diversity(batch, rng, most=most),
    ]


def _kinds(name: str, kinds: list) -> Metric:
    return _number(name, effective_number(kinds) if kinds else float("nan"), len(kinds))


def _number(name: str, value: float, n: int) -> Metric:
    return Metric(name=name, value=value, numerator=value, denominator=n)
