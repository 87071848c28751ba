"""Training of the similarity by which the memory recalls: each entry from all others."""

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from matmill.generate.wyckoff.memory import Skeleton, TemplateMemory, exchanged, exchanges_of


class MemoryTask(nn.Module):
    """Leave-one-out likelihood of the templates that a memory holds.

    Args:
        memory: Its similarity is trained.
        n_shown: Entries that a batch is compared with, at most.
    """

    def __init__(self, memory: TemplateMemory, n_shown: int = 1024) -> None:
        super().__init__()
        self.memory, self.n_shown = memory, n_shown
        index = {found: i for i, found in enumerate(memory.skeletons)}
        self.targets = {
            counts: torch.tensor(
                [
                    [index.get(t, -1) for t in self._frames(int(i), counts)]
                    for i in shelf.skeletons.tolist()
                ]
            )
            for counts, shelf in memory.shelves.items()
        }

    def loss(
        self, batch: tuple[tuple[int, ...], Tensor], rng: torch.Generator
    ) -> dict[str, Tensor]:
        """Return minus the log share of the right template, from all entries but the own one."""
        counts, rows = batch
        shelf = self.memory.shelves[counts]
        shown = torch.randperm(len(shelf.hull), generator=rng)[: self.n_shown]
        exchanges = torch.tensor(exchanges_of(counts))
        asked = shelf.elements[rows][:, exchanges].flatten(0, 1)
        known = shelf.elements[shown]
        scores = self.memory.similarity(asked, known, shelf.hull[shown], torch.tensor(counts))
        scores = scores.view(len(rows), len(exchanges), len(shown))
        own = (rows[:, None] == shown)[:, None]
        scores = scores.masked_fill(own, -1e9)
        right = self.targets[counts][rows][..., None] == shelf.skeletons[shown]
        share = scores.flatten(1).softmax(1).view_as(scores).masked_fill(~right | own, 0.0)
        # A floor: no entry may be right, and that is no fault of the similarity.
        return {"loss": -(share.sum((1, 2)) * 0.97 + 1e-3).log().mean()}

    def _frames(self, number: int, counts: tuple[int, ...]) -> Iterator[Skeleton]:
        """Yield the skeleton of an entry as each exchange of the asked elements sees it."""
        for exchange in exchanges_of(counts):
            back = tuple(exchange.index(s) for s in range(len(exchange)))
            yield exchanged(self.memory.skeletons[number], back)


class MemoryBatches:
    """Entries to be recalled, those of one shelf together.

    Args:
        memory: The entries.
        size: Entries a batch.
    """

    def __init__(self, memory: TemplateMemory, size: int = 64) -> None:
        self.memory, self.size = memory, size

    def epoch(self, number: int, rng: torch.Generator) -> Iterator[tuple[tuple[int, ...], Tensor]]:  # noqa: ARG002
        """Yield the batches of one epoch: numbers of atoms, and rows of their shelf."""
        jobs = []
        for counts, shelf in self.memory.shelves.items():
            n = len(shelf.hull)
            if n > 1:
                parts = torch.randperm(n, generator=rng).split(self.size)
                jobs += [(counts, part) for part in parts]
        for at in torch.randperm(len(jobs), generator=rng).tolist():
            yield jobs[at]
