"""Templates of known crystals, recalled for a composition by a learned similarity of elements.

The memory holds space groups, Wyckoff letters and elements, and no coordinate. A composition is
compared with all entries of the same numbers of atoms; each gives its own template, with the
elements exchanged, a share that falls with the distance between the two.
"""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import islice, permutations, product

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional

from matmill.crystals.elements import SYMBOLS
from matmill.generate.wyckoff.encoding import canonical, from_rows, orbit_rows, ordered_elements
from matmill.generate.wyckoff.positions import swaps
from matmill.generate.wyckoff.templates import Template
from matmill.generate.wyckoff.vocabulary import MAX_ATOMS, MAX_ELEMENTS, element_features

_WIDTH = 32
_MAX_EXCHANGES = 24
_CONSIDERED = 128  # nearest pairs of entry and exchange that are weighed for one composition
_USUAL_HULL = 0.03  # eV per atom, of entries without a value

Skeleton = tuple[int, tuple[int, ...]]
"""Space group, and slot * 32 + position of each orbit; slots order elements by their counts."""


class Similarity(nn.Module):
    """Distance between two compositions of the same numbers of atoms."""

    table: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("table", element_features(), persistent=False)
        self.element = nn.Embedding(len(SYMBOLS), _WIDTH)
        self.element_map = nn.Linear(self.table.shape[-1], _WIDTH)
        self.count = nn.Embedding(MAX_ATOMS + 1, _WIDTH)
        last = nn.Linear(96, _WIDTH)
        self.inner = nn.Sequential(nn.Linear(3 * _WIDTH, 96), nn.SiLU(), last)
        self.weight = nn.Embedding(MAX_ATOMS + 1, 1)
        self.hull = nn.Parameter(torch.tensor(2.0))
        nn.init.normal_(self.element.weight, std=0.1)
        nn.init.normal_(self.count.weight, std=0.1)
        nn.init.zeros_(last.weight)
        nn.init.zeros_(self.weight.weight)

    def forward(
        self,
        asked: Int[Tensor, "a k"],
        known: Int[Tensor, "n k"],
        hull: Float[Tensor, " n"],
        counts: Int[Tensor, " k"],
    ) -> Float[Tensor, "a n"]:
        """Return scores of known compositions for asked ones, slot by slot of the same counts."""
        a, n = self.place(asked, counts), self.place(known, counts)
        squares = a.square().sum(-1, keepdim=True) + n.square().sum(-1) - 2.0 * a @ n.T
        return -squares - functional.softplus(self.hull) * hull.clamp(0.0, 1.0)

    def place(self, z: Int[Tensor, "b k"], counts: Int[Tensor, " k"]) -> Float[Tensor, "b w"]:
        """Return compositions as points, distances between which count."""
        x = self.element(z) + self.element_map(self.table[z])
        mean = (x * (counts / counts.sum())[:, None]).sum(-2, keepdim=True).expand_as(x)
        x = x + self.inner(torch.cat([x, mean, self.count(counts).expand_as(x)], dim=-1))
        return (x * (0.5 * self.weight(counts)).exp()).flatten(-2)


@dataclass(frozen=True, kw_only=True)
class Shelf:
    """All entries of the same numbers of atoms.

    Attributes:
        elements: Atomic numbers in the order of `slot_order`, ``(n, k)``.
        hull: Energy above the hull in eV per atom, ``(n,)``.
        skeletons: Index of the skeleton of each entry, ``(n,)``.
    """

    elements: Int[Tensor, "n k"]
    hull: Float[Tensor, " n"]
    skeletons: Int[Tensor, " n"]


