"""What a request asks of each crystal, and what the three modes of the prior make of it."""

from typing import Literal, get_args

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from matmill.crystals.elements import number
from matmill.errors import InputError
from matmill.generate.cdvae.conditions import Wishes
from matmill.generate.conditions import CRYSTAL_SYSTEMS, crystal_system_of
from matmill.generate.plan import Trained, window
from matmill.generate.protocol import GenerationRequest
from matmill.generate.streams import Streams

Mode = Literal["default", "full", "less"]
MODES: tuple[Mode, ...] = get_args(Mode)


def check_mode(mode: str) -> None:
    """Raise InputError for a mode that does not exist."""
    if mode not in MODES:
        raise InputError(f"The prior has no mode '{mode}'. Known: {', '.join(MODES)}.")


def refuse_impossible(request: GenerationRequest) -> None:
    """Raise InputError for what this family cannot do, naming what can."""
    if request.seeds is not None:
        raise InputError("A CDVAE starts from a latent, not from crystals; use 'flow' with seeds.")
    if request.symmetry == "hard":
        raise InputError(
            "A CDVAE cannot keep a space group; use 'flow' with symmetry='hard', or aim at one "
            "by the prior's mode full or less."
        )
    if request.scales:
        raise InputError("A CDVAE has no guidance, so scales mean nothing to it; use 'flow'.")


def wishes_for(
    request: GenerationRequest,
    values: dict[str, Float[Tensor, " n"]],
    trained: Trained,
    mode: Mode,
    rows: Wishes,
    streams: Streams,
) -> tuple[Wishes, Float[Tensor, "n k"]]:
    """Return what the prior is told of each crystal, and the values that were really asked for.

    Args:
        request: What is asked of all.
        values: What is asked of each, by column; wins over the request.
        trained: Its ``ranges`` are the columns, in order.
        mode: *default* tells the columns only; *full* symmetry and size too, which must be given;
            *less* fills everything that is not given from random training rows.
        rows: Training rows for that.
        streams: One for each crystal.

    Raises:
        InputError: If *full* lacks something, naming it.
    """
    n = len(streams)
    columns = list(trained.ranges)
    u = streams.uniform("plan", len(columns) + 2)
    asked = torch.full((n, len(columns)), torch.nan)
    for i, column in enumerate(columns):
        if column in values:
            asked[:, i] = values[column].float()
        elif column in request.conditions:
            low, high = window(request.conditions[column])
            asked[:, i] = low + (high - low) * u[:, i]
    nothing = torch.zeros(n, dtype=torch.int64)
    if mode == "default":
        told = Wishes(values=asked, crystal_system=nothing, space_group=nothing, n_atoms=nothing)
        return told, asked
    group = torch.full((n,), request.space_group or 0)
    system = crystal_system_of(group)
    if request.crystal_system and not request.space_group:
        system = torch.full((n,), 1 + list(CRYSTAL_SYSTEMS).index(request.crystal_system))
    size = nothing
    if request.n_atoms:
        low, high = request.n_atoms
        high = min(high, trained.max_atoms)
        size = (low + (high - low + 1) * u[:, -1]).long().clamp(low, high)
    told = Wishes(values=asked, crystal_system=system, space_group=group, n_atoms=size)
    if mode == "full":
        _insist_on_all(told, columns)
        return told, asked
    return _filled(told, rows, request, u[:, -2]), asked


def _insist_on_all(told: Wishes, columns: list[str]) -> None:
    missing = [
        name
        for i, name in enumerate(columns)
        if len(told) and not bool(torch.isfinite(told.values[:, i]).all())
    ]
    missing += [
        name
        for name in ("space_group", "n_atoms")
        if len(told) and not bool((getattr(told, name) > 0).all())
    ]
    if missing:
        raise InputError(
            f"The full prior needs every condition; missing: {', '.join(missing)}. Give them, or "
            "use mode less, which fills them from training rows, or default."
        )


def _filled(
    told: Wishes, rows: Wishes, request: GenerationRequest, u: Float[Tensor, " n"]
) -> Wishes:
    """Fill what is missing from one random training row per crystal, of those that fit."""
    fits = torch.ones(len(rows), dtype=torch.bool)
    for wanted, has in (
        (told.space_group, rows.space_group),
        (told.crystal_system, rows.crystal_system),
    ):
        if len(wanted) and int(wanted[0]) and bool((fits & (has == wanted[0])).any()):
            fits &= has == wanted[0]
    if request.n_atoms:
        low, high = request.n_atoms
        in_range = (rows.n_atoms >= low) & (rows.n_atoms <= high)
        if bool((fits & in_range).any()):
            fits &= in_range
    choice = torch.nonzero(fits).flatten()
    row = rows.select(choice[(u * len(choice)).long().clamp_max(len(choice) - 1)])
    return Wishes(
        values=torch.where(torch.isfinite(told.values), told.values, row.values),
        crystal_system=torch.where(
            told.crystal_system > 0, told.crystal_system, row.crystal_system
        ),
        space_group=torch.where(
            (told.space_group > 0) | (told.crystal_system > 0), told.space_group, row.space_group
        ),
        n_atoms=row.n_atoms,
    )


def allowed_sizes(request: GenerationRequest, max_atoms: int) -> Bool[Tensor, " m"]:
    """Return which numbers of atoms, 0 to ``max_atoms``, a crystal may have."""
    sizes = torch.arange(max_atoms + 1)
    low, high = request.n_atoms or (1, max_atoms)
    low = max(low, len(request.system or ()))
    fits = (sizes >= low) & (sizes <= high)
    if request.formula:
        fits &= sizes % sum(request.formula.values()) == 0
    return fits


def elements_of(
    request: GenerationRequest,
    log_composition: Float[Tensor, "b e"],
    n: int,
    allowed: Bool[Tensor, " e"],
) -> Int[Tensor, "b n"]:
    """Return ``n`` elements of each crystal in the proportions of its composition.

    A formula is taken as it is; of a chemical system every element gets at least one atom. Parts
    of atoms are given out by the largest remainder.
    """
    b = len(log_composition)
    if request.formula:
        unit = [number(s) for s, count in request.formula.items() for _ in range(count)]
        return torch.tensor(unit).repeat(n // len(unit)).repeat(b, 1).to(log_composition.device)
    chance = log_composition.masked_fill(~allowed.to(log_composition.device), -torch.inf)
    share = chance.softmax(-1).double()
    count = torch.zeros_like(share)
    for symbol in request.system or ():
        count[:, number(symbol) - 1] = 1.0
    left = n - int(count[0].sum()) if b else 0
    # What an element has already is taken off its due, so that one atom each costs no proportion.
    due = (n * share - count).clamp_min(0.0)
    due = due * left / due.sum(1, keepdim=True).clamp_min(1e-12)
    count = count + due.floor()
    missing = (n - count.sum(1)).round().long()
    rank = (due - due.floor()).argsort(dim=1, descending=True, stable=True).argsort(dim=1)
    count = count + (rank < missing[:, None])
    z = torch.arange(1, share.shape[1] + 1, device=share.device).repeat(b, 1)
    return torch.repeat_interleave(z.flatten(), count.long().flatten()).view(b, n)
