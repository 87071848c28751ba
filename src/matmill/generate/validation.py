"""A score of generated samples, cheap enough to choose checkpoints by while training goes on.

Losses say little about samples: they fall by percents while the samples get visibly better. So
the averaged weights are judged by what they make: the share of samples that are possible, unique
and new, divided by one plus the distance of the densities.
"""

from typing import Annotated, Any, cast

import numpy as np
import torch
from jaxtyping import Int
from pydantic import Field
from torch import Tensor, nn

from matmill.config import Settings
from matmill.crystals.batch import CrystalBatch, concatenate
from matmill.crystals.facts import density
from matmill.generate.dataset import SizedBatches
from matmill.generate.flow import FlowGenerator
from matmill.generate.protocol import GenerationRequest
from matmill.generate.state import N_ELEMENTS, from_dense
from matmill.randomness import child
from matmill.training.precision import Precision
from matmill.verify.metrics import wasserstein
from matmill.verify.novelty import fingerprint
from matmill.verify.validity import Limits, check, smallest_distance

# Closer than any bond but those of hydrogen is no crystal yet; the looser rule of 0.5 Å is met by
# nearly everything after minutes of training.
POSSIBLE = Limits(min_distance_ratio=0.7)
_ROOMY_A = 1.5
# Fingerprints this close were likely the same crystal (see the index of known crystals).
_N_NEIGHBORS = 8
_SAME = 0.073
_REFERENCE_ROWS = 20_000
_CHUNK = 50_000


class SampleSettings(Settings):
    """How many samples a validation makes.

    Attributes:
        n_samples: Crystals to generate.
        n_steps: Network steps for each.
    """

    n_samples: Annotated[int, Field(gt=0)] = 200
    n_steps: Annotated[int, Field(gt=0)] = 30


class SampleScore:
    """Scores a flow by its samples, against the crystals that it is trained on.

    Novelty is cheap, not strict: a sample is known when a training crystal of the same reduced
    formula has nearly the same average minimum distances (of all atoms, and of the least and the
    most electronegative element), which do not depend on the cell. The same rule finds duplicates.

    Args:
        data: Training crystals.
        card: Card that `FlowGenerator` needs: shapes, elements, conditions, largest cell.
        settings: How many samples.
        seed: The samples of every validation start from the same noise.
        precision: Of the sampling, as the training has it.
    """

    def __init__(
        self,
        data: SizedBatches,
        card: dict[str, Any],
        *,
        settings: SampleSettings,
        seed: int,
        precision: Precision = "auto",
    ) -> None:
        self.data, self.card, self.settings, self.seed = data, card, settings, seed
        self.precision: Precision = precision
        self._known = _KnownRows(data)
        self._density = density(
            _some(data, _REFERENCE_ROWS, child(seed, "validation", "reference"))
        )

    def __call__(self, task: nn.Module) -> dict[str, float]:
        """Return ``validation`` (the score, higher is better) and its parts."""
        return self.of(self.made_with(task))

    def made_with(self, task: nn.Module) -> CrystalBatch:
        """Return the samples of the task's denoiser, nothing drawn again."""
        denoiser = task.get_submodule("denoiser")
        device = next(denoiser.parameters()).device
        generator = FlowGenerator(
            cast(Any, denoiser), self.card, device=str(device), precision=self.precision
        )
        request = GenerationRequest(
            n=self.settings.n_samples, n_steps=self.settings.n_steps, screen=False
        )
        return generator.sample(request, child(self.seed, "validation", "samples"))

    def of(self, samples: CrystalBatch) -> dict[str, float]:
        """Return the score of crystals and its parts; shares are of all samples."""
        possible = torch.tensor([fate is None for fate in check(samples, POSSIBLE)])
        good = samples.select(possible)
        keys = composition_keys(good)
        prints = fingerprint(good, _N_NEIGHBORS)
        unique, novel = _first_ones(keys, prints), ~self._known.holds(keys, prints)
        roomy = int((smallest_distance(good) > _ROOMY_A).sum())
        distance = wasserstein(density(good), self._density)
        n = max(len(samples), 1)
        share = float((unique & novel).sum()) / n
        return {
            "validation": share / (1.0 + distance) if len(good) else 0.0,
            "valid": len(good) / n,
            "roomy": roomy / n,
            "unique": float(unique.sum()) / n,
            "novel": float(novel.sum()) / n,
            "density_w1": distance,
        }


