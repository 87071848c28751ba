"""From a request to the list of crystals to make: size, symmetry, composition, start of each."""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from matmill.crystals.elements import SYMBOLS, number
from matmill.errors import InputError
from matmill.generate.conditions import CRYSTAL_SYSTEMS, SCALARS, Conditions, crystal_system_of
from matmill.generate.dataset import NOBLE_GASES
from matmill.generate.protocol import GenerationRequest
from matmill.generate.state import N_ELEMENTS

# The network has seen chemical systems of a few elements. A longer list is only a limit on what
# may occur: told as a condition, it would ask for compounds of all of them.
_MOST_NAMED = 6


@dataclass(frozen=True, kw_only=True)
class Trained:
    """What the checkpoint's card says the network has seen.

    Attributes:
        shapes: Rows of (number of atoms, space group, how often), ``(n_shapes, 3)``.
        elements: Atomic numbers that occur.
        ranges: Column to (low, high, count), in the column's unit.
        max_atoms: Largest cell.
    """

    shapes: Int[Tensor, "s 3"]
    elements: tuple[int, ...]
    ranges: dict[str, tuple[float, float, int]]
    max_atoms: int


@dataclass(frozen=True, kw_only=True)
class Plan:
    """One row per crystal to make.

    Attributes:
        n_atoms: ``(n,)``.
        base: What every evaluation is told, such as a drawn space group.
        asked: The same plus what the user asked for; guidance goes from ``base`` to this.
        is_guided: Whether the two differ.
        allowed: Elements that may occur, over Z = 1..100, ``(100,)``.
    """

    n_atoms: Int[Tensor, " n"]
    base: Conditions
    asked: Conditions
    is_guided: bool
    allowed: Bool[Tensor, " e"]


def make_plan(request: GenerationRequest, trained: Trained, rng: torch.Generator) -> Plan:
    """Draw what the request leaves open from the training distribution.

    Raises:
        InputError: If the request cannot be met, with what could.
    """
    n = request.n
    allowed = _allowed(request, trained)
    system = _crystal_system(request)
    if request.seeds is not None:
        n_atoms = request.seeds.n_atoms[torch.arange(n) % len(request.seeds)]
        drawn = torch.zeros(n, dtype=torch.int64)
    elif request.formula is not None:
        n_atoms = _formula_sizes(request, trained, rng)
        drawn = torch.zeros(n, dtype=torch.int64)
    else:
        n_atoms, drawn = _shapes(request, trained, system, rng)
    base = Conditions.none(n)
    asked = Conditions.none(n)
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
            wanted = request.conditions[column]
            low, high = wanted if isinstance(wanted, tuple) else (wanted, wanted)
            asked.scalars[:, i] = low + (high - low) * torch.rand(n, generator=rng)
    if request.elements is not None and len(request.elements) <= _MOST_NAMED:
        asked.elements[:, [number(symbol) for symbol in request.elements]] = 1.0
        # Half are told "all of these", half "some of these": users want compounds of them first,
        # but a binary within the ternary is an answer too.
        asked.is_exact.copy_(torch.rand(n, generator=rng) < 0.5)
    is_guided = bool(
        request.conditions
        or bool(asked.elements.any())
        or request.space_group
        or request.crystal_system
    )
    return Plan(
        n_atoms=n_atoms,
        base=base,
        asked=asked,
        is_guided=is_guided,
        allowed=allowed,
    )


def check_request(request: GenerationRequest, trained: Trained) -> list[str]:
    """Return warnings; raise for what cannot be met.

    Raises:
        InputError: Naming the mistake and the allowed values.
    """
    warnings = []
    _allowed(request, trained)
    _crystal_system(request)
    for column, wanted in request.conditions.items():
        low, high, count = trained.ranges.get(column, (0.0, 0.0, 0))
        if count < 2:
            known = [f"{c} ({a:.3g} to {b:.3g})" for c, (a, b, k) in trained.ranges.items() if k]
            raise InputError(
                f"This generator was not trained on '{column}'. It knows: {', '.join(known)}."
            )
        warnings += [
            f"{column} = {value:g} is outside the trained range {low:.3g} to {high:.3g}: "
            "crystals will lie towards its edge."
            for value in (wanted if isinstance(wanted, tuple) else (wanted,))
            if not low <= value <= high
        ]
    smallest = request.n_atoms[0] if request.n_atoms else 1
    if smallest > trained.max_atoms:
        raise InputError(
            f"At least {smallest} atoms were asked for; this generator was trained on cells of at "
            f"most {trained.max_atoms}. Make a supercell afterwards, or train a larger one."
        )
    if request.seeds is not None and int(request.seeds.n_atoms.max()) > trained.max_atoms:
        raise InputError(f"Seeds may have at most {trained.max_atoms} atoms in the cell.")
    if request.formula is not None:
        per_unit = sum(request.formula.values())
        largest = min(trained.max_atoms, request.n_atoms[1] if request.n_atoms else 10**6)
        if per_unit > largest or not _multiples(request, trained):
            raise InputError(
                f"The formula has {per_unit} atoms; no multiple of it fits "
                f"{request.n_atoms or (1, trained.max_atoms)} atoms."
            )
    return warnings


def _allowed(request: GenerationRequest, trained: Trained) -> Bool[Tensor, " e"]:
    known = set(trained.elements) - set(NOBLE_GASES)
    if request.seeds is not None:
        known |= set(request.seeds.atomic_numbers.tolist()) & set(range(1, N_ELEMENTS + 1))
    wanted = set(request.formula or request.elements or ())
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
    request: GenerationRequest, trained: Trained, system: int, rng: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Draw (number of atoms, space group) pairs as often as they occur in training."""
    sizes, groups, counts = trained.shapes.unbind(1)
    low, high = request.n_atoms or (1, trained.max_atoms)
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
    weights = torch.where(fits, counts, 0).double()
    if not request.n:
        return torch.zeros(0, dtype=torch.int64), torch.zeros(0, dtype=torch.int64)
    rows = torch.multinomial(weights, request.n, replacement=True, generator=rng)
    return sizes[rows], groups[rows]


def _multiples(request: GenerationRequest, trained: Trained) -> list[int]:
    per_unit = sum((request.formula or {}).values())
    low, high = request.n_atoms or (1, trained.max_atoms)
    high = min(high, trained.max_atoms)
    return [m for m in range(1, high // per_unit + 1) if m * per_unit >= low]


def _formula_sizes(
    request: GenerationRequest, trained: Trained, rng: torch.Generator
) -> Int[Tensor, " n"]:
    """Split the budget over numbers of formula units, as often as such cells occur."""
    per_unit = sum((request.formula or {}).values())
    options = torch.tensor(_multiples(request, trained))
    sizes, _, counts = trained.shapes.unbind(1)
    weights = torch.tensor([float(counts[sizes == m * per_unit].sum()) + 1.0 for m in options])
    rows = torch.multinomial(weights, max(request.n, 1), replacement=True, generator=rng)
    return options[rows][: request.n] * per_unit
