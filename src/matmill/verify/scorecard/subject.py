"""The set that a scorecard is about, and every expensive thing that is known of it, found once.

Stages are computed when a metric first asks. Each marks the samples that fell there: the first
mark of a sample is its status.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from matmill.crystals.batch import CrystalBatch
from matmill.crystals.facts import density
from matmill.crystals.lattice import to_parameters
from matmill.progress import Event, OnEvent, ignore
from matmill.verify.charges import composition_kinds, smact_valid
from matmill.verify.continuous import uniqueness_scores
from matmill.verify.distances import embed
from matmill.verify.drift import LANTHANIDES
from matmill.verify.frameworks import merge_lanthanides
from matmill.verify.hull import Hull
from matmill.verify.judging import Aim
from matmill.verify.known_prints import KnownPrints
from matmill.verify.novelty import KnownIndex
from matmill.verify.patience import patiently
from matmill.verify.potentials import Potential, load_chgnet
from matmill.verify.protocols import Protocol
from matmill.verify.samples import Samples
from matmill.verify.scorecard import sameness
from matmill.verify.scorecard.number import Number, share_of
from matmill.verify.scorecard.relaxed import Relaxation, RelaxElsewhere, relax_patiently
from matmill.verify.scorecard.space_groups import groups_of
from matmill.verify.statuses import Status
from matmill.verify.validity import (
    roomy_by_radii,
    smallest_distance,
    smallest_distance_ratio,
)

ROOM_FOR_SYMMETRY = 5.0
"""Atoms must be so many times the tolerance apart for symmetry to be searched."""

LEAST_ROOM_A = 0.1
"""And so many Å: of cells that small the search takes gigabytes of memory, which no timer stops."""

CONTINUOUS = "elmd+amd"
"""Distance of the continuous forms: composition and geometry, see `distances.KINDS`."""

Energies = Callable[[CrystalBatch], Float[Tensor, " n"]]
"""Predicts an energy in eV/atom of each crystal."""


@dataclass(frozen=True)
class Same:
    """What comparing crystals said, by crystal of the compared batch.

    Attributes:
        first: The first crystal that is the same, for all that were compared.
        known: Id of the known crystal that it is, and whether that is confirmed; None when new.
        trained: Row of the training set that it is, None when in none; empty without one.
        failed: Why a crystal could not be compared in time.
    """

    first: dict[int, int]
    known: dict[int, tuple[str, bool] | None]
    trained: dict[int, int | None]
    failed: dict[int, str]


@dataclass(kw_only=True)
class Subject:
    """Samples, what to compare them with, and what was found out.

    Attributes:
        samples: The set.
        protocol: The switches.
        reference: The training set.
        test: Known crystals that the generator never saw.
        n_relax: How many samples, from the first on, to relax; 0 for none.
        is_prediction: Whether sample i is meant for test crystal i (then i + n_test, and so on).
        index: Known crystals; the index that ships unless given.
        load_hull: Gives the hull.
        load_potential: Gives the potential.
        relax_elsewhere: Relaxes in other processes; everything happens here unless given.
        others: Further potentials, each with the hull that its energies compare with.
        energies: Predicts energies whose distribution is compared.
        aims: What the samples were asked to be, and who says whether they are.
        unasked: Samples of the same generator that nobody asked for anything.
        seed: Of draws and resamples.
        on_event: Told about the progress.
        status: Of each entry.
        reason: Why, for each entry.
    """

    samples: Samples
    protocol: Protocol
    reference: CrystalBatch | None = None
    test: CrystalBatch | None = None
    n_relax: int = 0
    is_prediction: bool = False
    index: KnownIndex | None = None
    load_hull: Callable[[], Hull] = Hull.load
    load_potential: Callable[[], Potential] = load_chgnet
    relax_elsewhere: RelaxElsewhere | None = None
    others: Sequence[tuple[Potential, Hull]] = ()
    energies: Energies | None = None
    aims: Sequence[Aim] = ()
    unasked: CrystalBatch | None = None
    seed: int = 0
    on_event: OnEvent = ignore
    status: list[Status] = field(init=False)
    reason: list[str] = field(init=False)

    def __post_init__(self) -> None:
        self.status = [entry.status for entry in self.samples.entries]
        self.reason = [entry.reason for entry in self.samples.entries]

    @property
    def batch(self) -> CrystalBatch:
        """The crystals that could be built."""
        return self.samples.crystals

    def mark(self, crystals: Sequence[int], status: Status, reasons: Sequence[str] = ()) -> None:
        """Note what became of crystals; an earlier mark stays."""
        for k, crystal in enumerate(crystals):
            entry = int(self.samples.place[crystal])
            if self.status[entry] is Status.OK:
                self.status[entry] = status
                self.reason[entry] = reasons[k] if reasons else ""

    def reporter(self, stage: str, total: int) -> Callable[[int], None]:
        """Return what tells the progress of a stage, by the number of crystals done."""
        return lambda done: self.on_event(Event(stage=stage, done=done, total=total))

    @cached_property
    def distances(self) -> Float[Tensor, " n_crystals"]:
        """Smallest distance in Å by the protocol's rule on self-images."""
        images = self.protocol.geometry.self_images
        return self._by_crystal(lambda part: smallest_distance(part, self_images=images))

    @cached_property
    def distance_ratios(self) -> Float[Tensor, " n_crystals"]:
        """Smallest distance over the sum of covalent radii, self-images included."""
        return self._by_crystal(smallest_distance_ratio)

    @cached_property
    def room(self) -> Float[Tensor, " n_crystals"]:
        """Smallest distance in Å, self-images always included; NaN where there is none."""
        if self.protocol.geometry.self_images:
            return self.distances
        return self._by_crystal(smallest_distance)

    @cached_property
    def is_sound(self) -> Bool[Tensor, " n_crystals"]:
        """Which crystals have a valid geometry."""
        rule = self.protocol.geometry
        if rule.rule == "radii":
            good = self._by_crystal(lambda p: roomy_by_radii(p, rule.radii_scale).double()) > 0
        else:
            good = self.distances >= rule.min_distance_a
        good &= self.batch.volume >= rule.min_volume_a3
        if rule.plausible:
            good &= _plausible(self.batch)
        bad = torch.nonzero(~good).flatten().tolist()
        reasons = [f"smallest distance {float(self.distances[i]):.3f} Å" for i in bad]
        self.mark(bad, Status.INVALID_GEOMETRY, reasons)
        return good

    @cached_property
    def kinds(self) -> list[str]:
        """What each composition is: element, metals, neutral or invalid, by the protocol."""
        rule = self.protocol.composition
        valid = smact_valid(
            self.batch,
            rule.table,
            mixed_valence=rule.mixed_valence,
            alloys=rule.alloys,
            missing_passes=rule.missing_electronegativity == "passes",
            combination_limit=rule.combination_limit,
        )
        kinds = composition_kinds(self.batch, rule.table, mixed_valence=rule.mixed_valence)
        return [
            kind
            if kind == "element" or (kind == "metals" and rule.alloys)
            else ("neutral" if good else "invalid")
            for kind, good in zip(kinds, valid.tolist(), strict=True)
        ]

    @cached_property
    def is_valid(self) -> Bool[Tensor, " n_crystals"]:
        """Which crystals have a valid geometry and, where it counts, a valid composition."""
        if not self.protocol.composition.counts:
            return self.is_sound
        kinds = torch.tensor([kind != "invalid" for kind in self.kinds], dtype=torch.bool)
        return self.is_sound & kinds

    @cached_property
    def n_valid(self) -> int:
        """How many crystals are valid."""
        return int(self.is_valid.sum())

    def space_groups(self, symprec: float) -> tuple[Tensor, Bool[Tensor, " n_crystals"]]:
        """Return each crystal's space group, 1 where none was found, and whether one was."""
        if symprec not in self._groups:
            # Where atoms are as near as the tolerance, the search has no meaning and no end.
            least = max(ROOM_FOR_SYMMETRY * symprec, LEAST_ROOM_A)
            rows = torch.nonzero(self.room >= least).flatten().tolist()
            report = self.reporter(f"symmetry {symprec:g}", len(rows))
            numbers, was_found, failed = groups_of(self.batch, self.protocol, symprec, rows, report)
            self._groups[symprec] = numbers, was_found
            if symprec == self.protocol.symmetry.symprec_a:
                bad = torch.nonzero(~was_found & self.is_sound).flatten().tolist()
                reasons = [failed.get(i, "no space group was found") for i in bad]
                self.mark(bad, Status.SYMMETRY_FAILED, reasons)
        return self._groups[symprec]

    def among(self, which: Literal["parsed", "geometry", "valid"]) -> Bool[Tensor, " n_crystals"]:
        """Return which crystals a rule looks at."""
        everyone = torch.ones(len(self.batch), dtype=torch.bool)
        return {"parsed": everyone, "geometry": self.is_sound, "valid": self.is_valid}[which]

    @cached_property
    def same(self) -> Same:
        """What the matcher says of the crystals as generated."""
        rows = torch.nonzero(self.among(self.protocol.matching.among)).flatten().tolist()
        same = self.compare(self.batch, rows)
        self.mark(list(same.failed), Status.MATCHER_TIMEOUT, list(same.failed.values()))
        return same

    @cached_property
    def same_relaxed(self) -> Same:
        """What the matcher says of the relaxed crystals, by their place among those relaxed."""
        relaxed = self.relaxation
        same = self.compare(relaxed.batch, torch.nonzero(relaxed.converged).flatten().tolist())
        crystals = [int(relaxed.rows[i]) for i in same.failed]
        self.mark(crystals, Status.MATCHER_TIMEOUT, list(same.failed.values()))
        return same

    def frameworks(self, batch: CrystalBatch, rows: Sequence[int]) -> dict[int, int | None]:
        """Return the training crystal that each of these is once all lanthanides are one element.

        None for none; what took too long is left out. Only crystals with a lanthanide can change.
        """
        if self.reference is None:
            return {}
        has = torch.isin(batch.atomic_numbers, torch.tensor(LANTHANIDES))
        owners = set(batch.crystal_index[has].tolist())
        wanted = [row for row in rows if row in owners]
        merged, known = merge_lanthanides(batch), merge_lanthanides(self.reference)
        tolerance = self.protocol.matching.tolerance
        found, _ = sameness.in_set(merged, wanted, known, tolerance) if wanted else ({}, {})
        return {row: found.get(row) if row in owners else None for row in rows}

    @cached_property
    def continuous(self) -> dict[str, Float[Tensor, " n_crystals"]]:
        """Uniqueness, and with a training set novelty, as distances; NaN without a fingerprint."""
        rows = torch.nonzero(self.is_sound).flatten()
        batch = self.batch.select(rows.tolist()).to(dtype=torch.float64)
        scores = {"uniqueness": uniqueness_scores(embed(batch, CONTINUOUS))}
        if self.reference is not None:
            known = KnownPrints.build(self.reference, name="reference", on_event=self.on_event)
            scores["novelty"] = known.novelty(batch)
        spread = {}
        for key, values in scores.items():
            spread[key] = torch.full((len(self.batch),), torch.nan, dtype=torch.float64)
            spread[key][rows] = values
        return spread

    def compare(self, batch: CrystalBatch, rows: list[int]) -> Same:
        """Compare crystals with each other, with known ones and with the training set."""
        tolerance = self.protocol.matching.tolerance
        first, failed = sameness.firsts(batch, rows, tolerance)
        known, more = sameness.known(
            batch, rows, self.known_index, tolerance, self.reporter("novelty", len(rows))
        )
        failed = {**more, **failed}
        trained: dict[int, int | None] = {}
        if self.reference is not None:
            report = self.reporter("training set", len(rows))
            trained, more = sameness.in_set(batch, rows, self.reference, tolerance, report)
            failed = {**more, **failed}
        return Same(first, known, trained, failed)

    @cached_property
    def known_index(self) -> KnownIndex:
        """The index of known crystals."""
        return self.index or KnownIndex.load()

    @cached_property
    def hull(self) -> Hull:
        """The hull that distances refer to."""
        return self.load_hull()

    @cached_property
    def tried(self) -> Bool[Tensor, " n_crystals"]:
        """Which crystals belong to the samples whose relaxation was asked for."""
        return self.samples.place < self.n_relax

    @cached_property
    def n_tried(self) -> int:
        """How many samples relaxation was asked for, those without a crystal included."""
        return min(self.n_relax, self.samples.n_requested)

    @cached_property
    def relaxation(self) -> Relaxation:
        """What relaxation made of the sound crystals among those tried."""
        found = self._relaxed_by(self.load_potential(), self.hull, self.relax_elsewhere)
        for status, reason, crystal in found.marks:
            self.mark([crystal], status, [reason])
        return found

    @cached_property
    def opinions(self) -> list[Relaxation]:
        """What every potential made of them, each by itself; statuses are the first one's."""
        return [self.relaxation, *(self._relaxed_by(*pair) for pair in self.others)]

    def share(
        self,
        key: str,
        label: str,
        good: Bool[Tensor, " n_crystals"],
        *,
        is_check: bool = False,
        tried_only: bool = False,
        note: str = "",
    ) -> Number:
        """Return the share of samples that are good, out of what the protocol says.

        Args:
            key: Name for programs.
            label: Name for people.
            good: By crystal; samples without a crystal are not good.
            is_check: Validity itself: always out of all that were requested.
            tried_only: Out of the samples whose relaxation was asked for.
            note: What one must know.
        """
        valid = self.is_valid
        n, of = self.samples.n_requested, "requested"
        if tried_only:
            good, valid = good & self.tried, valid & self.tried
            n = self.n_tried
            of = "requested" if n == self.samples.n_requested else "requested, the first"
        hits_valid, n_valid = int((good & valid).sum()), int(valid.sum())
        hits = int(good.sum())
        if self.protocol.denominator == "valid" and not is_check:
            hits, n, of = hits_valid, n_valid, "valid"
        per_valid = float("nan") if is_check or not n_valid else hits_valid / n_valid
        return replace(share_of(key, label, hits, n, of, note=note), per_valid=per_valid)

    def _relaxed_by(
        self, potential: Potential, hull: Hull, elsewhere: RelaxElsewhere | None = None
    ) -> Relaxation:
        rows = torch.nonzero(self.tried & self.is_sound).flatten()
        return relax_patiently(
            self.batch, rows, potential, hull, self.protocol, self.on_event, elsewhere
        )

    @cached_property
    def _groups(self) -> dict[float, tuple[Tensor, Tensor]]:
        return {}

    def _by_crystal(self, of: Callable[[CrystalBatch], Tensor]) -> Tensor:
        """Return a number of each crystal; NaN where finding it fails."""
        rows = range(len(self.batch))
        found, _ = patiently(lambda part: of(self.batch.select(part)).tolist(), rows, chunk=1000)
        values = [found.get(i, float("nan")) for i in rows]
        return torch.tensor(values, dtype=torch.float64)


def _plausible(batch: CrystalBatch) -> Tensor:
    """Return which crystals lie in the wide ranges of LeMat-GenBench."""
    lengths = to_parameters(batch.lattice.double())[:, :3]
    weight, crowding = density(batch), batch.n_atoms / batch.volume
    return (
        (weight >= 0.01)
        & (weight <= 25.0)
        & (crowding >= 1e-5)
        & (crowding <= 0.5)
        & (batch.volume > 1.0)
        & ((lengths >= 1.0) & (lengths <= 100.0)).all(1)
    )
