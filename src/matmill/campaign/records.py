"""Rows of a campaign: what a stage found, what an evaluation cost, what became of a candidate."""

from dataclasses import dataclass, field
from typing import Any

PASSED = "passed"
# Every stage and the one whose survivors it looks at. Whatever was relaxed is judged by all of
# the last three, so that the best of what lies above the hull can still be shown.
BEFORE: dict[str, str | None] = {
    "screen": None,
    "shortlist": "screen",
    "relax": "shortlist",
    "hull": "relax",
    "novelty": "relax",
    "predict": "relax",
}
STAGES = tuple(BEFORE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """What one stage found about one candidate.

    Attributes:
        candidate: Number of the candidate, in the order of proposal.
        fate: ``"passed"``, or why it leaves the pipeline here.
        reason: One line for people; empty when it passed.
        structure: Id of the crystal to go on with, when the stage changed it (relaxation).
        values: Numbers and texts by column, units in the names.
    """

    candidate: int
    fate: str = PASSED
    reason: str = ""
    structure: str | None = None
    values: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluation:
    """One paid evaluation of one crystal, kept for ever.

    Attributes:
        structure: Id of the crystal that was evaluated.
        status: ``"ok"``, or what went wrong.
        result: Id of the crystal that came out, of a relaxation.
        values: Numbers and texts by column, units in the names.
        seconds: What it cost.
    """

    structure: str
    status: str = "ok"
    result: str | None = None
    values: dict[str, Any] = field(default_factory=dict)
    seconds: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """One proposed crystal and all that the stages found about it so far.

    Attributes:
        number: Order of proposal, from 0.
        proposed: Id of the crystal as it was proposed.
        structure: Id of the crystal in its latest form.
        round: Round that proposed it.
        origin: What proposed it.
        fate: ``"passed"`` while nothing was held against it.
        stage: The stage that dropped it, or the last one that looked at it.
        reason: Why it fell; empty while it has not.
        values: Everything the stages found, later stages win.
    """

    number: int
    proposed: str
    structure: str
    round: int
    origin: str
    fate: str = PASSED
    stage: str = "propose"
    reason: str = ""
    values: dict[str, Any] = field(default_factory=dict)
