"""How well a candidate answers the request: one score in [0, 1], and the order that follows.

score = product over targets of P(target is met) x exp(-E_hull / scale) x (1, or less when known)

P comes from the predicted mean and standard deviation, so a doubtful hit counts less than a sure
one. Energies a little below the hull count as on it. Energies far below it count against a crystal
as much as energies above: more often a gap in the hull or an error of the potential is found there
than a discovery.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from matmill.campaign.plan import HULL_COLUMN, CampaignSettings
from matmill.campaign.records import PASSED, Candidate
from matmill.campaign.targets import Goal, Target
from matmill.verify.verdict import Fate

# Nothing that the potential was trained on lies that far below its hull.
DEEP_EV_PER_ATOM = 0.05

# Below this probability the distance to the target decides, so that misses keep an order.
FAINT = 1e-3


def probability(target: Target, mean: float | None, std: float | None) -> float:
    """Return how likely a property with this mean and deviation meets the target, in [0, 1].

    For "max" and "min" it is the position in the property's plausible range instead.

    Args:
        target: What is wanted.
        mean: Predicted or computed value in the column's unit; None or NaN when unknown.
        std: Standard deviation in the same unit; None or 0 for an exact value.
    """
    if mean is None or math.isnan(mean):
        return 0.0
    if target.goal in (Goal.MAXIMISE, Goal.MINIMISE):
        share = _position(target, mean)
        return share if target.goal is Goal.MAXIMISE else 1.0 - share
    distance = max(target.low - mean, mean - target.high, 0.0)
    if std is None or math.isnan(std) or std <= 0.0:
        inside = 1.0 if distance == 0.0 else 0.0
    else:
        inside = _normal((target.high - mean) / std) - _normal((target.low - mean) / std)
    spread = target.quantity.high - target.quantity.low
    return max(inside, FAINT * math.exp(-10.0 * distance / spread))


def is_met(target: Target, mean: float | None) -> bool:
    """Return whether the mean itself lies inside the target; extremes are always met."""
    return mean is not None and target.low <= mean <= target.high


def target_value(target: Target, values: Mapping[str, Any]) -> tuple[float | None, float | None]:
    """Return (mean, standard deviation) of a target's property out of a candidate's values."""
    if target.column == HULL_COLUMN:
        return values.get("energy_above_hull_ev_per_atom"), None
    return values.get(target.column), values.get(f"{target.column}_std")


def satisfaction(targets: Sequence[Target], values: Mapping[str, Any]) -> float:
    """Return the product over targets of the probability that each is met."""
    return math.prod(probability(t, *target_value(t, values)) for t in targets)


def score(
    targets: Sequence[Target], values: Mapping[str, Any], settings: CampaignSettings
) -> float:
    """Return the score of a verified candidate, in [0, 1]; see the head of this file."""
    above = values.get("energy_above_hull_ev_per_atom")
    if above is None:
        return 0.0
    away = max(above, -above - DEEP_EV_PER_ATOM, 0.0)
    stability = math.exp(-away / settings.hull_scale_ev_per_atom)
    novelty = settings.known_factor if values.get("known_as") else 1.0
    return satisfaction(targets, values) * stability * novelty


def ranked(
    candidates: Sequence[Candidate], targets: Sequence[Target], settings: CampaignSettings
) -> list[Candidate]:
    """Return candidates by falling score; equal ones in the order of proposal."""
    return sorted(candidates, key=lambda c: (-score(targets, c.values, settings), c.number))


def choose(
    candidates: Sequence[Candidate], targets: Sequence[Target], settings: CampaignSettings, n: int
) -> tuple[list[Candidate], list[Candidate]]:
    """Return the candidates to deliver, best first, and those that fill up the number.

    The first list has candidates that passed every check. When there are fewer than ``n``, the
    second has the best of the rest that were relaxed, are unique, and lie on a known hull, though
    above the limit. Nothing that failed to relax is ever delivered.
    """
    passed = [c for c in candidates if c.fate == PASSED and c.stage == "predict"]
    chosen = ranked(passed, targets, settings)[:n]
    spare = [
        c
        for c in candidates
        if c.fate == Fate.ABOVE_HULL and c.values.get("fate_novelty", PASSED) == PASSED
    ]
    return chosen, ranked(spare, targets, settings)[: n - len(chosen)]


def _position(target: Target, mean: float) -> float:
    quantity = target.quantity
    low, high = quantity.low, quantity.high
    if quantity.log:
        low, high, mean = (math.log1p(max(x, 0.0)) for x in (low, high, mean))
    return min(max((mean - low) / (high - low), 0.0), 1.0)


def _normal(x: float) -> float:
    return 0.5 * (1.0 + math.erf(x / math.sqrt(2.0)))
