"""Distances between crystals by name, for whole sets: what continuous metrics are made from.

Each crystal is embedded once; distances are then asked for between any two sets. A crystal that
cannot be embedded (not finite, without a cell, with an atom that the distance does not know) stays
in its place and has no distance to anything.

Source:
    Negishi et al., Continuous Uniqueness and Novelty Metrics for Generative Modeling of Inorganic
    Crystals (2025), for the choice of distances and the coefficients of the blend.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from matmill.crystals.batch import CrystalBatch
from matmill.crystals.composition import element_counts
from matmill.crystals.element_mover import composition_vectors
from matmill.crystals.elements import MAX_NUMBER
from matmill.crystals.fingerprint import PointwiseDistances, amd, pdd
from matmill.crystals.lattice import shortest_vector
from matmill.crystals.magpie import magpie_vectors
from matmill.crystals.matching import Matcher
from matmill.crystals.prototype import prototype_labels
from matmill.crystals.transport import pdd_distances
from matmill.errors import UnknownNameError
from matmill.verify.signatures import readable

KINDS: dict[str, str] = {
    "amd": "largest difference of average minimum distances, Å",
    "pdd": "earth mover's distance of pointwise distances, Å",
    "elmd": "element mover's distance, steps on the modified Pettifor scale",
    "magpie": "Euclid on 132 Magpie statistics, not standardised",
    "elmd+amd": "0.7763 elmd/(1+elmd) + 0.2236 amd/(1+amd)",
    "comp": "0 for the same reduced formula, otherwise 1",
    "wyckoff": "0 for the same space group and Wyckoff letters, otherwise 1",
    "smat": "0 if the matcher at 0.2/0.3/5 says the same, otherwise 1",
}
"""What each distance measures. Those from the blend on lie in [0, 1] as they are."""

BLEND = (float.fromhex("0x1.8d7d565a99f87p-1"), float.fromhex("0x1.ca0aa695981e5p-3"))
"""Published coefficients of elmd and amd in ``elmd+amd``, 0.7763 and 0.2236."""

WYCKOFF_SYMPREC = 0.01
"""Å; the published tolerance of the Wyckoff distance (there of spglib, here of moyopy)."""

LONGEST_A = 500.0
"""Å; a cell with a longer vector is not embedded: it is no crystal, and may be all but flat."""

SHORTEST_A = 0.1
"""Å; an atom nearer to its own image has thousands of images to search and is no crystal either."""

Part = Tensor | PointwiseDistances | tuple[str, ...] | Matcher

_UNBOUNDED = ("amd", "pdd", "elmd", "magpie")
_NORMS = {"amd": torch.inf, "elmd": 1.0, "elmd+amd": 1.0, "magpie": 2.0}


def normalised(distance: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
    """Return ``d / (1 + d)``: 0 stays 0, and far apart tends to 1."""
    return distance / (1.0 + distance)


@dataclass(frozen=True, kw_only=True, eq=False)
class Embedding:
    """Crystals as points of one kind of distance.

    Attributes:
        kind: Which distance, a key of `KINDS`.
        ok: Which crystals could be embedded, ``(n_crystals,)``.
        parts: What the distance is computed from, each of the crystals that are ok, in order.
    """

    kind: str
    ok: Bool[Tensor, " n_crystals"]
    parts: tuple[Part, ...]

    def __len__(self) -> int:
        return len(self.ok)

    @cached_property
    def rows(self) -> Tensor:
        """Positions of the crystals that are ok."""
        return torch.nonzero(self.ok).flatten()


def embed(batch: CrystalBatch, kind: str, *, k: int = 100) -> Embedding:
    """Return the crystals as points of a distance.

    Args:
        batch: Any number of crystals, float64.
        kind: A key of `KINDS`.
        k: Neighbours of each atom in ``amd`` and ``pdd``.

    Raises:
        UnknownNameError: If there is no such distance.
    """
    if kind not in KINDS:
        raise UnknownNameError("distance", kind, list(KINDS))
    ok = _embeddable(batch)
    good = batch.select(ok)
    counts = element_counts(good)
    labels: list[str | None] = []
    known = torch.ones(len(good), dtype=torch.bool)
    if kind in ("elmd", "elmd+amd"):
        known = torch.isfinite(composition_vectors(counts)).all(1)
    elif kind == "magpie":
        known = torch.isfinite(magpie_vectors(counts)).all(1)
    elif kind == "wyckoff":
        labels = prototype_labels(good, species="none", symprec=WYCKOFF_SYMPREC)
        known = torch.tensor([label is not None for label in labels], dtype=torch.bool)
    ok[ok.clone()] = known
    good, counts = good.select(known), counts[known]
    make: dict[str, Callable[[], tuple[Part, ...]]] = {
        "amd": lambda: (amd(good, k, dtype=torch.float64),),
        "pdd": lambda: (pdd(good, k),),
        "elmd": lambda: (composition_vectors(counts),),
        "elmd+amd": lambda: (composition_vectors(counts), amd(good, k, dtype=torch.float64)),
        "magpie": lambda: (magpie_vectors(counts),),
        "comp": lambda: (good.formula,),
        "wyckoff": lambda: (tuple(label for label in labels if label is not None),),
        "smat": lambda: (Matcher(good),),
    }
    return Embedding(kind=kind, ok=ok, parts=make[kind]())


def distances(
    a: Embedding, b: Embedding, *, scaled: bool = True, rows: slice | None = None
) -> Float[Tensor, "n m"]:
    """Return the distance between each crystal of one set and of another.

    Args:
        a: Of ``n`` crystals.
        b: Of ``m`` crystals, of the same kind.
        scaled: Return ``d / (1 + d)`` for those that have no upper end, so that all lie in [0, 1].
        rows: Only these crystals of ``a`` that are ok, to work through a large set in pieces.

    Returns:
        float64; a row or column of NaN for a crystal without an embedding. With ``rows`` there are
        rows and columns for crystals that are ok alone.

    Raises:
        UnknownNameError: If the two are of different kinds.
    """
    if a.kind != b.kind:
        raise UnknownNameError("distance of the other set", b.kind, [a.kind])
    found = _between(a, b, rows or slice(None))
    if scaled and a.kind in _UNBOUNDED:
        found = normalised(found)
    if rows is not None:
        return found
    full = torch.full((len(a), len(b)), torch.nan, dtype=torch.float64)
    full[a.rows[:, None], b.rows] = found
    return full


def pairwise(
    a: CrystalBatch,
    b: CrystalBatch | None = None,
    *,
    kind: str,
    scaled: bool = False,
    k: int = 100,
) -> Float[Tensor, "n m"]:
    """Return the distances of one kind between crystals, to each other if only one set is given.

    Args:
        a: Of ``n`` crystals.
        b: Of ``m`` crystals.
        kind: A key of `KINDS`, which tells the unit.
        scaled: As in `distances`.
        k: Neighbours of each atom in ``amd`` and ``pdd``.
    """
    mine = embed(a, kind, k=k)
    return distances(mine, mine if b is None else embed(b, kind, k=k), scaled=scaled)


def _embeddable(batch: CrystalBatch) -> Bool[Tensor, " n_crystals"]:
    """Return which crystals are finite, have a cell of a sane size, and name every atom."""
    strange = (batch.atomic_numbers < 1) | (batch.atomic_numbers > MAX_NUMBER)
    n_strange = torch.zeros(len(batch)).index_add(0, batch.crystal_index, strange.float())
    ok = readable(batch) & (n_strange == 0) & (batch.lattice.norm(dim=-1) <= LONGEST_A).all(1)
    ok[ok.clone()] = shortest_vector(batch.lattice[ok].double()) >= SHORTEST_A
    return ok


def _between(a: Embedding, b: Embedding, rows: slice) -> Float[Tensor, "n m"]:
    match a.parts[0], b.parts[0]:
        case Matcher() as mine, Matcher() as theirs:
            return _by_matcher(mine, theirs, rows)
        case PointwiseDistances() as mine, PointwiseDistances() as theirs:
            return pdd_distances(mine.select(rows), theirs)
        case tuple() as mine, tuple() as theirs:
            codes = {label: i for i, label in enumerate(dict.fromkeys((*mine, *theirs)))}
            left, right = (torch.tensor([codes[x] for x in y]) for y in (mine[rows], theirs))
            return (left[:, None] != right).double()
    vectors = [(_tensor(x)[rows], _tensor(y)) for x, y in zip(a.parts, b.parts, strict=True)]
    found = _cdist(*vectors[0], p=_NORMS[a.kind])
    if a.kind != "elmd+amd":
        return found
    apart = _cdist(*vectors[1], p=_NORMS["amd"])
    return BLEND[0] * normalised(found) + BLEND[1] * normalised(apart)


def _cdist(a: Tensor, b: Tensor, *, p: float) -> Float[Tensor, "n m"]:
    # The shortcut by matrix products loses the small distances that decide who is a duplicate.
    return torch.cdist(a, b, p=p, compute_mode="donot_use_mm_for_euclid_dist")


def _tensor(part: Part) -> Tensor:
    assert isinstance(part, Tensor)
    return part


def _by_matcher(a: Matcher, b: Matcher, rows: slice) -> Float[Tensor, "n m"]:
    chosen = range(*rows.indices(len(a.batch)))
    found = torch.ones(len(chosen), len(b.batch), dtype=torch.float64)
    for row, i in enumerate(chosen):
        for j in b.candidates(a.formulas[i]):
            if a.same(i, j, other=b):
                found[row, j] = 0.0
    return found
