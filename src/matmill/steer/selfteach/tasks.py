"""Tasks of self-teaching: draw crystals from a generator, and fine-tune one."""

import shutil
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from matmill.crystals import symmetry
from matmill.crystals.batch import CrystalBatch
from matmill.crystals.facts import density
from matmill.generate.conditions import RANGE_WEIGHTS
from matmill.generate.flow import FlowGenerator
from matmill.generate.protocol import GenerationRequest
from matmill.generate.train import GeneratorSettings, train
from matmill.randomness import child
from matmill.steer.flywheel.making import to_plain, weights_file
from matmill.training import checkpoint
from matmill.training.fit import FitSettings


@dataclass(frozen=True, kw_only=True)
class DrawInput:
    """Some crystals of one generator.

    Attributes:
        weights: File or name of the generator.
        n: How many.
        part: Number of the task, which has randomness of its own.
        n_steps: Network steps.
        seed: Of the round.
    """

    weights: str
    n: int
    part: int
    n_steps: int
    seed: int


@dataclass
class Draw:
    """Draws crystals; the generator of the last task stays loaded.

    Attributes:
        folder: Where fine-tuned weights are.
    """

    folder: Path
    _loaded: dict[str, FlowGenerator] = field(default_factory=dict)

    def __call__(self, given: DrawInput) -> dict[str, Any]:
        """Return the crystals and what they cost."""
        torch.set_num_threads(1)
        started = time.process_time()
        if given.weights not in self._loaded:
            file = weights_of(given.weights, self.folder)
            self._loaded = {given.weights: FlowGenerator.load(file)}
        request = GenerationRequest(n=given.n, n_steps=given.n_steps)
        batch = self._loaded[given.weights].sample(request, child(given.seed, "draw", given.part))
        return {
            "crystals": to_plain(batch),
            "cpu_s": round(time.process_time() - started, 3),
        }


@dataclass(frozen=True, eq=False, kw_only=True)
class TeachInput:
    """One fine-tuning.

    Attributes:
        key: Content hash of everything that the weights depend on.
        start: File or name of the generator to start from.
        crystals: What it learns.
        steps: How many.
        learning_rate: Peak rate.
        seed: Of the training.
    """

    key: str
    start: str
    crystals: CrystalBatch
    steps: int
    learning_rate: float
    seed: int


@dataclass(frozen=True)
class Teach:
    """Fine-tunes a flow; finished weights are kept under their key.

    Attributes:
        folder: Where.
    """

    folder: Path

    def __call__(self, given: TeachInput) -> dict[str, Any]:
        """Return the file of the new weights, relative to the folder, and what they cost."""
        torch.set_num_threads(1)
        started = time.process_time()
        name = f"{given.key[:24]}.safetensors"
        if not (self.folder / name).exists():
            self._train(given, self.folder / name)
        return {"file": name, "cpu_s": round(time.process_time() - started, 3)}

    def _train(self, given: TeachInput, path: Path) -> None:
        start = weights_of(given.start, self.folder)
        tensors, card = checkpoint.load(start)
        symmetric = bool(card.get("symmetric"))
        work = path.with_suffix(".work")
        batch = given.crystals
        train(
            batch.with_properties(density_g_cm3=density(batch)),
            symmetry.find(batch, symprec=0.1).number,
            settings=GeneratorSettings(
                size=card["size"],
                max_atoms=card["max_atoms"],
                ranges=RANGE_WEIGHTS in tensors,
                symmetric_passes=1 if symmetric else 0,
                fit=FitSettings(
                    max_steps=given.steps,
                    learning_rate=given.learning_rate,
                    warmup_steps=max(1, given.steps // 10),
                    decay="cosine",
                    ema_decay=0.99,
                ),
            ),
            folder=work,
            seed=given.seed,
            start_from=start,
        )
        weights, learnt = checkpoint.load(work / "generator.safetensors")
        # A few thousand crystals hold fewer elements and cells than the start has learnt.
        elements = sorted({*card["elements"], *learnt["elements"]})
        kept = {"elements": elements, "shapes": card["shapes"]}
        checkpoint.save(path, weights, {**learnt, **kept, "started_from": given.start})
        shutil.rmtree(work, ignore_errors=True)


def weights_of(name: str, folder: Path) -> Path:
    """Return the file of a flow's weights: one in the folder, one of the user's, or the shipped.

    Raises:
        InputError: If there is none of that name.
    """
    path = folder / name
    return path if path.is_file() else weights_file(name)
