"""Partial templates and what may follow them: shared by random draws and by the beam search."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from matmill.generate.wyckoff.encoding import TemplateBatch, from_rows, ordered_elements
from matmill.generate.wyckoff.feasible import allowed, hostable, sites
from matmill.generate.wyckoff.network import WyckoffNetwork
from matmill.generate.wyckoff.positions import N_SPACE_GROUPS
from matmill.generate.wyckoff.templates import Template
from matmill.generate.wyckoff.vocabulary import N_LETTERS

_CHUNK = 2048


@dataclass(frozen=True, kw_only=True)
class Composition:
    """Elements in the order of generation, and the atoms of each in the primitive cell."""

    elements: tuple[int, ...]
    counts: tuple[int, ...]

    @classmethod
    def of(cls, atoms: dict[int, int]) -> "Composition":
        """Return the composition of numbers of atoms by atomic number."""
        order = ordered_elements(tuple(atoms))
        return cls(elements=tuple(order), counts=tuple(atoms[z] for z in order))


@dataclass(frozen=True, kw_only=True)
class Partial:
    """A composition in a space group with some orbits placed.

    Attributes:
        composition: All atoms.
        space_group: International number, 0 while undecided.
        rows: (element slot, position index) of the orbits placed so far.
        used: Positions without freedom that are taken.
        left: Atoms still to place, of the present element and the later ones.
    """

    composition: Composition
    space_group: int = 0
    rows: tuple[tuple[int, int], ...] = ()
    used: frozenset[int] = frozenset()
    left: tuple[int, ...] = ()

    @property
    def is_done(self) -> bool:
        """Whether all atoms are placed."""
        return self.space_group > 0 and not self.left

    @property
    def slot(self) -> int:
        """Index of the present element."""
        return len(self.composition.elements) - len(self.left)

    def in_group(self, space_group: int) -> "Partial":
        """Return the start in a space group."""
        return Partial(
            composition=self.composition, space_group=space_group, left=self.composition.counts
        )

    def options(self) -> tuple[int, ...]:
        """Return the positions that the next orbit may take."""
        last = self.rows[-1][1] if self.rows and self.rows[-1][0] == self.slot else -1
        return allowed(self.space_group, self.used, self.left, last)

    def with_orbit(self, letter: int) -> "Partial":
        """Return the partial with one more orbit."""
        n_sites, is_free = sites(self.space_group)[letter]
        rest = self.left[0] - n_sites
        return Partial(
            composition=self.composition,
            space_group=self.space_group,
            rows=(*self.rows, (self.slot, letter)),
            used=self.used if is_free else self.used | {letter},
            left=(rest, *self.left[1:]) if rest else self.left[1:],
        )

    def template(self) -> Template:
        """Return the finished template."""
        return from_rows(self.space_group, self.composition.elements, self.rows)


def host_mask(composition: Composition, groups: Sequence[int]) -> Tensor:
    """Return which of the groups can host a composition, bool ``(231,)``."""
    mask = torch.zeros(N_SPACE_GROUPS + 1, dtype=torch.bool)
    counts = tuple(sorted(composition.counts))
    mask[[g for g in groups if hostable(g, counts)]] = True
    return mask


def group_log_probabilities(
    network: WyckoffNetwork, compositions: Sequence[Composition], hull: float, masks: Tensor
) -> Float[Tensor, "b 231"]:
    """Return log p(space group | composition) over the groups that the masks permit."""
    starts = [Partial(composition=c, space_group=1) for c in compositions]
    logits = torch.cat([network.template(b)[0] for b in _batches(starts, hull)])
    return logits.masked_fill(~masks, -torch.inf).log_softmax(-1)


def position_log_probabilities(
    network: WyckoffNetwork, partials: Sequence[Partial], hull: float
) -> Float[Tensor, "b 27"]:
    """Return log p(position of the next orbit | what is placed), over what can be completed."""
    rows = []
    for start, batch in zip(range(0, len(partials), _CHUNK), _batches(partials, hull), strict=True):
        part = partials[start : start + _CHUNK]
        logits = network.template(batch)[1]
        at = torch.tensor([len(p.rows) for p in part])
        rows.append(logits[torch.arange(len(part)), at])
    mask = torch.zeros(len(partials), N_LETTERS, dtype=torch.bool)
    for i, partial in enumerate(partials):
        mask[i, list(partial.options())] = True
    return torch.cat(rows).masked_fill(~mask, -torch.inf).log_softmax(-1)


def _batches(partials: Sequence[Partial], hull: float) -> list[TemplateBatch]:
    return [
        _batch(partials[start : start + _CHUNK], hull) for start in range(0, len(partials), _CHUNK)
    ]


def _batch(partials: Sequence[Partial], hull: float) -> TemplateBatch:
    """Return partials as the network reads them.

    The orbit that is to come stands in the batch as a row with its element but no position, so
    that the network knows whose atoms are to be placed.
    """
    k = max(len(p.composition.elements) for p in partials)
    m = max(len(p.rows) for p in partials) + 1
    elements = [_padded(p.composition.elements, k, 0) for p in partials]
    counts = [_padded(p.composition.counts, k, 0) for p in partials]
    letters = [_padded([letter for _, letter in p.rows], m, -1) for p in partials]
    slots = [
        _padded([*(slot for slot, _ in p.rows), *([p.slot] if p.left else [])], m, -1)
        for p in partials
    ]
    return TemplateBatch(
        elements=torch.tensor(elements),
        counts=torch.tensor(counts),
        space_group=torch.tensor([p.space_group for p in partials]),
        letters=torch.tensor(letters),
        slots=torch.tensor(slots),
        hull=torch.full((len(partials),), hull),
    )


def _padded(values: Sequence[int], width: int, filler: int) -> list[int]:
    return [*values, *(filler,) * (width - len(values))]
