"""Fingerprints of known crystals: which are nearest to a new one, and how far that is.

Two fingerprints are kept of each: average minimum distances, and the place of its formula on the
modified Pettifor line, once for all crystals of one formula. No structure is kept, so an index may
be passed on where the structures may not.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from matmill.crystals.batch import CrystalBatch
from matmill.errors import DataError, InputError, UnknownNameError
from matmill.progress import Event, OnEvent, ignore
from matmill.verify.distances import BLEND, embed, normalised
from matmill.verify.nearest import ChebyshevIndex

KINDS = ("amd", "elmd", "elmd+amd")
"""Distances that an index can be asked for."""

_AT_ONCE = 5_000  # crystals fingerprinted between two progress events
_PAIRS_AT_ONCE = 20_000_000  # distances between formulas held at once, 80 MB
_FIRST_FORMULAS = 16


@dataclass(frozen=True, kw_only=True, eq=False)
class KnownPrints:
    """Fingerprints of known crystals.

    Attributes:
        name: What is in it.
        ids: Id of each crystal in its database.
        amd: Average minimum distances in Å, ``(n_known, k)`` float32.
        formula: Row of ``formulas`` of each crystal, ``(n_known,)``.
        formulas: Each composition once, as `element_mover.composition_vectors` gives it,
            ``(n_formulas, 102)`` float32.
    """

    name: str
    ids: tuple[str, ...]
    amd: Float[Tensor, "n_known k"]
    formula: Int[Tensor, " n_known"]
    formulas: Float[Tensor, "n_formulas 102"]

    def __len__(self) -> int:
        return len(self.amd)

    @classmethod
    def build(
        cls, batch: CrystalBatch, *, name: str, k: int = 100, on_event: OnEvent = ignore
    ) -> "KnownPrints":
        """Return the index of these crystals; those without a fingerprint are left out.

        Args:
            batch: Known crystals, with or without ids.
            name: What they are.
            k: Neighbours of each atom.
            on_event: Told about progress.
        """
        ids, prints, lines = [], [], []
        for start in range(0, len(batch), _AT_ONCE):
            part = batch.select(torch.arange(start, min(start + _AT_ONCE, len(batch))))
            found = embed(part.to(dtype=torch.float64), "elmd+amd", k=k)
            line, print_ = (values for values in found.parts if isinstance(values, Tensor))
            lines.append(line.float())
            prints.append(print_.float())
            ids += [part.ids[i] if part.ids else str(start + i) for i in found.rows.tolist()]
            on_event(Event(stage="fingerprints", done=start + len(part), total=len(batch)))
        every = torch.cat(lines) if lines else torch.zeros(0, 102)
        formulas, formula = torch.unique(every, dim=0, return_inverse=True)
        return cls(
            name=name,
            ids=tuple(ids),
            amd=torch.cat(prints) if prints else torch.zeros(0, k),
            formula=formula,
            formulas=formulas,
        )

    def extended(self, batch: CrystalBatch, *, on_event: OnEvent = ignore) -> "KnownPrints":
        """Return an index that holds these crystals as well."""
        other = KnownPrints.build(batch, name=self.name, k=self.amd.shape[1], on_event=on_event)
        every = torch.cat([self.formulas, other.formulas])
        formulas, place = torch.unique(every, dim=0, return_inverse=True)
        n = len(self.formulas)
        return KnownPrints(
            name=self.name,
            ids=self.ids + other.ids,
            amd=torch.cat([self.amd, other.amd]),
            formula=torch.cat([place[:n][self.formula], place[n:][other.formula]]),
            formulas=formulas,
        )

    def save(self, path: str | Path) -> None:
        """Write the index as one safetensors file."""
        from safetensors.torch import save_file

        if any("\n" in known for known in self.ids):
            raise InputError("An id has a line break, which the file of an index cannot hold.")
        text = np.frombuffer("\n".join(self.ids).encode(), dtype=np.uint8).copy()
        tensors = {
            "amd": self.amd.contiguous(),
            "formula": self.formula.to(torch.int32).contiguous(),
            "formulas": self.formulas.contiguous(),
            "ids": torch.from_numpy(text),
        }
        about = {"name": self.name, "kind": "known prints", "version": 1}
        save_file(tensors, str(path), metadata={"matmill": json.dumps(about)})

    @classmethod
    def load(cls, path: str | Path) -> "KnownPrints":
        """Read an index.

        Raises:
            DataError: If the file is missing or is no index.
        """
        from safetensors import SafetensorError, safe_open

        try:
            with safe_open(str(path), framework="pt") as file:
                about = json.loads((file.metadata() or {})["matmill"])
                names = ("amd", "formula", "formulas", "ids")
                amd, formula, formulas, text = (file.get_tensor(name) for name in names)
        except (OSError, SafetensorError, KeyError, ValueError) as error:
            raise DataError(f"{path} is no index of fingerprints: {error}.") from error
        ids = bytes(text.numpy()).decode()
        return cls(
            name=str(about["name"]),
            ids=tuple(ids.split("\n")) if len(amd) else (),
            amd=amd,
            formula=formula.long(),
            formulas=formulas,
        )

    def query(self, batch: CrystalBatch, n: int = 1) -> tuple[Tensor, Tensor]:
        """Return the known crystals that are nearest in geometry, whatever the elements.

        Args:
            batch: Any crystals.
            n: How many for each.

        Returns:
            Distances in Å, ascending, float64 ``(n_crystals, n)``, NaN for a crystal without a
            fingerprint and infinite where there are fewer known ones; and rows of the index, −1
            there.
        """
        found = embed(batch.to(dtype=torch.float64), "amd", k=self.amd.shape[1])
        distance = torch.full((len(batch), n), torch.nan, dtype=torch.float64)
        rows = torch.full((len(batch), n), -1, dtype=torch.int64)
        wanted = next(part for part in found.parts if isinstance(part, Tensor))
        near, at = self._index.query(wanted.numpy(), n)
        distance[found.ok], rows[found.ok] = torch.from_numpy(near), torch.from_numpy(at)
        return distance, rows

    def novelty(self, batch: CrystalBatch, kind: str = "elmd+amd") -> Float[Tensor, " n_crystals"]:
        """Return how far the nearest known crystal is, scaled to [0, 1]: continuous novelty.

        ``N_i = min over known crystals of d'``, exact over the whole index.

        Args:
            batch: Any crystals.
            kind: ``"amd"``, ``"elmd"`` or ``"elmd+amd"``; see `distances.KINDS`.

        Returns:
            float64; 0 for a known crystal, 1 when nothing is known, NaN without a fingerprint.

        Raises:
            UnknownNameError: If the index has no such distance.

        Source:
            Negishi et al., Continuous Uniqueness and Novelty Metrics (2025).
        """
        if kind not in KINDS:
            raise UnknownNameError("distance of an index", kind, list(KINDS))
        found = embed(batch.to(dtype=torch.float64), kind, k=self.amd.shape[1])
        parts = [part for part in found.parts if isinstance(part, Tensor)]
        result = torch.full((len(batch),), torch.nan, dtype=torch.float64)
        if not len(self):
            result[found.ok] = 1.0
        elif kind == "amd":
            near, _ = self._index.query(parts[0].numpy())
            result[found.ok] = normalised(torch.from_numpy(near[:, 0]))
        else:
            result[found.ok] = self._by_formula(parts[0], *parts[1:])
        return result

    def _by_formula(self, lines: Tensor, prints: Tensor | None = None) -> Tensor:
        """Return the smallest scaled elmd, or blend where average distances are given."""
        result = torch.zeros(len(lines), dtype=torch.float64)
        step = max(1, _PAIRS_AT_ONCE // max(1, len(self.formulas)))
        for start in range(0, len(lines), step):
            # Rounded as the index is, so that a known formula is at distance 0 of itself.
            apart = torch.cdist(lines[start : start + step].float(), self.formulas, p=1.0)
            for i, row in enumerate(normalised(apart.double()), start):
                result[i] = row.min() if prints is None else self._blend(row, prints[i])
        return result

    def _blend(self, by_formula: Tensor, print_: Tensor) -> float:
        """Return the smallest blend; formulas come in the order of what they add at least."""
        best, seen, count = 1.0, 0, _FIRST_FORMULAS
        while seen < len(by_formula):
            count = min(count, len(by_formula))
            near = torch.topk(by_formula, count, largest=False)
            values, order = near.values[seen:], near.indices[seen:]
            if BLEND[0] * float(values[0]) >= best:
                break
            members = [self._members[self._starts[f] : self._starts[f + 1]] for f in order.tolist()]
            rows = torch.cat(members)
            lengths = torch.tensor([len(member) for member in members])
            gap = (self.amd[rows] - print_.float()).abs().amax(1).double()
            found = BLEND[0] * torch.repeat_interleave(values, lengths)
            best = min(best, float((found + BLEND[1] * normalised(gap)).min()))
            seen, count = count, 4 * count
        return best

    @cached_property
    def _index(self) -> ChebyshevIndex:
        return ChebyshevIndex(self.amd.numpy())

    @cached_property
    def _members(self) -> Tensor:
        """Crystals by formula."""
        return torch.argsort(self.formula, stable=True)

    @cached_property
    def _starts(self) -> list[int]:
        counts = torch.bincount(self.formula, minlength=len(self.formulas))
        return [0, *counts.cumsum(0).tolist()]


def names_of(known: KnownPrints, rows: Sequence[int]) -> list[str | None]:
    """Return the ids of these rows of an index, None for −1."""
    return [known.ids[row] if row >= 0 else None for row in rows]
