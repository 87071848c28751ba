"""Random compositions that meet a request: number of atoms, elements, and what a group can host."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from matmill.crystals.elements import SYMBOLS
from matmill.errors import InputError
from matmill.generate.wyckoff.decode import Composition
from matmill.generate.wyckoff.encoding import TemplateBatch
from matmill.generate.wyckoff.feasible import reachable
from matmill.generate.wyckoff.network import END, WyckoffNetwork
from matmill.generate.wyckoff.vocabulary import MAX_ATOMS, MAX_ELEMENTS, element_ranks

_P1 = 1


@dataclass(frozen=True, kw_only=True)
class CompositionRequest:
    """What compositions may be drawn.

    Attributes:
        groups: Space groups of which one has to host the atoms.
        size: Smallest and largest number of atoms in the primitive cell.
        elements: Atomic numbers that may occur; empty for all.
        exactly: Whether all of them have to occur.
        asked_group: Space group that the network is told, 0 for none.
        asked_system: Crystal system that it is told, 1 to 7, 0 for none.
        hull: Energy above the hull that it is told, eV per atom, NaN for none.
    """

    groups: tuple[int, ...]
    size: tuple[int, int] = (1, MAX_ATOMS)
    elements: tuple[int, ...] = ()
    exactly: bool = False
    asked_group: int = 0
    asked_system: int = 0
    hull: float = torch.nan
    order: tuple[int, ...] = field(init=False)

    def __post_init__(self) -> None:
        """Order the elements and check that anything fits.

        Raises:
            InputError: If nothing does.
        """
        ranks = element_ranks()
        usable = self.elements or tuple(range(1, len(SYMBOLS)))
        object.__setattr__(self, "order", tuple(sorted(set(usable), key=lambda z: int(ranks[z]))))
        # P1 hosts everything, and spares the search.
        groups = (_P1,) if _P1 in self.groups else self.groups
        object.__setattr__(self, "groups", groups)
        if not reachable(groups, (), self.size, self._more(0)):
            named = f" with all of {', '.join(SYMBOLS[z] for z in self.order)}" * self.exactly
            raise InputError(
                f"No composition of {self.size[0]} to {self.size[1]} atoms{named} fits into the "
                "primitive cell of the space groups asked for; allow more atoms, fewer elements "
                "or other groups."
            )

    def _more(self, n_chosen: int, place: int = 0) -> tuple[int, int]:
        """Return how few and how many elements are to come, from a place in the order on."""
        later = len(self.order) - place
        if self.exactly:
            return later, later
        return 0, min(later, MAX_ELEMENTS - n_chosen)

    def next_elements(self, counts: tuple[int, ...], place: int) -> list[int]:
        """Return what may follow: places in the order, and -1 for the end.

        Args:
            counts: Atoms of the elements chosen so far.
            place: First place of the order that is still open.
        """
        found = []
        if counts and self._fits(counts, (0, 0)) and not (self.exactly and place < len(self.order)):
            found.append(-1)
        if len(counts) == MAX_ELEMENTS:
            return found
        last = place + 1 if self.exactly else len(self.order)
        answers: dict[tuple[int, int], bool] = {}  # most elements have the same ones to come
        for k in range(place, min(last, len(self.order))):
            more = self._shortened(len(counts) + 1, k + 1)
            if more not in answers:
                answers[more] = bool(self.next_counts(counts, k))
            if answers[more]:
                found.append(k)
        return found

    def next_counts(self, counts: tuple[int, ...], place: int) -> list[int]:
        """Return the numbers of atoms that the element at a place of the order may have."""
        more = self._shortened(len(counts) + 1, place + 1)
        room = self.size[1] - sum(counts)
        return [n for n in range(1, room + 1) if self._fits((*counts, n), more)]

    def _shortened(self, n_chosen: int, place: int) -> tuple[int, int]:
        least, most = self._more(n_chosen, place)
        return least, most if self.exactly else min(most, 1)  # one more is as good as several

    def _fits(self, counts: tuple[int, ...], more: tuple[int, int]) -> bool:
        return reachable(self.groups, tuple(sorted(counts)), self.size, more)


def draw_compositions(
    network: WyckoffNetwork, request: CompositionRequest, uniform: Tensor, *, temperature: float
) -> list[Composition]:
    """Draw compositions that meet a request.

    Args:
        network: In evaluation mode.
        request: What is asked for.
        uniform: Numbers in [0, 1), ``(n, 2 * (MAX_ELEMENTS + 1))``; they decide everything.
        temperature: Below 1, likely choices become likelier.
    """
    n = len(uniform)
    chosen: list[list[int]] = [[] for _ in range(n)]  # atomic numbers
    counts: list[tuple[int, ...]] = [()] * n
    places = [0] * n
    active = list(range(n))
    for step in range(MAX_ELEMENTS + 1):
        if not active:
            break
        batch = _batch([chosen[i] for i in active], [counts[i] for i in active], request.hull)
        size = request.size[0] if request.size[0] == request.size[1] else 0
        told = [torch.full((len(active),), v) for v in (size, request.asked_group)]
        system = torch.full((len(active),), request.asked_system)
        logits, hidden = network.composition(
            batch, size=told[0], space_group=told[1], system=system
        )
        logits, hidden = logits[:, step], hidden[:, step]
        mask = torch.zeros_like(logits, dtype=torch.bool)
        for row, i in enumerate(active):
            options = request.next_elements(tuple(sorted(counts[i])), places[i])
            mask[row, [request.order[k] if k >= 0 else END for k in options]] = True
        z = pick(logits / temperature, mask, uniform[active, 2 * step])
        number_logits = network.counts(hidden, z)
        mask = torch.zeros_like(number_logits, dtype=torch.bool)
        mask[:, 1] = z == END
        for row, i in enumerate(active):
            if z[row] != END:
                places[i] = request.order.index(int(z[row]))
                mask[row, request.next_counts(tuple(sorted(counts[i])), places[i])] = True
        number = pick(number_logits / temperature, mask, uniform[active, 2 * step + 1])
        for row, i in enumerate(active):
            if z[row] != END:
                chosen[i].append(int(z[row]))
                counts[i] = (*counts[i], int(number[row]))
                places[i] += 1
        active = [i for row, i in enumerate(active) if z[row] != END]
    return [Composition(elements=tuple(z), counts=c) for z, c in zip(chosen, counts, strict=True)]


def pick(logits: Tensor, mask: Tensor, uniform: Tensor) -> Tensor:
    """Draw one index a row among those that the mask permits, by inversion of ``uniform``."""
    weights = logits.double().masked_fill(~mask, -torch.inf).softmax(-1)
    total = weights.cumsum(-1)
    index = torch.searchsorted(total, uniform.double()[:, None] * total[:, -1:], right=True)
    last = mask.shape[1] - 1 - mask.flip(1).long().argmax(1)
    return torch.minimum(index[:, 0], last)


def _batch(
    elements: Sequence[Sequence[int]], counts: Sequence[Sequence[int]], hull: float
) -> TemplateBatch:
    k = max((len(z) for z in elements), default=0)
    b = len(elements)
    return TemplateBatch(
        elements=torch.tensor([[*z, *(0,) * (k - len(z))] for z in elements]).view(b, k).long(),
        counts=torch.tensor([[*c, *(0,) * (k - len(c))] for c in counts]).view(b, k).long(),
        space_group=torch.ones(b, dtype=torch.int64),
        letters=torch.full((b, 1), -1),
        slots=torch.full((b, 1), -1),
        hull=torch.full((b,), hull),
    )
