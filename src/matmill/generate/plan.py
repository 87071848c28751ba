"""From a request to the list of crystals to make: size, symmetry, composition, start of each."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from matmill.crystals.elements import SYMBOLS, number
from matmill.errors import InputError
from matmill.generate.conditions import CRYSTAL_SYSTEMS, SCALARS, Conditions, crystal_system_of
from matmill.generate.dataset import NOBLE_GASES
from matmill.generate.protocol import GenerationRequest
from matmill.generate.state import N_ELEMENTS
from matmill.generate.streams import Streams

# The network has seen chemical systems of a few elements. A longer list is only a limit on what
# may occur: told as a condition, it would ask for compounds of all of them.
_MOST_NAMED = 6
_GOLDEN = 0.6180339887498949


@dataclass(frozen=True, kw_only=True)
class Trained:
    """What the checkpoint's card says the network has seen.

    Attributes:
        shapes: Rows of (number of atoms, space group, how often), ``(n_shapes, 3)``.
        elements: Atomic numbers that occur.
        ranges: Column to (low, high, count), in the column's unit.
        max_atoms: Largest cell.
        added: Properties of adapters, in the order of `Conditions.added`; in ``ranges`` too.
        reads_ranges: Whether the network was taught ranges of scalars as such.
        units: Column to unit, where there is one.
    """

    shapes: Int[Tensor, "s 3"]
    elements: tuple[int, ...]
    ranges: dict[str, tuple[float, float, int]]
    max_atoms: int
    added: tuple[str, ...] = ()
    reads_ranges: bool = False
    units: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Plan:
    """One row per crystal to make.

    Attributes:
        n_atoms: ``(n,)``.
        base: What every evaluation is told, such as a drawn space group.
        asked: The same plus what the user asked for; guidance goes from ``base`` to this.
        parts: The same, one condition at a time, by name: columns, ``elements``, ``symmetry``.
        allowed: Elements that may occur, over Z = 1..100, ``(100,)``.
        required: Elements that must all occur, ``(100,)``.
    """

    n_atoms: Int[Tensor, " n"]
    base: Conditions
    asked: Conditions
    parts: dict[str, Conditions]
    allowed: Bool[Tensor, " e"]
    required: Bool[Tensor, " e"]

    @property
    def is_guided(self) -> bool:
        """Whether anything is asked for that guidance can strengthen."""
        return bool(self.parts)


def make_plan(
    request: GenerationRequest,
    trained: Trained,
    rng: torch.Generator | Streams,
    *,
    cell_weights: Callable[[Sequence[int]], Sequence[float]] | None = None,
) -> Plan:
    """Draw what the request leaves open from the training distribution.

    Each crystal draws from a stream of its own, so the first rows of a longer plan are those of a
    shorter one.

    Args:
        request: What is asked for.
        trained: What the network has seen.
        rng: Source of randomness, or a stream for each crystal.
        cell_weights: How likely cells hold given numbers of formula units; without, as often as
            cells of that size occur in training.

    Raises:
        InputError: If the request cannot be met, with what could.
    """
    n = request.n
    streams = rng if isinstance(rng, Streams) else Streams.of(rng, n)
    allowed = allowed_elements(request, trained)
    system = _crystal_system(request)
    n_added = len(trained.added)
    u = streams.uniform("plan", 2 + len(SCALARS) + n_added)
    if request.seeds is not None:
        n_atoms = request.seeds.n_atoms[streams.crystal % len(request.seeds)]
        drawn = torch.zeros(n, dtype=torch.int64)
    elif request.formula is not None:
        n_atoms = _formula_sizes(request, trained, streams, cell_weights)
        drawn = torch.zeros(n, dtype=torch.int64)
    else:
        n_atoms, drawn = _shapes(request, trained, system, u[:, 0])
    base = Conditions.none(n, n_added=n_added)
    asked = Conditions.none(n, n_added=n_added)
    if request.space_group or request.crystal_system:
        group = torch.full((n,), request.space_group or 0)
        asked.space_group.copy_(group)
        asked.crystal_system.copy_(
            crystal_system_of(group) if request.space_group else torch.full((n,), system)
        )
    else:
        for conditions in (base, asked):
            conditions.space_group.copy_(drawn)
            conditions.crystal_system.copy_(crystal_system_of(drawn))
    for i, column in enumerate(SCALARS):
        if column in request.conditions:
            low, high = window(request.conditions[column])
            if trained.reads_ranges and low < high:
                asked.scalars[:, i], asked.upper[:, i] = low, high
            else:
                asked.scalars[:, i] = low + (high - low) * u[:, 2 + i]
    for i, column in enumerate(trained.added):
        if column in request.conditions:
            # Adapters were taught ranges as such.
            asked.added[:, i] = torch.tensor(window(request.conditions[column]))
    named = request.system or request.elements or ()
    if 0 < len(named) <= _MOST_NAMED:
        asked.elements[:, [number(symbol) for symbol in named]] = 1.0
        # Within a list half are told "all of these", half "some of these": users want compounds
        # of them first, but a binary within the ternary is an answer too.
        asked.is_exact.copy_(u[:, 1] < (1.0 if request.system else 0.5))
    required = torch.zeros(N_ELEMENTS, dtype=torch.bool)
    required[[number(symbol) - 1 for symbol in request.system or ()]] = True
    return Plan(
        n_atoms=n_atoms,
        base=base,
        asked=asked,
        parts=_parts(base, asked, trained.added),
        allowed=allowed,
        required=required,
    )


def with_values(plan: Plan, values: dict[str, Float[Tensor, " n"]], trained: Trained) -> Plan:
    """Return the plan with crystals asked for values of their own, by column."""
    if not values:
        return plan
    scalars, upper = plan.asked.scalars.clone(), plan.asked.upper.clone()
    added = plan.asked.added.clone()
    for column, each in values.items():
        if column in trained.added:
            added[:, trained.added.index(column)] = each.to(added)[:, None]
        else:
            i = list(SCALARS).index(column)
            scalars[:, i], upper[:, i] = each.to(scalars), torch.nan
    asked = replace(plan.asked, scalars=scalars, upper=upper, added=added)
    return replace(plan, asked=asked, parts=_parts(plan.base, asked, trained.added))


def window(wanted: float | tuple[float, float]) -> tuple[float, float]:
    """Return a value or a range as a range."""
    return wanted if isinstance(wanted, tuple) else (wanted, wanted)


def _parts(base: Conditions, asked: Conditions, added: tuple[str, ...]) -> dict[str, Conditions]:
    """Return what is asked for, one condition at a time, by name; each stands alone on ``base``."""
    parts: dict[str, Conditions] = {}
    for i, column in enumerate(SCALARS):
        if bool(torch.isfinite(asked.scalars[:, i]).any()):
            scalars, upper = base.scalars.clone(), base.upper.clone()
            scalars[:, i], upper[:, i] = asked.scalars[:, i], asked.upper[:, i]
            parts[column] = replace(base, scalars=scalars, upper=upper)
    for i, name in enumerate(added):
        if bool(torch.isfinite(asked.added[:, i]).any()):
            spans = base.added.clone()
            spans[:, i] = asked.added[:, i]
            parts[name] = replace(base, added=spans)
    if bool(asked.elements.any()):
        parts["elements"] = replace(base, elements=asked.elements, is_exact=asked.is_exact)
    if not torch.equal(base.crystal_system, asked.crystal_system):
        parts["symmetry"] = replace(
            base, space_group=asked.space_group, crystal_system=asked.crystal_system
        )
    return parts


def check_request(request: GenerationRequest, trained: Trained) -> list[str]:
    """Return warnings; raise for what cannot be met.

    Raises:
        InputError: Naming the mistake and the allowed values.
    """
    warnings = []
    allowed_elements(request, trained)
    _crystal_system(request)
    for column, wanted in request.conditions.items():
        low, high, count = trained.ranges.get(column, (0.0, 0.0, 0))
        if count < 2:
            raise InputError(
                f"This generator was not trained on '{column}'. It knows: {known(trained)}."
            )
        warnings += [
            f"{column} = {value:g} is outside the trained range {low:.3g} to {high:.3g}: "
            "crystals will lie towards its edge."
            for value in dict.fromkeys(window(wanted))
            if not low <= value <= high
        ]
    _check_scales(request)
    smallest = request.n_atoms[0] if request.n_atoms else 1
    if smallest > trained.max_atoms:
        raise InputError(
            f"At least {smallest} atoms were asked for; this generator was trained on cells of at "
            f"most {trained.max_atoms}. Make a supercell afterwards, or train a larger one."
        )
    if request.n_atoms and request.n_atoms[1] > trained.max_atoms:
        warnings.append(
            f"Up to {request.n_atoms[1]} atoms were asked for; cells have at most "
            f"{trained.max_atoms}, as in training. Make supercells of them afterwards."
        )
    if request.seeds is not None and int(request.seeds.n_atoms.max()) > trained.max_atoms:
        raise InputError(
            f"Seeds may have at most {trained.max_atoms} atoms in the cell; one has "
            f"{int(request.seeds.n_atoms.max())}. Give its primitive cell, and make a supercell "
            "of what comes out."
        )
    _check_system(request, trained)
    if request.formula is not None:
        per_unit = sum(request.formula.values())
        largest = min(trained.max_atoms, request.n_atoms[1] if request.n_atoms else 10**6)
        if per_unit > largest or not _multiples(request, trained):
            raise InputError(
                f"The formula has {per_unit} atoms; no multiple of it fits "
                f"{request.n_atoms or (1, trained.max_atoms)} atoms."
            )
    return warnings


def known(trained: Trained) -> str:
    """Return everything that can be asked for: names, ranges with units, training crystals."""
    rows = [
        f"{column} ({low:.3g} to {high:.3g}{_spaced(trained.units.get(column, ''))}, "
        f"{count} crystals)"
        for column, (low, high, count) in trained.ranges.items()
        if count >= 2
    ]
    return ", ".join(rows) or "no property"


def _spaced(unit: str) -> str:
    return f" {unit}" if unit else ""


def _check_scales(request: GenerationRequest) -> None:
    asked = [*request.conditions]
    if 0 < len(request.system or request.elements or ()) <= _MOST_NAMED:
        asked.append("elements")
    if request.space_group or request.crystal_system:
        asked.append("symmetry")
    for name, scale in request.scales.items():
        if name not in asked:
            raise InputError(
                f"A scale is given for '{name}', which is not asked for. Asked for: "
                f"{', '.join(asked) or 'nothing'}."
            )
        if scale < 0:
            raise InputError(f"The scale of '{name}' is {scale:g}; give 0 or more.")


def _check_system(request: GenerationRequest, trained: Trained) -> None:
    n = len(request.system or ())
    most = min(trained.max_atoms, request.n_atoms[1] if request.n_atoms else trained.max_atoms)
    if request.seeds is not None:
        most = int(request.seeds.n_atoms.min())
    if n > most:
        raise InputError(
            f"{n} elements must all occur, but a cell may have {most} atoms only. "
            "Ask for larger cells, or use elements= for compounds of some of them."
        )


def allowed_elements(request: GenerationRequest, trained: Trained) -> Bool[Tensor, " e"]:
    """Return which elements may occur, over Z = 1..100.

    Raises:
        InputError: If one is unknown, asked for and excluded at once, or if none is left.
    """
    known = set(trained.elements) - set(NOBLE_GASES)
    if request.seeds is not None:
        known |= set(request.seeds.atomic_numbers.tolist()) & set(range(1, N_ELEMENTS + 1))
    wanted = set(request.formula or request.system or request.elements or ())
    numbers = {number(symbol) for symbol in wanted}
    banned = {number(symbol) for symbol in request.exclude}
    if both := numbers & banned:
        names = ", ".join(SYMBOLS[z] for z in sorted(both))
        raise InputError(f"{names} is asked for and excluded at once.")
    if missing := numbers - known:
        names = ", ".join(SYMBOLS[z] for z in sorted(missing))
        raise InputError(
            f"This generator has not been trained on {names}. It knows: "
            f"{', '.join(SYMBOLS[z] for z in sorted(known))}."
        )
    final = (numbers or known) - banned
    if not final:
        raise InputError("No element is left after the exclusions.")
    allowed = torch.zeros(N_ELEMENTS, dtype=torch.bool)
    allowed[[z - 1 for z in final]] = True
    return allowed


def _crystal_system(request: GenerationRequest) -> int:
    if request.space_group is not None and not 1 <= request.space_group <= 230:
        raise InputError(f"Space group {request.space_group} does not exist; give 1 to 230.")
    if request.crystal_system is None:
        return 0
    names = list(CRYSTAL_SYSTEMS)
    if request.crystal_system not in names:
        raise InputError(
            f"No crystal system called '{request.crystal_system}'. Known: {', '.join(names)}."
        )
    return names.index(request.crystal_system) + 1


def _shapes(
    request: GenerationRequest, trained: Trained, system: int, u: Float[Tensor, " n"]
) -> tuple[Tensor, Tensor]:
    """Draw (number of atoms, space group) pairs as often as they occur in training."""
    sizes, groups, counts = trained.shapes.unbind(1)
    low, high = request.n_atoms or (1, trained.max_atoms)
    low = max(low, len(request.system or ()))
    fits = (sizes >= low) & (sizes <= high)
    if not bool(fits.any()):
        raise InputError(
            f"No training crystal has {low} to {high} atoms; sizes go from "
            f"{int(sizes.min())} to {int(sizes.max())}."
        )
    if request.space_group is not None and bool((fits & (groups == request.space_group)).any()):
        fits &= groups == request.space_group
    elif system and bool((fits & (crystal_system_of(groups) == system)).any()):
        fits &= crystal_system_of(groups) == system
    total = torch.where(fits, counts, 0).double().cumsum(0)
    # A row that does not fit adds nothing to the sum, so it is never the one that passes u.
    rows = torch.searchsorted(total, u.double() * total[-1], right=True)
    return sizes[rows], groups[rows]


def _multiples(request: GenerationRequest, trained: Trained) -> list[int]:
    per_unit = sum((request.formula or {}).values())
    low, high = request.n_atoms or (1, trained.max_atoms)
    high = min(high, trained.max_atoms)
    return [m for m in range(1, high // per_unit + 1) if m * per_unit >= low]


def _formula_sizes(
    request: GenerationRequest,
    trained: Trained,
    streams: Streams,
    cell_weights: Callable[[Sequence[int]], Sequence[float]] | None,
) -> Int[Tensor, " n"]:
    """Split the budget over numbers of formula units, as likely as such cells are.

    Steps of the golden ratio around a circle that is cut in these shares: every share is met as
    closely as it can be by any number of crystals, and the first ones never change.
    """
    per_unit = sum((request.formula or {}).values())
    options = torch.tensor(_multiples(request, trained))
    sizes, _, counts = trained.shapes.unbind(1)
    if cell_weights is None:
        weights = [float(counts[sizes == m * per_unit].sum()) + 1.0 for m in options]
    else:
        weights = cell_weights(options.tolist())
    total = torch.tensor(weights, dtype=torch.float64).cumsum(0)
    offset = streams.of_run().uniform("plan", 1)[0, 0].double()
    turn = (offset + streams.crystal.double() * _GOLDEN) % 1.0
    return options[torch.searchsorted(total, turn * total[-1], right=True)] * per_unit
