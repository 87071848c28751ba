"""Hard symmetry: which positions of which space group are occupied is drawn first.

The network then moves the sites only along the free directions of their positions, and the cell
only in the ways that the group allows, so the space group asked for is the one that is found.
"""

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Protocol

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from matmill.crystals import symmetry
from matmill.crystals.batch import CrystalBatch
from matmill.crystals.elements import SYMBOLS
from matmill.errors import InputError
from matmill.generate.conditions import Conditions, crystal_system_of
from matmill.generate.orbits import Orbits
from matmill.generate.plan import Plan
from matmill.generate.protocol import GenerationRequest
from matmill.generate.sample import Start
from matmill.generate.streams import Streams
from matmill.generate.wyckoff.templates import Template

HULL = "energy_above_hull_ev"
_DRAFT_STEPS = 20  # enough for a composition
_MOST_TEMPLATES = 20  # of one composition; the true one is among so many in nine cases of ten


class TemplateSource(Protocol):
    """What proposes occupied Wyckoff positions; `wyckoff.sampler.WyckoffModel` does."""

    def sample(
        self,
        n: int,
        rng: torch.Generator,
        *,
        n_atoms: tuple[int, int] | None = None,
        elements: tuple[str, ...] | None = None,
        exactly: bool = False,
        space_group: int | None = None,
        crystal_system: str | None = None,
        energy_above_hull: float | None = None,
    ) -> list[Template]:
        """Return ``n`` templates that meet everything that is given."""
        ...

    def propose(
        self,
        formula: dict[str, int],
        k: int,
        *,
        space_group: int | None = None,
        crystal_system: str | None = None,
        energy_above_hull: float | None = 0.0,
    ) -> list[tuple[Template, float]]:
        """Return up to ``k`` different templates of a composition with their probabilities."""
        ...

    def cell_weights(
        self,
        formula: dict[str, int],
        multiples: Sequence[int],
        *,
        space_group: int | None = None,
        crystal_system: str | None = None,
    ) -> list[float]:
        """Return how likely cells hold these numbers of formula units, unnormalised."""
        ...


def needs_draft(request: GenerationRequest) -> bool:
    """Return whether compositions must come from the network, since properties are asked for.

    Templates know elements, sizes, groups and the hull, but no other property.
    """
    is_free = request.formula is None and request.seeds is None
    return is_free and any(column != HULL for column in request.conditions)


def draft_of(request: GenerationRequest) -> GenerationRequest:
    """Return the request whose crystals lend their compositions: fewer steps, no templates."""
    steps = min(request.n_steps, _DRAFT_STEPS)
    return replace(request, symmetry="soft", n_steps=steps, screen=False)


def draw_templates(
    source: TemplateSource,
    request: GenerationRequest,
    plan: Plan,
    streams: Streams,
    *,
    is_draft: bool = False,
) -> list[Template]:
    """Return a template for each crystal of the request.

    Crystals of one composition share the most probable templates of it: the first crystal gets the
    best one. Of seeds only the compositions count; those of a draft may give way to others of the
    same elements where the group asked for cannot host them, those of a user never.

    Raises:
        InputError: If seeds are to be varied rather than forgotten, or no template exists.
    """
    rng = streams.of_run().generator(0)
    hull = _hull(request)
    compositions = _compositions(request, plan, streams)
    if compositions is None:
        return source.sample(
            request.n, rng, n_atoms=request.n_atoms, **_elements(request, plan), **_asked(request)
        )
    rows: dict[tuple[tuple[str, int], ...], list[int]] = {}
    for row, composition in enumerate(compositions):
        rows.setdefault(tuple(sorted(composition.items())), []).append(row)
    found: dict[int, Template] = {}
    for composition, mine in rows.items():
        k = min(len(mine), _MOST_TEMPLATES)
        try:
            options = source.propose(dict(composition), k, **_asked(request, hull or 0.0))
        except InputError:
            if not is_draft:
                raise
            drawn = source.sample(
                len(mine),
                rng,
                n_atoms=request.n_atoms,
                elements=tuple(symbol for symbol, _ in composition),
                exactly=request.system is not None,
                **_asked(request),
            )
            options = [(template, 1.0 / len(drawn)) for template in drawn]
        found.update(zip(mine, shared_out(options, len(mine)), strict=True))
    return [found[row] for row in range(len(compositions))]


def other_templates(
    source: TemplateSource,
    request: GenerationRequest,
    plan: Plan,
    templates: Sequence[Template],
    streams: Streams,
) -> list[Template]:
    """Return another template of the same number of atoms for each of these.

    For crystals whose sites have slid into a higher group than the one asked for, again and again.
    Where the composition is given it is kept, and its next most probable template is taken.

    Args:
        source: Proposes templates.
        request: What is asked for.
        plan: Of the whole run.
        templates: Those to replace.
        streams: One for each of them.
    """
    found = []
    for row, template in enumerate(templates):
        if request.formula is None and request.seeds is None:
            size = (template.n_atoms, template.n_atoms)
            rng = streams.generator(row)
            wishes = _elements(request, plan) | _asked(request)
            found += source.sample(1, rng, n_atoms=size, **wishes)
            continue
        asked = _asked(request, _hull(request) or 0.0)
        options = [t for t, _ in source.propose(template.formula, _MOST_TEMPLATES, **asked)]
        place = options.index(template) + 1 if template in options else 0
        found.append(options[place % len(options)])
    return found


