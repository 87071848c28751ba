"""Templates as tensors: elements, orbits and the choice of origin in one order each."""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from functools import lru_cache

import torch
from jaxtyping import Float, Int
from torch import Tensor

from matmill.generate.wyckoff.positions import positions, swaps
from matmill.generate.wyckoff.templates import Template
from matmill.generate.wyckoff.vocabulary import (
    MAX_ATOMS,
    MAX_ELEMENTS,
    element_ranks,
    multiplicities,
)


@dataclass(frozen=True, kw_only=True)
class TemplateBatch:
    """Templates side by side, padded.

    Attributes:
        elements: Atomic numbers, electropositive first, 0 padded, ``(b, k)``.
        counts: Atoms of each element in the primitive cell, ``(b, k)``.
        space_group: International numbers, ``(b,)``.
        letters: Index of the position of each orbit, -1 padded, ``(b, m)``.
        slots: Index of the element of each orbit, -1 padded, ``(b, m)``.
        hull: Energy above the hull in eV per atom, NaN where unknown, ``(b,)``.
    """

    elements: Int[Tensor, "b k"]
    counts: Int[Tensor, "b k"]
    space_group: Int[Tensor, " b"]
    letters: Int[Tensor, "b m"]
    slots: Int[Tensor, "b m"]
    hull: Float[Tensor, " b"]

    def __len__(self) -> int:
        return len(self.space_group)

    def select(self, index: Tensor) -> "TemplateBatch":
        """Return these rows, without the padding that they do not need."""
        rows = {f.name: getattr(self, f.name)[index] for f in fields(self)}
        k = max(int((rows["elements"] > 0).sum(1).max()), 1)
        m = max(int((rows["letters"] >= 0).sum(1).max()), 1)
        for name, width in (("elements", k), ("counts", k), ("letters", m), ("slots", m)):
            rows[name] = rows[name][:, :width]
        return TemplateBatch(**rows)

    def to(self, device: str | torch.device) -> "TemplateBatch":
        """Return a copy on another device."""
        return TemplateBatch(**{f.name: getattr(self, f.name).to(device) for f in fields(self)})


def fits(template: Template) -> bool:
    """Tell whether the network can read a template."""
    return template.n_atoms <= MAX_ATOMS and len(set(template.elements)) <= MAX_ELEMENTS


def encode(templates: Sequence[Template], hull: Float[Tensor, " b"] | None = None) -> TemplateBatch:
    """Return canonical templates (`canonical`) as tensors."""
    b = len(templates)
    elements = torch.zeros(b, MAX_ELEMENTS, dtype=torch.int64)
    counts = torch.zeros(b, MAX_ELEMENTS, dtype=torch.int64)
    letters = torch.full((b, MAX_ATOMS), -1)
    slots = torch.full((b, MAX_ATOMS), -1)
    for i, template in enumerate(templates):
        order = ordered_elements(template.elements)
        total = template.counts
        for k, z in enumerate(order):
            elements[i, k], counts[i, k] = z, total[z]
        rows = orbit_rows(template, order)
        letters[i, : len(rows)] = torch.tensor([letter for _, letter in rows])
        slots[i, : len(rows)] = torch.tensor([slot for slot, _ in rows])
    unknown = torch.full((b,), torch.nan)
    return TemplateBatch(
        elements=elements,
        counts=counts,
        space_group=torch.tensor([t.space_group for t in templates], dtype=torch.int64),
        letters=letters,
        slots=slots,
        hull=unknown if hull is None else hull.float(),
    ).select(torch.arange(b))


def ordered_elements(elements: Sequence[int]) -> list[int]:
    """Return the distinct elements in the order of generation."""
    return sorted(set(elements), key=lambda z: _rank_list()[z])


def orbit_rows(template: Template, order: list[int]) -> list[tuple[int, int]]:
    """Return (element slot, position index) of each orbit, sorted."""
    index = _letter_index(template.space_group)
    pairs = zip(template.elements, template.letters, strict=True)
    return sorted((order.index(z), index[letter]) for z, letter in pairs)


@lru_cache(maxsize=100_000)
def canonical(template: Template) -> Template:
    """Return the first of the equivalent templates: other origins and axes give other letters.

    Two templates that differ only by the affine normaliser of their group become equal.
    """
    order = ordered_elements(template.elements)
    rows = torch.tensor(orbit_rows(template, order))
    every = swaps(template.space_group)[:, rows[:, 1]]
    # Sorting slot * 32 + letter sorts by element, then letter; the smallest row wins.
    keys = (rows[:, 0] * 32 + every).sort(dim=1).values
    best = min(keys.unique(dim=0).tolist()) if len(keys) > 1 else keys[0].tolist()
    return from_rows(template.space_group, order, [(key // 32, key % 32) for key in best])


def from_rows(space_group: int, order: Sequence[int], rows: Sequence[tuple[int, int]]) -> Template:
    """Return the template of (element slot, position index) pairs."""
    names = tuple(_letter_index(space_group))
    return Template(
        space_group=space_group,
        letters=tuple(names[letter] for _, letter in rows),
        elements=tuple(order[slot] for slot, _ in rows),
    )


def remaining(batch: TemplateBatch) -> tuple[Int[Tensor, "b m+1"], Int[Tensor, "b m+1"]]:
    """Return, before each orbit and after the last, which element comes and how many are left.

    Returns:
        Element slots and numbers of atoms; 0 and 0 after the last orbit.
    """
    b, m = batch.letters.shape
    n_sites = multiplicities().to(batch.letters.device)
    mine = n_sites[batch.space_group[:, None], batch.letters.clamp_min(0)] * (batch.letters >= 0)
    slots = torch.cat([batch.slots.clamp_min(0), batch.slots.new_zeros(b, 1)], dim=1)
    same = (batch.slots[:, None, :] == slots[:, :, None]) & (batch.letters >= 0)[:, None, :]
    before = (
        torch.arange(m, device=slots.device) < torch.arange(m + 1, device=slots.device)[:, None]
    )
    placed = (mine[:, None, :] * (same & before)).sum(-1)
    left = batch.counts.gather(1, slots) - placed
    ended = torch.cat([batch.slots < 0, torch.ones_like(batch.slots[:, :1], dtype=torch.bool)], 1)
    return slots.masked_fill(ended, 0), left.masked_fill(ended, 0)


@lru_cache(maxsize=230)
def _letter_index(space_group: int) -> dict[str, int]:
    return {letter: i for i, letter in enumerate(positions(space_group))}


@lru_cache(maxsize=1)
def _rank_list() -> list[int]:
    return element_ranks().tolist()