class TemplateMemory(nn.Module):
    """Entries by numbers of atoms, with the similarity that ranks them.

    Args:
        shelves: Entries by their ascending numbers of atoms.
        skeletons: What the entries refer to.
    """

    def __init__(
        self, shelves: dict[tuple[int, ...], Shelf], skeletons: Sequence[Skeleton]
    ) -> None:
        super().__init__()
        self.similarity = Similarity()
        self.shelves = shelves
        self.skeletons = list(skeletons)
        self.groups = torch.tensor([group for group, _ in self.skeletons], dtype=torch.int64)

    @classmethod
    def of(cls, templates: Sequence[Template], hull: Float[Tensor, " n"]) -> "TemplateMemory":
        """Return a memory of templates, its similarity untrained."""
        index: dict[Skeleton, int] = {}
        rows = defaultdict(list)
        for template, energy in zip(templates, hull.nan_to_num(_USUAL_HULL).tolist(), strict=True):
            order, counts = slot_order(template.counts)
            number = index.setdefault(skeleton(template, order), len(index))
            rows[counts].append((order, energy, number))
        shelves = {
            counts: Shelf(
                elements=torch.tensor([order for order, _, _ in mine]),
                hull=torch.tensor([energy for _, energy, _ in mine]),
                skeletons=torch.tensor([number for _, _, number in mine]),
            )
            for counts, mine in rows.items()
        }
        return cls(shelves, list(index))

    @torch.inference_mode()
    def recall(
        self, atoms: dict[int, int], groups: Bool[Tensor, " 231"] | None = None
    ) -> list[tuple[Template, float]]:
        """Return templates for a composition with their probabilities, most probable first.

        Args:
            atoms: Number of atoms of each atomic number in the primitive cell.
            groups: Which space groups are permitted; all if None.
        """
        order, counts = slot_order(atoms)
        scores = self._scores(order, counts, groups)
        if not torch.isfinite(scores).any():
            return []
        shelf, exchanges = self.shelves[counts], exchanges_of(counts)
        shares = scores.flatten().softmax(0)
        top = shares.topk(min(_CONSIDERED, len(shares)))
        total: dict[Skeleton, float] = defaultdict(float)
        for share, at in zip(top.values.tolist(), top.indices.tolist(), strict=True):
            if share > 0.0:
                exchange, entry = divmod(at, len(shelf.hull))
                found = self.skeletons[int(shelf.skeletons[entry])]
                total[exchanged(found, exchanges[exchange])] += share
        whole = sum(total.values())
        ranked = sorted(total.items(), key=lambda item: -item[1])
        return [(canonical(_template(found, order)), share / whole) for found, share in ranked]

    @torch.inference_mode()
    def support(self, atoms: dict[int, int], groups: Bool[Tensor, " 231"] | None = None) -> float:
        """Return how much is known that is like a composition: similar entries of its counts.

        A sum over entries of the exponential of their score, so that of one formula in cells of
        several sizes the size with the most and nearest known crystals has the largest number.
        Arguments as in `recall`.
        """
        order, counts = slot_order(atoms)
        return float(self._scores(order, counts, groups).amax(0).exp().sum())

    def _scores(
        self, order: Sequence[int], counts: tuple[int, ...], groups: Tensor | None
    ) -> Float[Tensor, "exchanges n"]:
        """Return the score of each entry for each exchange, -inf in groups not permitted."""
        exchanges = exchanges_of(counts)
        shelf = self.shelves.get(counts)
        if shelf is None:
            return torch.full((len(exchanges), 1), -torch.inf)
        asked = torch.tensor([[order[s] for s in exchange] for exchange in exchanges])
        scores = self.similarity(asked, shelf.elements, shelf.hull, torch.tensor(counts))
        if groups is None:
            return scores
        return scores.masked_fill(~groups[self.groups[shelf.skeletons]], -torch.inf)

    def to_tensors(self) -> dict[str, Tensor]:
        """Return all that `from_tensors` needs."""
        keys = list(self.shelves)
        sizes = [len(self.shelves[key].hull) for key in keys]
        padded = [
            functional.pad(self.shelves[key].elements, (0, MAX_ELEMENTS - len(key))) for key in keys
        ]
        rows = [torch.tensor(orbits) for _, orbits in self.skeletons]
        tensors = {
            "keys": torch.tensor(
                [[*key, *(0,) * (MAX_ELEMENTS - len(key))] for key in keys]
            ).byte(),
            "sizes": torch.tensor(sizes, dtype=torch.int32),
            "elements": torch.cat(padded).byte(),
            "hull": torch.cat([self.shelves[key].hull for key in keys]).half(),
            "skeletons": torch.cat([self.shelves[key].skeletons for key in keys]).int(),
            "groups": self.groups.byte(),
            "lengths": torch.tensor([len(row) for row in rows]).byte(),
            "orbits": torch.cat(rows).byte(),
        }
        own = {f"similarity.{name}": t for name, t in self.similarity.state_dict().items()}
        return tensors | own

    @classmethod
    def from_tensors(cls, tensors: dict[str, Tensor]) -> "TemplateMemory":
        """Return the memory that `to_tensors` wrote down."""
        orbits = tensors["orbits"].long().split(tensors["lengths"].tolist())
        skeletons = [
            (int(group), tuple(row.tolist()))
            for group, row in zip(tensors["groups"], orbits, strict=True)
        ]
        sizes = tensors["sizes"].tolist()
        parts = zip(
            tensors["keys"].long().tolist(),
            tensors["elements"].long().split(sizes),
            tensors["hull"].float().split(sizes),
            tensors["skeletons"].long().split(sizes),
            strict=True,
        )
        shelves = {}
        for padded, elements, hull, numbers in parts:
            counts = tuple(n for n in padded if n)
            own = elements[:, : len(counts)]
            shelves[counts] = Shelf(elements=own, hull=hull, skeletons=numbers)
        memory = cls(shelves, skeletons)
        start = "similarity."
        own = {k.removeprefix(start): t.float() for k, t in tensors.items() if k.startswith(start)}
        memory.similarity.load_state_dict(own)
        return memory.eval().requires_grad_(requires_grad=False)


