"""Settings of a campaign, and what the request means for the models that will serve it."""

import hashlib
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field

from matmill.campaign.request import Request
from matmill.campaign.targets import Goal, Target
from matmill.config import Settings
from matmill.errors import InputError
from matmill.generate.protocol import GenerationRequest
from matmill.quantities import QUANTITIES
from matmill.verify.relax import RelaxSettings
from matmill.verify.validity import Limits

if TYPE_CHECKING:
    from matmill.campaign.parts import Parts

# Part of the trained range that "max" and "min" aim the generator at: its end, not its outliers.
_EXTREME_SHARE = (0.6, 0.9)
HULL_COLUMN = QUANTITIES["energy_above_hull"].column


class CampaignSettings(Settings):
    """How a design run works; none of this changes what is asked for.

    Attributes:
        proposals_per_wanted: Crystals proposed in the first round for each one asked for.
        relaxations_per_wanted: Crystals relaxed in the first round for each one asked for; later
            rounds follow the yield that was seen.
        max_rounds: Rounds after which a run delivers what it has.
        max_minutes: Wall time after which no further round starts; None for no limit. A run that
            hits it is not repeatable to the letter.
        task_size: Crystals of one call of the generator; at most this many are lost by a kill.
        chunk_atoms: Atoms in one relaxation task; part of what makes results repeatable.
        n_steps: Steps of the generator.
        guidance: Strength of the conditions in the generator.
        keep_symmetry: Propose crystals on the positions of space groups, where the generator was
            trained for that.
        hull_scale_ev_per_atom: Energy above hull at which a candidate's score falls by e.
        raw_hull_scale_ev_per_atom: The same for crystals as proposed, whose energies are far
            higher, when it is decided which ones to relax.
        coarse_hull_scale_ev_per_atom: The same after the coarse relaxation.
        coarse_steps: Steps of the coarse relaxation that precedes the choice; 0 leaves it out.
        coarse_per_relaxation: Crystals relaxed coarsely for each one that is relaxed in full.
        formula_share: Largest share of the crystals relaxed in one round that may have the same
            formula, as long as there are others.
        unbalanced_factor: Factor on the score, in that choice, of a composition whose oxidation
            states cannot balance.
        known_factor: Factor on the score of a crystal that is known already.
        relax: When a relaxation stops.
        limits: What counts as a valid crystal.
    """

    proposals_per_wanted: Annotated[float, Field(gt=0)] = 14.0
    relaxations_per_wanted: Annotated[float, Field(gt=0)] = 2.2
    max_rounds: Annotated[int, Field(ge=1)] = 8
    max_minutes: Annotated[float, Field(gt=0)] | None = None
    task_size: Annotated[int, Field(ge=1)] = 96
    chunk_atoms: Annotated[int, Field(ge=1)] = 32
    n_steps: Annotated[int, Field(ge=1)] = 50
    guidance: Annotated[float, Field(ge=0)] = 1.5
    keep_symmetry: bool = True
    hull_scale_ev_per_atom: Annotated[float, Field(gt=0)] = 0.05
    raw_hull_scale_ev_per_atom: Annotated[float, Field(gt=0)] = 0.3
    coarse_hull_scale_ev_per_atom: Annotated[float, Field(gt=0)] = 0.15
    coarse_steps: Annotated[int, Field(ge=0)] = 15
    coarse_per_relaxation: Annotated[float, Field(ge=1)] = 2.5
    formula_share: Annotated[float, Field(gt=0, le=1)] = 0.15
    unbalanced_factor: Annotated[float, Field(gt=0, le=1)] = 0.3
    known_factor: Annotated[float, Field(ge=0, le=1)] = 0.5
    relax: RelaxSettings = RelaxSettings()
    limits: Limits = Limits()

    @property
    def hash(self) -> str:
        """Content hash of all settings, 16 hex digits."""
        return hashlib.sha256(self.model_dump_json().encode()).hexdigest()[:16]


