"""What a campaign found: the delivered crystals in order, the funnel, the fate of every candidate.

All of it follows from the store, so it can be made again at any time.
"""

from collections import Counter
from dataclasses import dataclass
from typing import Any

from matmill.campaign.external import with_measured
from matmill.campaign.plan import CampaignSettings
from matmill.campaign.ranking import (
    DEEP_EV_PER_ATOM,
    choose,
    is_met,
    satisfaction,
    score,
    target_value,
)
from matmill.campaign.records import PASSED, Candidate
from matmill.campaign.request import Request
from matmill.campaign.store import Store
from matmill.crystals.batch import CrystalBatch
from matmill.crystals.symmetry import SYMPREC, find
from matmill.verify.verdict import Fate

FEW_ENTRIES = 3  # known crystals of a chemical system, below which its hull may lie too high


@dataclass(frozen=True, kw_only=True)
class Results:
    """The outcome of a campaign.

    Attributes:
        request: What was asked for.
        candidates: Every candidate, in order of proposal.
        delivered: Candidates that are delivered, best first.
        n_filled: How many of them, the last ones, lie above the hull limit and only fill up the
            number.
        crystals: The delivered crystals, relaxed, in that order, named ``"01-GaN"``.
        rows: One record for each: rank, formula, space group, verdicts, predictions.
        funnel: What was left after each step.
        fates: How many candidates met each fate.
    """

    request: Request
    candidates: list[Candidate]
    delivered: list[Candidate]
    n_filled: int
    crystals: CrystalBatch
    rows: list[dict[str, Any]]
    funnel: dict[str, int]
    fates: dict[str, int]

    @property
    def n_on_target(self) -> int:
        """How many delivered crystals meet every target by their predicted means."""
        return sum(row["meets_targets"] for row in self.rows)


def collect(store: Store, request: Request, settings: CampaignSettings) -> Results:
    """Return the results of the campaign in ``store`` so far."""
    candidates = with_measured(store, store.candidates())
    chosen, spare = choose(candidates, request.parsed, settings, request.n)
    delivered = [*chosen, *spare]
    crystals = store.batch([c.structure for c in delivered])
    width = len(str(max(len(delivered), 10)))
    names = [f"{i + 1:0{width}d}-{formula}" for i, formula in enumerate(crystals.formula)]
    crystals = crystals.with_ids(names)
    symmetry = find(crystals, symprec=SYMPREC)
    rows = []
    for i, candidate in enumerate(delivered):
        rows.append(
            {
                "rank": i + 1,
                "name": names[i],
                "formula": crystals.formula[i],
                "space_group": int(symmetry.number[i]),
                "space_group_symbol": symmetry.symbol[i],
                "n_atoms": int(crystals.n_atoms[i]),
                "candidate": candidate.number,
                "score": score(request.parsed, candidate.values, settings),
                "target_probability": satisfaction(request.parsed, candidate.values),
                "meets_targets": _meets(request, candidate),
                "is_filled": i >= len(chosen),
                "is_novel": candidate.values.get("known_as") is None,
                **candidate.values,
            }
        )
    names_of = {c.number for c in delivered}
    fates = Counter(final_fate(c, is_delivered=c.number in names_of)[0] for c in candidates)
    return Results(
        request=request,
        candidates=candidates,
        delivered=delivered,
        n_filled=len(spare),
        crystals=crystals,
        rows=rows,
        funnel=_funnel(request, candidates, len(delivered)),
        fates={str(fate): fates[fate] for fate in Fate if fates[fate]},
    )


def final_fate(candidate: Candidate, *, is_delivered: bool) -> tuple[Fate, str]:
    """Return what became of a candidate at the end of a run, and the reason in one line."""
    if candidate.fate != PASSED:
        return Fate(candidate.fate), candidate.reason
    if is_delivered:
        return Fate.PASSED, ""
    fate = Fate.RANKED_OUT if candidate.stage == "predict" else Fate.NOT_RELAXED
    return fate, fate.explanation


def all_warnings(store: Store, results: Results) -> list[str]:
    """Return what the user should know before trusting the results, most general first."""
    reason = store.setting("stopped_because") or "the run is not finished"
    wanted, n = results.request.n, len(results.delivered)
    limit = results.request.hull_threshold_ev_per_atom
    warnings = list(store.setting("warnings") or [])
    if results.n_filled:
        warnings.append(
            f"Only {n - results.n_filled} of {wanted} crystals lie within {limit:g} eV/atom of the "
            f"hull; the last {results.n_filled} are the best of the rest ({reason})."
        )
    if n < wanted:
        warnings.append(
            f"Only {n} of {wanted} crystals could be delivered ({reason}). Ask for more elements, "
            "wider targets or a higher --hull-threshold."
        )
    deep = [r for r in results.rows if r["energy_above_hull_ev_per_atom"] < -DEEP_EV_PER_ATOM]
    if deep:
        warnings.append(
            f"{len(deep)} delivered crystals lie more than {DEEP_EV_PER_ATOM:g} eV/atom below the "
            "hull. That is more often an error of the potential or a gap in the hull than a "
            "discovery: compute these first."
        )
    if n and results.request.targets and results.n_on_target < n:
        warnings.append(
            f"{results.n_on_target} of {n} delivered crystals meet every target by their predicted "
            "means; they are ranked by the probability of doing so."
        )
    return warnings


def _meets(request: Request, candidate: Candidate) -> bool:
    return all(is_met(t, target_value(t, candidate.values)[0]) for t in request.parsed)


def _funnel(request: Request, candidates: list[Candidate], n_delivered: int) -> dict[str, int]:
    limit = request.hull_threshold_ev_per_atom
    screened = [c for c in candidates if c.stage != "propose" and not _fell(c, "screen")]
    chosen = [c for c in screened if "shortlist_round" in c.values]
    relaxed = [c for c in chosen if "energy_above_hull_ev_per_atom" in c.values]
    unique = [c for c in relaxed if c.values.get("fate_novelty") == PASSED]
    near = [c for c in unique if _is_near(c, limit)]
    return {
        "proposed": len(candidates),
        "valid, as requested, unique": len(screened),
        "chosen for relaxation": len(chosen),
        "relaxed": len(relaxed),
        "still unique": len(unique),
        f"within {limit:g} eV/atom of the hull": len(near),
        "delivered": n_delivered,
    }


def _fell(candidate: Candidate, stage: str) -> bool:
    return candidate.stage == stage and candidate.fate != PASSED


def _is_near(candidate: Candidate, limit: float) -> bool:
    above = candidate.values["energy_above_hull_ev_per_atom"]
    return above is not None and above <= limit