class _KnownRows:
    """The training crystals by composition."""

    def __init__(self, data: SizedBatches) -> None:
        self.data = data
        keys, sizes, places = [], [], []
        for n, count in data.counts.items():
            for part in torch.arange(count).split(_CHUNK):
                keys.append(_keys(data.rows(n, part).crystals.z))
                sizes.append(np.full(len(part), n, dtype=np.int16))
                places.append(part.numpy())
        order = np.argsort(np.concatenate(keys), kind="stable")
        self.keys = np.concatenate(keys)[order]
        self.sizes, self.places = np.concatenate(sizes)[order], np.concatenate(places)[order]

    def holds(self, keys: np.ndarray, prints: Tensor) -> Tensor:
        """Return which of these crystals are training crystals."""
        low = np.searchsorted(self.keys, keys, side="left")
        high = np.searchsorted(self.keys, keys, side="right")
        rows = np.concatenate([np.arange(a, b) for a, b in zip(low, high, strict=True)] or [low])
        if not len(rows):
            return torch.zeros(len(keys), dtype=torch.bool)
        theirs = fingerprint(self._read(rows.astype(np.int64)), _N_NEIGHBORS)
        owner = torch.from_numpy(np.repeat(np.arange(len(keys)), high - low))
        gap = (theirs - prints[owner]).abs().amax(1)
        found = torch.full((len(keys),), torch.inf).scatter_reduce(0, owner, gap, "amin")
        return found < _SAME

    def _read(self, rows: np.ndarray) -> CrystalBatch:
        parts, places = [], []
        for n in np.unique(self.sizes[rows]).tolist():
            mine = np.nonzero(self.sizes[rows] == n)[0]
            batch = self.data.rows(n, torch.from_numpy(self.places[rows[mine]]))
            parts.append(from_dense(batch.crystals, self.data.scale))
            places.append(mine)
        return concatenate(parts).select(torch.from_numpy(np.argsort(np.concatenate(places))))


def composition_keys(batch: CrystalBatch) -> np.ndarray:
    """Return a 64-bit key of the reduced formula of each crystal."""
    keys = np.zeros(len(batch), dtype=np.int64)
    for n in torch.unique(batch.n_atoms).tolist():
        index = torch.nonzero(batch.n_atoms == n).flatten()
        atoms = batch.offsets[index][:, None] + torch.arange(n)
        keys[index.numpy()] = _keys(batch.atomic_numbers[atoms])
    return keys


def _keys(z: Int[Tensor, "b n"]) -> np.ndarray:
    amounts = torch.zeros(len(z), N_ELEMENTS + 20, dtype=torch.int64)
    amounts.scatter_add_(1, z.long(), torch.ones_like(z, dtype=torch.int64))
    reduced = amounts.numpy() // np.gcd.reduce(amounts.numpy(), axis=1)[:, None]
    weights = np.random.default_rng(0).integers(-(2**63), 2**63 - 1, reduced.shape[1])
    return reduced @ weights  # int64 overflow wraps, as in any hash


def _first_ones(keys: np.ndarray, prints: Tensor) -> Tensor:
    """Return which crystals are the first of their kind."""
    same = torch.from_numpy(keys[:, None] == keys[None])
    same &= (prints[:, None] - prints[None]).abs().amax(-1) < _SAME
    return ~same.tril(-1).any(1)


def _some(data: SizedBatches, n: int, rng: torch.Generator) -> CrystalBatch:
    """Return at most ``n`` training crystals, sizes in their proportion."""
    share = min(1.0, n / max(len(data), 1))
    parts = []
    for size, count in data.counts.items():
        rows = torch.randperm(count, generator=rng)[: max(1, round(share * count))]
        parts.append(from_dense(data.rows(size, rows.sort().values).crystals, data.scale))
    return concatenate(parts)