def generation_request(
    request: Request, settings: CampaignSettings, card: dict[str, Any], *, n: int
) -> GenerationRequest:
    """Return what to ask of a generator with this card.

    Targets that it was not trained on are left to the predictors and the ranking.

    Args:
        request: What the user wants.
        settings: How the run works.
        card: The generator's card, with ``conditions`` (column to low and high).
        n: Crystals to propose.
    """
    ranges = trained_ranges(card)
    conditions: dict[str, float | tuple[float, float]] = {}
    for target in request.parsed:
        if target.column in ranges:
            conditions[target.column] = condition_for(target, *ranges[target.column])
    if HULL_COLUMN in ranges and HULL_COLUMN not in conditions:
        # Everybody wants crystals that can be made; the ground states of the training set are
        # what the network knows as such.
        conditions[HULL_COLUMN] = max(0.0, ranges[HULL_COLUMN][0])
    return GenerationRequest(
        n=n,
        elements=request.elements,
        exclude=request.exclude,
        formula=request.counts,
        n_atoms=request.n_atoms,
        conditions=conditions,
        space_group=request.space_group,
        guidance=settings.guidance if request.guidance is None else request.guidance,
        n_steps=settings.n_steps,
        symmetry="hard" if settings.keep_symmetry and card.get("symmetric") else "soft",
    )


def trained_ranges(card: dict[str, Any]) -> dict[str, tuple[float, float]]:
    """Return column -> (low, high) of the conditions that a generator's card names."""
    return {
        column: (float(entry["low"]), float(entry["high"]))
        for column, entry in card.get("conditions", {}).items()
        if entry.get("low") is not None and entry.get("count", 2) >= 2
    }


def condition_for(target: Target, low: float, high: float) -> float | tuple[float, float]:
    """Return what to ask of a generator trained on ``low`` to ``high``: a value or a window."""
    if target.value is not None:
        return min(max(target.value, low), high)
    if target.goal is Goal.WINDOW:
        window = max(target.low, low), min(target.high, high)
        return window if window[0] < window[1] else min(max(target.low, low), high)
    near, far = (low + share * (high - low) for share in _EXTREME_SHARE)
    if target.goal is Goal.MAXIMISE:
        return near, far
    return low + high - far, low + high - near


def check_request(request: Request, settings: CampaignSettings, parts: "Parts") -> list[str]:
    """Return warnings about a request that these models can serve.

    Raises:
        InputError: If they cannot, with the allowed values.
    """
    warnings = []
    served = {*parts.predictors, HULL_COLUMN}
    for target in request.parsed:
        if target.column not in served:
            names = sorted(q.name for q in QUANTITIES.values() if q.column in served)
            raise InputError(
                f"Nothing here predicts {target.quantity.name}. Known: {', '.join(names)}. "
                "Train one with: matmill train predictor."
            )
        if target.column in parts.predictors:
            warnings += _outside_training(target, parts.predictors[target.column].card)
        warnings += _outside_conditions(target, trained_ranges(parts.generator.card))
    _check_hull_elements(request, parts)
    asked = generation_request(request, settings, parts.generator.card, n=1)
    warnings += parts.generator.check(asked)
    return list(dict.fromkeys(warnings))


def _check_hull_elements(request: Request, parts: "Parts") -> None:
    wanted = {*(request.counts or request.elements or ())}
    missing = sorted(wanted - {*parts.hull.elements})
    if missing:
        raise InputError(
            f"The hull {parts.hull.name} has no entry for {', '.join(missing)}, so nothing with it "
            f"can be judged. It knows: {', '.join(sorted(parts.hull.elements))}."
        )


def _outside_conditions(target: Target, ranges: dict[str, tuple[float, float]]) -> list[str]:
    if target.column not in ranges or target.goal in (Goal.MAXIMISE, Goal.MINIMISE):
        return []
    low, high = ranges[target.column]
    wanted = (target.value, target.value) if target.value is not None else (target.low, target.high)
    if wanted[0] is None or wanted[1] is None or (wanted[0] <= high and wanted[1] >= low):
        return []
    return [
        f"'{target.text}' lies outside {low:.3g} to {high:.3g} {target.quantity.unit}, which the "
        "generator was trained on: it aims at the nearest end, and only the ranking looks further."
    ]


def _outside_training(target: Target, card: dict[str, Any]) -> list[str]:
    scale = next((s for s in card.get("scales", ()) if s["column"] == target.column), None)
    if scale is None:
        return []
    low, high = scale["low"], scale["high"]
    name, unit = target.quantity.name, target.quantity.unit
    wanted = target.value if target.value is not None else max(target.low, min(target.high, low))
    if target.low > high or target.high < low:
        return [
            f"'{target.text}' lies outside {low:.3g} to {high:.3g} {unit}, where the predictor of "
            f"{name} was trained: expect few hits and doubtful predictions."
        ]
    if not low <= wanted <= high:
        return [f"'{target.text}' reaches beyond the predictor's range {low:.3g} to {high:.3g}."]
    return []
