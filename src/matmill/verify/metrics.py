"""Numbers about sets of crystals, each with its numerator and its denominator.

The denominator is the number of crystals given unless the text says otherwise: what fails counts
as failed and is never left out.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from matmill.crystals.batch import CrystalBatch
from matmill.crystals.facts import density, n_elements, volume_per_atom
from matmill.crystals.lattice import minimum_image_distances
from matmill.crystals.matching import CSP_TOLERANCE, Matcher
from matmill.crystals.symmetry import find
from matmill.verify.charges import composition_kinds
from matmill.verify.novelty import first_of_each
from matmill.verify.validity import smallest_distance


@dataclass(frozen=True, slots=True, kw_only=True)
class Metric:
    """One number.

    Attributes:
        name: What it is, with its unit where it has one.
        value: The number; NaN when the denominator is zero.
        numerator: For a share, how many; otherwise the sum that the mean comes from, or the value.
        denominator: Out of how many crystals or pairs.
        is_share: Whether the value is a share, printed in per cent.
    """

    name: str
    value: float
    numerator: float
    denominator: int
    is_share: bool = False

    def shown(self) -> tuple[str, str]:
        """Return the value and what it is out of, as text for a table."""
        if self.is_share:
            return f"{100 * self.value:.1f} %", f"{int(self.numerator)} of {self.denominator}"
        return f"{self.value:.4g}", str(self.denominator)

    def __str__(self) -> str:
        value, out_of = self.shown()
        return f"{self.name}: {value} ({out_of})"


def share(name: str, good: Bool[Tensor, " n"]) -> Metric:
    """Return the share of crystals that are good."""
    n, hits = len(good), int(good.sum())
    value = hits / n if n else np.nan
    return Metric(name=name, value=value, numerator=hits, denominator=n, is_share=True)


def mean(name: str, values: Float[Tensor, " n"]) -> Metric:
    """Return the mean of the values that are numbers; the denominator is how many there are."""
    good = values[torch.isfinite(values)].double()
    value = float(good.mean()) if len(good) else np.nan
    return Metric(name=name, value=value, numerator=float(good.sum()), denominator=len(good))


def geometric_validity(batch: CrystalBatch) -> Metric:
    """Return the share with every distance, self-images included, of at least 0.5 Å.

    The rule of CDVAE (2022), made stricter: there an atom's own images are not looked at. As there,
    a cell below 0.1 Å³ fails.
    """
    good = (smallest_distance(batch) >= 0.5) & (batch.volume >= 0.1)
    return share("geometric validity (0.5 Å, self-images)", good)


def roomy(batch: CrystalBatch, distance_a: float = 1.5) -> Metric:
    """Return the share whose smallest distance exceeds ``distance_a`` Å."""
    good = smallest_distance(batch) > distance_a
    return share(f"smallest distance > {distance_a:g} Å", good)


def compositional_validity(batch: CrystalBatch, table: str = "icsd24") -> list[Metric]:
    """Return the share of valid compositions by SMACT's rule, and what it is made of."""
    kinds = composition_kinds(batch, table)
    found = [
        share(f"compositional validity ({table})", _is(kinds, {"element", "metals", "neutral"}))
    ]
    return found + [
        share(f"compositions: {kind}", _is(kinds, {kind}))
        for kind in ("element", "metals", "neutral", "invalid")
    ]


def wasserstein(a: Float[Tensor, " n"], b: Float[Tensor, " m"]) -> float:
    """Return the Wasserstein-1 distance of two samples, in their unit."""
    x, y = a[torch.isfinite(a)].double().sort().values, b[torch.isfinite(b)].double().sort().values
    if not len(x) or not len(y):
        return float("nan")
    every = torch.cat([x, y]).sort().values
    below_x = torch.searchsorted(x, every[:-1], right=True).double() / len(x)
    below_y = torch.searchsorted(y, every[:-1], right=True).double() / len(y)
    return float(((below_x - below_y).abs() * every.diff()).sum())


def distribution_distances(batch: CrystalBatch, reference: CrystalBatch) -> list[Metric]:
    """Return Wasserstein-1 distances to the reference: density, volume per atom, elements."""
    pairs = (
        ("density Wasserstein-1 (g/cm³)", density),
        ("volume per atom Wasserstein-1 (Å³)", volume_per_atom),
        ("number of elements Wasserstein-1", n_elements),
    )
    found = []
    for name, of in pairs:
        value = wasserstein(of(batch), of(reference))
        found.append(Metric(name=name, value=value, numerator=value, denominator=len(batch)))
    return found


