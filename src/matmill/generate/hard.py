"""Hard symmetry: which positions of which space group are occupied is drawn first.

The network then moves the sites only along the free directions of their positions, and the cell
only in the ways that the group allows, so the space group asked for is the one that is found.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Protocol

import torch

from matmill.crystals.elements import SYMBOLS
from matmill.errors import InputError
from matmill.generate.conditions import Conditions, crystal_system_of
from matmill.generate.orbits import Orbits
from matmill.generate.plan import Plan, Trained
from matmill.generate.protocol import GenerationRequest
from matmill.generate.sample import Start
from matmill.generate.streams import Streams
from matmill.generate.wyckoff.templates import Template

HULL = "energy_above_hull_ev"
_ROUNDS = 20  # of drawing again, for what the source of templates cannot promise itself


class TemplateSource(Protocol):
    """What proposes occupied Wyckoff positions; `wyckoff.sampler.WyckoffModel` does."""

    def sample(
        self,
        n: int,
        rng: torch.Generator,
        *,
        formula: dict[str, int] | None = None,
        n_atoms: tuple[int, int] | None = None,
        elements: tuple[str, ...] | None = None,
        space_group: int | None = None,
        crystal_system: str | None = None,
        energy_above_hull: float = 0.0,
    ) -> list[Template]:
        """Return ``n`` templates that meet everything that is given."""
        ...


def draw_templates(
    source: TemplateSource, request: GenerationRequest, trained: Trained, streams: Streams
) -> list[Template]:
    """Return a template for each crystal of the request.

    With seeds only their compositions count, one template for each in turn.

    Raises:
        InputError: If seeds are to be varied rather than forgotten, or no template exists.
    """
    rng = streams.of_run().generator(0)
    hull = request.conditions.get(HULL, 0.0)
    hull = sum(hull) / 2 if isinstance(hull, tuple) else float(hull)
    given = {
        "space_group": request.space_group,
        "crystal_system": request.crystal_system,
        "energy_above_hull": hull,
    }
    if request.seeds is not None:
        if request.strength < 1.0 or not request.keep_elements or request.free_atoms is not None:
            raise InputError(
                "symmetry='hard' finds new positions, so seeds can only lend their compositions: "
                "set strength to 1, or use symmetry='soft'."
            )
        found: dict[int, Template] = {}
        seeds, which = request.seeds, streams.crystal % len(request.seeds)
        for row in range(len(seeds)):
            mine = torch.nonzero(which == row).flatten().tolist()
            z = seeds.atomic_numbers[seeds.crystal_index == row].tolist()
            counts = {SYMBOLS[e]: z.count(e) for e in sorted(set(z))}
            drawn = source.sample(len(mine), rng, formula=counts, n_atoms=(len(z), len(z)), **given)
            found.update(zip(mine, drawn, strict=True))
        return [found[i] for i in range(len(which))]
    n_atoms = request.n_atoms or (1, trained.max_atoms)
    n_atoms = (n_atoms[0], min(n_atoms[1], trained.max_atoms))
    if request.formula is not None:
        return source.sample(request.n, rng, formula=request.formula, n_atoms=n_atoms, **given)
    return _with_system(source, request, trained, rng, n_atoms=n_atoms, **given)


def with_templates(plan: Plan, templates: Sequence[Template]) -> Plan:
    """Return the plan with the sizes and space groups of its templates."""
    groups = torch.tensor([t.space_group for t in templates], dtype=torch.int64)

    def told(conditions: Conditions) -> Conditions:
        return replace(conditions, space_group=groups, crystal_system=crystal_system_of(groups))

    return replace(
        plan,
        n_atoms=torch.tensor([t.n_atoms for t in templates], dtype=torch.int64),
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


def _with_system(
    source: TemplateSource,
    request: GenerationRequest,
    trained: Trained,
    rng: torch.Generator,
    **given: object,
) -> list[Template]:
    """Draw until every template has all elements of the chemical system, where one is given."""
    allowed = request.system or request.elements
    if allowed is None and request.exclude:
        known = (SYMBOLS[z] for z in trained.elements)
        allowed = tuple(symbol for symbol in known if symbol not in request.exclude)
    elif allowed is not None:
        allowed = tuple(symbol for symbol in allowed if symbol not in request.exclude)
    wanted = set(request.system or ())
    templates: list[Template] = []
    for _ in range(_ROUNDS):
        missing = request.n - len(templates)
        if not missing:
            break
        drawn = source.sample(missing, rng, elements=allowed, **given)  # pyright: ignore[reportArgumentType]
        templates += [t for t in drawn if wanted <= set(t.formula)]
    if len(templates) < request.n:
        raise InputError(
            f"Only {len(templates)} of {request.n} templates had all of {'-'.join(wanted)}. "
            "Give a formula, or symmetry='soft'."
        )
    return templates
