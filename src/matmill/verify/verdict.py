"""What became of a candidate: one `Verdict` each, whatever happened to it."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum


class Fate(StrEnum):
    """Where a candidate left the pipeline, and why. A failure is data, not an exception."""

    PASSED = "passed"

    # Screening
    NOT_FINITE = "not_finite"
    CELL_IMPOSSIBLE = "cell_impossible"
    UNKNOWN_ELEMENT = "unknown_element"
    ATOMS_TOO_CLOSE = "atoms_too_close"
    VOLUME_IMPLAUSIBLE = "volume_implausible"
    NOT_CHARGE_NEUTRAL = "not_charge_neutral"
    NOT_AS_REQUESTED = "not_as_requested"
    DUPLICATE = "duplicate"

    # Relaxation
    EXPLODED = "exploded"
    COLLAPSED = "collapsed"
    FORCES_TOO_LARGE = "forces_too_large"
    NOT_CONVERGED = "not_converged"
    HOPELESS = "hopeless"
    NOT_RELAXED = "not_relaxed"

    # Hull and novelty
    HULL_LACKS_ELEMENT = "hull_lacks_element"
    ABOVE_HULL = "above_hull"
    KNOWN = "known"

    # Prediction and ranking
    OUT_OF_DOMAIN = "out_of_domain"
    OFF_TARGET = "off_target"
    RANKED_OUT = "ranked_out"

    # The machine's fault, not the crystal's
    TIMED_OUT = "timed_out"
    FAILED = "failed"

    @property
    def explanation(self) -> str:
        """One sentence for people."""
        return _EXPLANATIONS[self]


_EXPLANATIONS = {
    Fate.PASSED: "Passed every check.",
    Fate.NOT_FINITE: "A lattice vector or a coordinate is not a finite number.",
    Fate.CELL_IMPOSSIBLE: "The cell has no volume, or a vector is absurdly short or long.",
    Fate.UNKNOWN_ELEMENT: "An atomic number is outside the elements that can be treated.",
    Fate.ATOMS_TOO_CLOSE: "Two atoms, or an atom and its periodic image, nearly coincide.",
    Fate.VOLUME_IMPLAUSIBLE: "The volume per atom lies outside what crystals have.",
    Fate.NOT_CHARGE_NEUTRAL: "No choice of known oxidation states balances the charges.",
    Fate.NOT_AS_REQUESTED: "Elements, composition or size are not what was asked for.",
    Fate.DUPLICATE: "The same crystal came earlier in this run.",
    Fate.EXPLODED: "The volume grew more than threefold, or numbers overflowed, in relaxation.",
    Fate.COLLAPSED: "The volume shrank below a third, or atoms met, in relaxation.",
    Fate.FORCES_TOO_LARGE: "Forces stayed absurdly large during relaxation.",
    Fate.NOT_CONVERGED: "Relaxation reached its step limit before the forces were small.",
    Fate.HOPELESS: "Given up in relaxation: its energy will not come down to the limit.",
    Fate.NOT_RELAXED: "The run had enough candidates or time ran out before this one's turn.",
    Fate.HULL_LACKS_ELEMENT: "The reference hull has no entry for one of the elements.",
    Fate.ABOVE_HULL: "The energy above the hull exceeds the limit.",
    Fate.KNOWN: "The crystal is in the index of known crystals.",
    Fate.OUT_OF_DOMAIN: "A predictor was never trained on anything like it.",
    Fate.OFF_TARGET: "A predicted property misses the target.",
    Fate.RANKED_OUT: "Good, but others ranked higher than the number asked for.",
    Fate.TIMED_OUT: "The computation took longer than its limit.",
    Fate.FAILED: "The computation crashed; the log has the traceback.",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """One row of the results table. Field names carry their unit.

    Attributes:
        candidate_id: Content hash of the unrelaxed crystal.
        fate: First check that rejected the candidate, or ``PASSED``.
        smallest_distance_a: Smallest distance before relaxation, self-images included.
        energy_ev_per_atom: Energy after relaxation by ``potential_name``.
        energy_drop_ev_per_atom: Energy lost in relaxation, positive when it went down.
        n_relax_steps: Steps that relaxation took.
        max_force_ev_per_a: Largest force (atoms and cell) at its end.
        potential_name: Which potential, with version.
        energy_above_hull_ev_per_atom: Distance to the hull named in ``hull_name``, negative below
            it, or None when the candidate never got that far.
        hull_name: Reference hull. Energies of different hulls are never compared.
        n_competitors: Entries of that hull in exactly this chemical system.
        n_competitors_all: Entries of that hull in this system and all its subsystems.
        known_as: Id of the known crystal that it matches, None when none was found.
        known_is_confirmed: Whether an exact matcher confirmed ``known_as``.
    """

    candidate_id: str
    fate: Fate
    smallest_distance_a: float | None = None
    energy_ev_per_atom: float | None = None
    energy_drop_ev_per_atom: float | None = None
    n_relax_steps: int | None = None
    max_force_ev_per_a: float | None = None
    potential_name: str | None = None
    energy_above_hull_ev_per_atom: float | None = None
    hull_name: str | None = None
    n_competitors: int | None = None
    n_competitors_all: int | None = None
    known_as: str | None = None
    known_is_confirmed: bool | None = None


def share_passed(verdicts: Iterable[Verdict]) -> float:
    """Return the share of candidates that passed, in [0, 1]; 0 for no candidates."""
    fates = [verdict.fate for verdict in verdicts]
    return sum(fate is Fate.PASSED for fate in fates) / len(fates) if fates else 0.0


def funnel(verdicts: Iterable[Verdict]) -> dict[Fate, int]:
    """Return how many candidates met each fate, in the order of the pipeline, zeros left out."""
    counts = Counter(verdict.fate for verdict in verdicts)
    return {fate: counts[fate] for fate in Fate if counts[fate]}
