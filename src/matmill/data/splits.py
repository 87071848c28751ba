"""Splits into train, validation and test rows: at random, as matbench does, or by group.

A group split never puts two members of one group (a formula, a prototype, a cluster of near-copies)
into different parts, so a score on it says how a model does on what it has not seen.
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from matmill.crystals.batch import CrystalBatch
from matmill.crystals.compositions import CompositionBatch
from matmill.crystals.symmetry import SYMPREC
from matmill.data.compositions import LabelledCompositions, Table, items
from matmill.data.groups import groups_of, reduced
from matmill.data.table import LabelledCrystals
from matmill.errors import DataError, InputError, UnknownNameError
from matmill.randomness import child

Kind = Literal["random", "matbench", "formula", "element", "prototype", "redundancy", "cluster"]
Rows = Int[Tensor, " _n_rows"]
MATBENCH_SEED = 18012019  # of all folds of matbench v0.1
PARTS = ("train", "val", "test")
_FORMAT = 1


@dataclass(frozen=True, kw_only=True, eq=False)
class Split:
    """Which rows train, tune and test.

    Attributes:
        kind: How the rows were divided.
        train: Row numbers, ascending.
        val: Row numbers, ascending; may be empty.
        test: Row numbers, ascending.
        settings: Everything that decided the division: seed, fractions, fold, elements, ….
        data_hash: Structure hash of the table; empty when not known.
    """

    kind: str
    train: Rows
    val: Rows
    test: Rows
    settings: dict[str, Any] = field(default_factory=dict)
    data_hash: str = ""

    @property
    def parts(self) -> dict[str, Rows]:
        """The rows by name of the part."""
        return {"train": self.train, "val": self.val, "test": self.test}

    @property
    def hash(self) -> str:
        """Content hash of the division, 32 hex digits."""
        text = json.dumps({name: rows.tolist() for name, rows in self.parts.items()})
        return hashlib.sha256(f"{self.data_hash}{text}".encode()).hexdigest()[:32]

    def save(self, path: Path) -> None:
        """Write the split as JSON with its hash, replacing the file at once."""
        content = {
            "format": _FORMAT,
            "kind": self.kind,
            "settings": self.settings,
            "data_hash": self.data_hash,
            "hash": self.hash,
            **{name: rows.tolist() for name, rows in self.parts.items()},
        }
        part = path.with_name(f"{path.name}.part")
        part.write_text(json.dumps(content), encoding="utf-8")
        part.replace(path)

    @classmethod
    def load(cls, path: Path, table: Table | None = None) -> "Split":
        """Read a split and check it, also against ``table`` when given.

        Raises:
            DataError: If the file is not a split, was changed, or belongs to other crystals.
        """
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            rows = {name: torch.tensor(content[name], dtype=torch.int64) for name in PARTS}
            split = cls(
                kind=content["kind"],
                settings=content["settings"],
                data_hash=content["data_hash"],
                **rows,
            )
            stored = content["hash"]
        except (OSError, KeyError, TypeError, ValueError) as error:
            raise DataError(f"{path} is not a split of matmill: {error}.") from error
        if split.hash != stored:
            raise DataError(
                f"{path} was changed after it was written (its hash is not {stored}). "
                "Make it again with: matmill data split."
            )
        if table is not None and split.data_hash and split.data_hash != table.structure_hash:
            raise DataError(
                f"{path} divides other crystals than those of {table.source}: hash "
                f"{split.data_hash} against {table.structure_hash}. Make a split for this table."
            )
        return split


def split(
    data: Table | CrystalBatch | CompositionBatch,
    kind: Kind = "random",
    *,
    seed: int = 0,
    fractions: tuple[float, float, float] = (0.8, 0.1, 0.1),
    n_folds: int | None = None,
    fold: int = 0,
    target: str | None = None,
    elements: Sequence[str] = (),
    symprec: float = SYMPREC,
    by: str = "composition",
    threshold: float | None = None,
    metric: str | None = None,
    dropped: Literal["out", "with_kept"] = "out",
) -> Split:
    """Divide rows into train, validation and test.

    Args:
        data: What to divide.
        kind: ``random``; ``matbench`` (the published five folds; rows in the published order);
            ``formula`` (no reduced formula in two parts); ``element`` (every crystal with one of
            the held-out elements is tested on); ``prototype`` (no pair of anonymous formula and
            space group in two parts); ``redundancy`` (near-copies are dropped first, so that no
            two rows of the parts are within the threshold); ``cluster`` (no cluster of near-copies
            in two parts, all rows used; rows of neighbouring clusters can still be near, see
            `redundancy.report.report`).
        seed: Of the division; matbench's test folds have their own and ignore it.
        fractions: Of train, validation and test; they add up to 1. With folds, and for
            ``element``, only the ratio of train to validation is used.
        n_folds: Cross-validation with so many folds instead of fractions (5 for ``matbench``).
        fold: Which fold to test on, from 0.
        target: For ``matbench`` classification tasks: the column with the classes, which makes
            the folds stratified. A column with values other than 0 and 1 is a regression task.
        elements: Held-out elements for ``element``; by default drawn with the seed until their
            crystals fill the test fraction.
        symprec: Tolerance in Å for space groups of ``prototype`` that the table does not have in
            a column ``spacegroup``.
        by: For ``redundancy`` and ``cluster``: ``composition`` or ``structure``.
        threshold: For them, in the unit of the metric; see `redundancy.metrics.METRICS`.
        metric: For them; see `redundancy.reduce.reduce`.
        dropped: For ``redundancy``: dropped rows stay ``out`` of all parts, or go to the part of
            the kept row nearest to them, ``with_kept``.

    Raises:
        InputError: If fractions or folds make no sense, or there are too few groups to divide.
        UnknownNameError: If the kind, the target or the metric is unknown.
    """
    if kind not in get_args(Kind):
        raise UnknownNameError("split", kind, list(get_args(Kind)))
    if dropped not in {"out", "with_kept"}:
        raise UnknownNameError("place for dropped rows", dropped, ["out", "with_kept"])
    if kind == "matbench" and n_folds is None:
        n_folds = 5
    _check(fractions, n_folds, fold)
    table = _table(data)
    batch = items(table)
    if len(batch) < 2:
        raise InputError(f"{len(batch)} row(s) cannot be divided; at least 2 are needed.")
    settings: dict[str, Any] = {"seed": seed, "fractions": list(fractions)}
    if n_folds is not None and kind != "element":
        settings |= {"n_folds": n_folds, "fold": fold}
    rng = child(seed, "split", kind)
    if kind == "matbench":
        assert n_folds is not None
        labels = None if target is None else table.column(target)
        is_stratified = labels is not None and _is_binary(labels)
        settings |= {"target": target, "stratified": is_stratified}
        parts = matbench_folds(len(batch), labels if is_stratified else None, n_folds)
        tested = torch.zeros(len(batch), dtype=torch.bool)
        tested[parts[fold]] = True
        members = _split_rest(torch.arange(len(batch)), tested, fractions, rng)
    elif kind == "element":
        held_out, tested = _hold_out(batch, elements, fractions[2], rng)
        settings["elements"] = list(held_out)
        members = _split_rest(torch.arange(len(batch)), tested, fractions, rng)
    else:
        used = torch.arange(len(batch))
        if kind in {"redundancy", "cluster"}:
            found = reduced(batch, by, threshold, metric)
            settings |= {**found.settings, "clusters": len(found)}
            groups = found.cluster_id
            if kind == "redundancy":
                settings["dropped"] = dropped
                if dropped == "out":
                    used, groups = found.keep, torch.arange(len(found))
        else:
            if kind == "prototype":
                settings["symprec"] = symprec
            groups = groups_of(batch, kind, symprec)
        members = torch.full((len(batch),), -1)
        if n_folds is None:
            members[used] = _divide(groups, fractions, rng)
        else:
            tested = _divide(groups, (1 / n_folds,) * n_folds, rng) == fold
            members[used] = _split_rest(groups, tested, fractions, rng)
    rows = [torch.nonzero(members == part).flatten() for part in range(3)]
    return Split(
        kind=kind,
        train=rows[0],
        val=rows[1],
        test=rows[2],
        settings=settings,
        data_hash=table.structure_hash,
    )


def matbench_folds(
    n_rows: int, classes: Tensor | None = None, n_folds: int = 5, seed: int = MATBENCH_SEED
) -> list[Rows]:
    """Return the test rows of each fold of a matbench v0.1 task.

    Args:
        n_rows: Rows of the task, in the published order.
        classes: Class of each row for classification tasks; the folds are then stratified.
        n_folds: matbench has 5.
        seed: matbench's.

    Source:
        Dunn et al., Benchmarking materials property prediction methods, 2020; equal row by row
        to scikit-learn's shuffled KFold and StratifiedKFold.
    """
    rng = np.random.RandomState(seed)
    if classes is None:
        order = np.arange(n_rows)
        rng.shuffle(order)
        return [torch.from_numpy(np.sort(rows)) for rows in np.array_split(order, n_folds)]
    _, first, inverse = np.unique(classes.cpu().numpy(), return_index=True, return_inverse=True)
    # Classes are numbered in order of appearance.
    codes = np.argsort(np.argsort(first))[inverse]
    n_classes = len(first)
    ordered = np.sort(codes)
    counts = [np.bincount(ordered[i::n_folds], minlength=n_classes) for i in range(n_folds)]
    fold_of = np.empty(n_rows, dtype=np.int64)
    for code in range(n_classes):
        folds = np.arange(n_folds).repeat([count[code] for count in counts])
        rng.shuffle(folds)
        fold_of[codes == code] = folds
    return [torch.from_numpy(np.flatnonzero(fold_of == fold)) for fold in range(n_folds)]


def shared_groups(groups: Sequence[object], split: Split) -> int:
    """Return how many groups (formulas, say) occur both in training and in test rows."""
    trained = {groups[row] for row in split.train.tolist()}
    return len(trained & {groups[row] for row in split.test.tolist()})


def _check(fractions: tuple[float, float, float], n_folds: int | None, fold: int) -> None:
    if min(fractions) < 0 or abs(sum(fractions) - 1) > 1e-6 or fractions[0] <= 0:
        raise InputError(
            f"Fractions {fractions} do not work: train must be positive, none negative, and all "
            "three must add up to 1, e.g. 0.8 0.1 0.1."
        )
    if n_folds is not None and not (n_folds >= 2 and 0 <= fold < n_folds):
        raise InputError(f"Fold {fold} of {n_folds} does not exist: give 0 <= fold < n_folds.")


def _is_binary(labels: Tensor) -> bool:
    return bool(((labels == 0) | (labels == 1)).all())


def _table(data: Table | CrystalBatch | CompositionBatch) -> Table:
    if isinstance(data, CrystalBatch):
        return LabelledCrystals(crystals=data)
    return LabelledCompositions(compositions=data) if isinstance(data, CompositionBatch) else data


def _divide(groups: Tensor, shares: Sequence[float], rng: torch.Generator) -> Tensor:
    """Return the part of each row; whole groups go where most room is left.

    Groups come in random order, so a part's makeup does not depend on their size; single rows
    are simply cut from a shuffled order.
    """
    n_groups = int(groups.max()) + 1
    sizes = torch.bincount(groups, minlength=n_groups)
    order = torch.randperm(n_groups, generator=rng)
    wanted = [share * len(groups) for share in shares]
    used = [part for part, share in enumerate(shares) if share > 0]
    if n_groups < len(used):
        raise InputError(
            f"{n_groups} group(s) cannot fill {len(used)} parts. Use another kind of split, "
            "fewer folds, or set the fraction of val or test to 0."
        )
    part_of = torch.empty(n_groups, dtype=torch.int64)
    if n_groups == len(groups):
        edges = np.round(np.cumsum([0.0, *wanted])).astype(int)
        for part in used:
            part_of[order[edges[part] : edges[part + 1]]] = part
    else:
        room = list(wanted)
        for group, size in zip(order.tolist(), sizes[order].tolist(), strict=True):
            part = max(used, key=room.__getitem__)
            part_of[group] = part
            room[part] -= size
    _fill_empty(part_of, sizes, used)
    return part_of[groups]


def _fill_empty(part_of: Tensor, sizes: Tensor, used: Sequence[int]) -> None:
    """Give every wanted part at least one group: the smallest of the part with most groups."""
    for part in used:
        if (part_of == part).any():
            continue
        richest = int(torch.bincount(part_of).argmax())
        owned = torch.nonzero(part_of == richest).flatten()
        part_of[owned[sizes[owned].argmin()]] = part


def _split_rest(
    groups: Tensor, tested: Tensor, fractions: tuple[float, float, float], rng: torch.Generator
) -> Tensor:
    """Return the part of each row when the test rows are known."""
    members = torch.full((len(groups),), 2)
    rest = torch.nonzero(~tested).flatten()
    if len(rest) == 0 or not bool(tested.any()):
        raise InputError("Nothing is left to train or to test on with these settings.")
    share = fractions[1] / (fractions[0] + fractions[1])
    if share == 0:
        members[rest] = 0
        return members
    renumbered = torch.unique(groups[rest], return_inverse=True)[1]
    members[rest] = _divide(renumbered, (1 - share, share), rng)
    return members


def _hold_out(
    batch: CrystalBatch | CompositionBatch,
    elements: Sequence[str],
    share: float,
    rng: torch.Generator,
) -> tuple[tuple[str, ...], Tensor]:
    """Return the held-out elements and which rows have one of them."""
    from matmill.crystals.composition import element_counts
    from matmill.crystals.elements import SYMBOLS, number

    has = (element_counts(batch) if isinstance(batch, CrystalBatch) else batch.amounts) > 0
    if elements:
        numbers = [number(symbol) for symbol in elements]
        absent = [
            symbol for symbol, z in zip(elements, numbers, strict=True) if not has[:, z].any()
        ]
        if absent:
            raise InputError(f"No crystal has {', '.join(absent)}: it cannot be held out.")
        return tuple(SYMBOLS[z] for z in numbers), has[:, numbers].any(dim=1)
    present = torch.nonzero(has.any(dim=0)).flatten()
    present = present[torch.randperm(len(present), generator=rng)].tolist()
    chosen: list[int] = []
    for z in present:
        n_tested = int(has[:, [*chosen, z]].any(dim=1).sum())
        if n_tested <= share * len(batch):
            chosen.append(z)
    if not chosen:
        # Every element alone is in more crystals than asked for: take the rarest.
        chosen = [min(present, key=lambda z: int(has[:, z].sum()))]
    return tuple(SYMBOLS[z] for z in chosen), has[:, chosen].any(dim=1)