def slot_order(atoms: dict[int, int]) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Return the elements by ascending counts, then electropositive first, and the counts."""
    order = sorted(ordered_elements(tuple(atoms)), key=lambda z: atoms[z])
    return tuple(order), tuple(atoms[z] for z in order)


def skeleton(template: Template, order: Sequence[int]) -> Skeleton:
    """Return a template without its elements, the same for every choice of origin and axes."""
    rows = orbit_rows(template, list(order))
    return _first(template.space_group, tuple(sorted(slot * 32 + at for slot, at in rows)))


@lru_cache(maxsize=4096)
def exchanges_of(counts: tuple[int, ...]) -> tuple[tuple[int, ...], ...]:
    """Return the permutations of slots that leave the counts alone, the identity first."""
    slots = range(len(counts))
    alike = [[s for s in slots if counts[s] == n] for n in sorted(set(counts))]
    orders = islice(product(*(permutations(group) for group in alike)), _MAX_EXCHANGES)
    return tuple(tuple(slot for group in order for slot in group) for order in orders)


@lru_cache(maxsize=200_000)
def exchanged(found: Skeleton, exchange: tuple[int, ...]) -> Skeleton:
    """Return a skeleton with what stood in slot s moved to slot ``exchange[s]``."""
    group, rows = found
    return _first(group, tuple(sorted(exchange[row // 32] * 32 + row % 32 for row in rows)))


@lru_cache(maxsize=200_000)
def _first(group: int, rows: tuple[int, ...]) -> Skeleton:
    packed = torch.tensor(rows)
    every = packed // 32 * 32 + swaps(group)[:, packed % 32]
    return group, tuple(min(every.sort(dim=1).values.tolist()))


def _template(found: Skeleton, order: Sequence[int]) -> Template:
    return from_rows(found[0], order, [(row // 32, row % 32) for row in found[1]])
