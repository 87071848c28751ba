"""One sheet about a set of crystals: what `matmill evaluate` prints.

Every number keeps its numerator and denominator. The denominator is the number of crystals given;
of the numbers after relaxation, the number that relaxation was tried on.
"""

from collections.abc import Sequence
from pathlib import Path

import torch

from matmill.crystals.batch import CrystalBatch
from matmill.crystals.facts import n_elements
from matmill.crystals.files import read
from matmill.progress import Event, OnEvent, ignore
from matmill.verify import metrics
from matmill.verify.hull import Hull
from matmill.verify.metrics import Metric
from matmill.verify.novelty import KnownIndex, find_known, first_of_each
from matmill.verify.potentials import Potential, load_chgnet
from matmill.verify.relax import RelaxSettings, relax
from matmill.verify.signatures import Signature, signatures
from matmill.verify.validity import check

PROTOCOL = {
    "name": "matmill-1",
    "distances": "0.5 Å and 1.5 Å with periodic self-images",
    "composition": "SMACT 4.0, table icsd24, alloys valid, no mixed valence",
    "symmetry": "moyopy, symprec 0.1",
    "matcher": "pymatgen StructureMatcher 0.2/0.3/5",
    "relaxation": "CHGNet 0.3.0, FIRE on cell and positions, fmax 0.1 eV/Å, 200 steps",
}
"""What the numbers were made with; numbers of different protocols are never compared."""


def evaluate(
    batch: CrystalBatch,
    *,
    reference: CrystalBatch | None = None,
    known: KnownIndex | None = None,
    n_relax: int = 0,
    potential: Potential | None = None,
    hull: Hull | None = None,
    on_event: OnEvent = ignore,
) -> list[Metric]:
    """Return the sheet of a set of crystals.

    Args:
        batch: The crystals, float64.
        reference: Crystals whose distributions are wanted; None leaves those distances out.
        known: Index that novelty is judged with; the one that ships unless given.
        n_relax: How many of the crystals, from the first on, to relax and place above the hull.
        potential: CHGNet 0.3.0 unless given.
        hull: The one that ships unless given; it must be of the same potential.
        on_event: Told about the progress.
    """
    found = [
        metrics.geometric_validity(batch),
        metrics.roomy(batch),
        *metrics.compositional_validity(batch),
        metrics.mean("number of elements", n_elements(batch)),
        metrics.p1_share(batch),
    ]
    if reference is not None:
        found += metrics.distribution_distances(batch, reference)
    on_event(Event(stage="match", done=0, total=len(batch)))
    first = torch.tensor(first_of_each(batch), dtype=torch.int64)
    is_first = first == torch.arange(len(batch))
    matches = find_known(batch, known or KnownIndex.load())
    is_new = torch.tensor([match is None for match in matches], dtype=torch.bool)
    on_event(Event(stage="match", done=len(batch), total=len(batch)))
    found.append(metrics.share("uniqueness (0.2/0.3/5)", is_first))
    found.append(metrics.share("novelty", is_new))
    found.append(metrics.share("unique and novel", is_first & is_new))
    if n_relax:
        chosen = torch.arange(min(n_relax, len(batch)))
        found += _after_relaxation(
            batch.select(chosen),
            (is_first & is_new)[chosen],
            potential or load_chgnet(),
            hull or Hull.load(),
            on_event,
        )
    return found


def evaluate_files(
    files: Sequence[Path],
    *,
    reference: Path | None = None,
    n_relax: int = 0,
    on_event: OnEvent = ignore,
) -> tuple[list[Metric], list[str]]:
    """Read crystals and return their sheet, with one line per crystal that could not be read.

    The first number is the share that could be read; the others are about those.
    """
    result = read(list(files), on_event=on_event)
    batch = result.crystals.to(dtype=torch.float64)
    compared = None if reference is None else read(reference).crystals.to(dtype=torch.float64)
    n_broken = len(result.complaints)
    readable = torch.arange(len(batch) + n_broken) < len(batch)
    found = [metrics.share("readable", readable)]
    found += evaluate(batch, reference=compared, n_relax=n_relax, on_event=on_event)
    return found, [str(complaint) for complaint in result.complaints]


def signatures_of_files(files: Sequence[Path], reference: Path) -> list[Signature]:
    """Read crystals and known ones, and return the failure signatures that the former show.

    Fewer than two crystals on either side show nothing: the list is empty.
    """
    batch, known = (read(paths).crystals for paths in (list(files), reference))
    if min(len(batch), len(known)) < 2:
        return []
    return signatures(batch.to(dtype=torch.float64), known.to(dtype=torch.float64))


def _after_relaxation(
    batch: CrystalBatch,
    is_new: torch.Tensor,
    potential: Potential,
    hull: Hull,
    on_event: OnEvent,
) -> list[Metric]:
    """Return what relaxation and the hull say; what cannot be relaxed counts as failed."""
    n = len(batch)
    objections = check(batch)
    good = torch.tensor([i for i, fate in enumerate(objections) if fate is None], dtype=torch.int64)
    start = batch.select(good)
    result = relax(start, potential, RelaxSettings(), on_event=on_event)
    above = torch.full((n,), torch.nan, dtype=torch.float64)
    distance = hull.energy_above(result.energy_ev, result.batch)
    above[good] = torch.where(result.converged, distance, torch.full_like(distance, torch.nan))
    converged = torch.zeros(n, dtype=torch.bool)
    converged[good] = result.converged
    drop = 1000 * (result.start_energy_ev - result.energy_ev) / start.n_atoms
    moved = metrics.relaxation_rmsd(start, result.batch)
    return [
        metrics.share("relaxation converges", converged),
        metrics.metastable_share(above, 0.0),
        metrics.metastable_share(above, 0.1),
        metrics.metastable_share(above, 0.2),
        metrics.share("SUN: stable (<= 0), unique, novel", (above <= 0.0) & is_new),
        metrics.share("MSUN: <= 0.1 eV/atom, unique, novel", (above <= 0.1) & is_new),
        metrics.mean("energy above hull of the converged (eV/atom)", above),
        metrics.mean("energy drop in relaxation (meV/atom)", drop[result.converged]),
        metrics.mean("RMSD in relaxation (Å)", moved[result.converged]),
        metrics.mean("relaxation steps", result.steps.double()),
    ]