def p1_share(batch: CrystalBatch, symprec: float = 0.1) -> Metric:
    """Return the share without symmetry at ``symprec`` Å (moyopy); failures count as P1."""
    return share(f"P1 at symprec {symprec:g} (moyopy)", find(batch, symprec=symprec).number == 1)


def uniqueness(batch: CrystalBatch) -> Metric:
    """Return the share that is the first of its kind, by the matcher at 0.2/0.3/5."""
    first = torch.tensor(first_of_each(batch), dtype=torch.int64)
    return share("uniqueness (0.2/0.3/5)", first == torch.arange(len(batch)))


def novelty(known: Sequence[object | None]) -> Metric:
    """Return the share that `novelty.find_known` did not find."""
    new = torch.tensor([match is None for match in known], dtype=torch.bool)
    return share("novelty", new)


def csp_match(
    generated: CrystalBatch, truth: CrystalBatch, *, by_size: Sequence[int] = (4, 8, 12, 20)
) -> list[Metric]:
    """Return match rate and RMSE of one generated crystal per true one, by size of the cell.

    Crystal ``i`` of ``generated`` is compared with crystal ``i`` of ``truth`` at 0.3/0.5/10. The
    RMSE, in units of (volume/atom)^(1/3), is the mean over the matches alone.
    """
    mine, theirs = Matcher(generated, CSP_TOLERANCE), Matcher(truth, CSP_TOLERANCE)
    rms = torch.from_numpy(theirs.distances([(i, i) for i in range(len(truth))], other=mine))
    hit = torch.isfinite(rms)
    found = [share("CSP match rate (0.3/0.5/10)", hit), mean("CSP RMSE of the matches", rms)]
    low = 0
    for high in by_size:
        inside = (truth.n_atoms > low) & (truth.n_atoms <= high)
        found.append(share(f"CSP match rate, {low + 1} to {high} atoms", hit[inside]))
        low = high
    return found


def metastable_share(above_hull: Float[Tensor, " n"], limit: float = 0.1) -> Metric:
    """Return the share at most ``limit`` eV/atom above the hull; NaN counts as not."""
    return share(f"energy above hull <= {limit:g} eV/atom", above_hull <= limit)


def sun_shares(
    above_hull: Float[Tensor, " n"],
    is_new: Bool[Tensor, " n"],
    *,
    limits: Sequence[float] = (0.0, 0.05, 0.1),
    judged: str = "as generated",
) -> list[Metric]:
    """Return the shares that are stable, unique and novel at several distances to the hull.

    The one at 0.1 eV/atom is what other papers call MSUN.

    Args:
        above_hull: Energies above the hull in eV/atom; NaN, not relaxed, counts as unstable.
        is_new: Which crystals are unique and novel.
        limits: Largest distances that count as stable.
        judged: On which crystals uniqueness and novelty were judged, for the names.
    """
    return [
        share(f"SUN@{limit:g}, new {judged}", (above_hull <= limit) & is_new) for limit in limits
    ]


def relaxation_rmsd(before: CrystalBatch, after: CrystalBatch) -> Float[Tensor, " n_crystals"]:
    """Return how far atoms moved in relaxation, root mean square in Å.

    Atom by atom in fractional coordinates, measured in the relaxed cell, shortest image, after the
    mean displacement is taken out; a change of the cell alone gives zero.

    Args:
        before: Crystals before relaxation.
        after: The same, in the same order with the same order of atoms.
    """
    step = after.frac_coords.double() - before.frac_coords.double()
    step = step - torch.round(step)
    owner = before.crystal_index
    drift = torch.zeros(len(before), 3, dtype=torch.float64).index_add(0, owner, step)
    step = step - (drift / before.n_atoms[:, None])[owner]
    distance = minimum_image_distances(step, after.lattice.double()[owner])
    square = torch.zeros(len(before), dtype=torch.float64).index_add(0, owner, distance**2)
    return (square / before.n_atoms).sqrt()


def _is(kinds: Sequence[str], wanted: set[str]) -> Tensor:
    return torch.tensor([kind in wanted for kind in kinds], dtype=torch.bool)