def lost_group(request: GenerationRequest, batch: CrystalBatch) -> Bool[Tensor, " n_crystals"]:
    """Return which crystals show another group or crystal system than the request asked for."""
    if request.space_group is None and request.crystal_system is None:
        return torch.zeros(len(batch), dtype=torch.bool)
    found = symmetry.find(batch, symprec=symmetry.SYMPREC)
    if request.space_group is not None:
        return found.number != request.space_group
    return torch.tensor([system != request.crystal_system for system in found.crystal_system])


def _hull(request: GenerationRequest) -> float | None:
    hull = request.conditions.get(HULL)
    return sum(hull) / 2 if isinstance(hull, tuple) else hull


def _asked(request: GenerationRequest, hull: float | None = None) -> dict[str, Any]:
    """Return the symmetry and the hull distance that templates should have."""
    return {
        "space_group": request.space_group,
        "crystal_system": request.crystal_system,
        "energy_above_hull": _hull(request) if hull is None else hull,
    }


def _elements(request: GenerationRequest, plan: Plan) -> dict[str, Any]:
    """Return the elements that templates may have, and whether each has to occur."""
    allowed = request.system or request.elements
    if allowed is None and request.exclude:
        allowed = tuple(SYMBOLS[i + 1] for i in torch.nonzero(plan.allowed).flatten().tolist())
    elif allowed is not None:
        allowed = tuple(symbol for symbol in allowed if symbol not in request.exclude)
    return {"elements": allowed, "exactly": request.system is not None}


def shared_out(options: Sequence[tuple[Template, float]], n: int) -> list[Template]:
    """Return ``n`` templates, most probable first and more often.

    Seats are given as in parliaments (D'Hondt), by the root of the probability: a likely template
    is tried several times, and yet unlikely ones get their turn.
    """
    weights = [math.sqrt(max(p, 1e-12)) for _, p in options]
    taken = [0] * len(options)
    order = []
    for _ in range(n):
        best = max(range(len(options)), key=lambda i: weights[i] / (taken[i] + 1))
        taken[best] += 1
        order.append(options[best][0])
    return order


def _compositions(
    request: GenerationRequest, plan: Plan, streams: Streams
) -> list[dict[str, int]] | None:
    """Return the atoms of each crystal by symbol, None where compositions are free."""
    if request.formula is not None:
        unit = sum(request.formula.values())
        times = (plan.n_atoms // unit).tolist()
        return [{symbol: c * m for symbol, c in request.formula.items()} for m in times]
    if request.seeds is None:
        return None
    if request.strength < 1.0 or not request.keep_elements or request.free_atoms is not None:
        raise InputError(
            "symmetry='hard' finds new positions, so seeds can only lend their compositions: "
            "set strength to 1, or use symmetry='soft'."
        )
    own = []
    for start, n in zip(
        request.seeds.offsets.tolist(), request.seeds.n_atoms.tolist(), strict=False
    ):
        z = request.seeds.atomic_numbers[start : start + n].tolist()
        own.append({SYMBOLS[e]: z.count(e) for e in sorted(set(z))})
    return [own[i] for i in (streams.crystal % len(own)).tolist()]


def with_templates(
    plan: Plan, templates: Sequence[Template], rows: Int[Tensor, " r"] | None = None
) -> Plan:
    """Return the plan with the sizes and space groups of the templates of all or some rows."""
    rows = torch.arange(len(plan.n_atoms)) if rows is None else rows
    groups, n_atoms = plan.base.space_group.clone(), plan.n_atoms.clone()
    groups[rows] = torch.tensor([t.space_group for t in templates], dtype=torch.int64)
    n_atoms[rows] = torch.tensor([t.n_atoms for t in templates], dtype=torch.int64)

    def told(conditions: Conditions) -> Conditions:
        return replace(conditions, space_group=groups, crystal_system=crystal_system_of(groups))

    return replace(
        plan,
        n_atoms=n_atoms,
        base=told(plan.base),
        asked=told(plan.asked),
        parts={name: told(part) for name, part in plan.parts.items() if name != "symmetry"},
    )


def hard_start(templates: Sequence[Template], own: Streams) -> tuple[Start, Orbits]:
    """Return a start with the elements of the templates, and the orbits that hold the sites."""
    orbits, z = Orbits.of_templates(templates, own.generator(0))
    b, n = z.shape
    start = Start.nothing(b, n)
    clean = replace(start.clean, z=z)
    return replace(start, clean=clean, free_types=torch.zeros(b, n, dtype=torch.bool)), orbits
