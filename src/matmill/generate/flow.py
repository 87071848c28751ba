"""`FlowGenerator`: the shipped generator, one network for every mode."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from matmill.crystals.batch import CrystalBatch, concatenate
from matmill.crystals.elements import number
from matmill.errors import DataError
from matmill.generate.conditions import ConditionEncoder, Conditions, ScalarSchema
from matmill.generate.guidance import guided
from matmill.generate.network import SIZES, Denoiser
from matmill.generate.plan import Plan, Trained, check_request, make_plan
from matmill.generate.process import Velocity
from matmill.generate.protocol import ASSETS, GenerationRequest
from matmill.generate.sample import Start, sample
from matmill.generate.state import DenseCrystals, LatticeScale, NoisyState, from_dense, to_dense
from matmill.training import checkpoint
from matmill.training.precision import Precision, choose
from matmill.verify.validity import Limits, check

# Small batches stay in the processor's caches; the number is tokens (atoms + 1) with guidance off.
_TOKENS_PER_BATCH = 1500

# A crystal that breaks these is drawn again: no relaxation could repair it.
SCREEN = Limits(min_distance_ratio=0.6)
MAX_REDRAWS = 4


class FlowGenerator:
    """A trained flow.

    Args:
        denoiser: The network.
        card: The checkpoint's card.
        weights_hash: SHA-256 of the weights.
        device: Where to run.
        precision: ``auto``, ``bf16`` or ``fp32``.
    """

    name = "flow"

    def __init__(
        self,
        denoiser: Denoiser,
        card: dict[str, Any],
        *,
        weights_hash: str = "",
        device: str = "cpu",
        precision: Precision = "auto",
    ) -> None:
        self.denoiser = denoiser.to(device).eval()
        self.card = card
        self.device = device
        self._hash = weights_hash
        self._is_bf16 = choose(precision, torch.device(device).type) == "bf16"
        self.trained = Trained(
            shapes=torch.tensor(card["shapes"]),
            elements=tuple(card["elements"]),
            ranges={
                name: (values["low"], values["high"], values["count"])
                for name, values in card["conditions"].items()
                if values["low"] is not None
            },
            max_atoms=card["max_atoms"],
        )

    @classmethod
    def load(
        cls, path: Path | None = None, *, device: str = "cpu", precision: Precision = "auto"
    ) -> "FlowGenerator":
        """Load a checkpoint; the shipped one when ``path`` is None.

        Raises:
            DataError: If the file is missing, damaged or of another kind.
        """
        path = path or ASSETS / "flow.safetensors"
        tensors, card = checkpoint.load(path)
        if card.get("kind") != "flow" or card.get("format") != 1:
            raise DataError(f"{path} is not a flow generator of format 1.")
        size = SIZES[card["size"]]
        nan = float("nan")
        schema = {
            name: ScalarSchema(
                mean=values["mean"],
                std=values["std"],
                low=nan if values["low"] is None else values["low"],
                high=nan if values["high"] is None else values["high"],
                count=values["count"],
            )
            for name, values in card["conditions"].items()
        }
        scale = LatticeScale(mean=tensors["scale_mean"].double(), std=tensors["scale_std"].double())
        denoiser = Denoiser(size, scale, ConditionEncoder(size.width, schema))
        # Weights may be stored in bfloat16 to save space; the buffers are exact.
        own = denoiser.state_dict()
        tensors = {k: t.to(own[k].dtype) if k in own else t for k, t in tensors.items()}
        checkpoint.load_into(denoiser, tensors, source=str(path))
        return cls(
            denoiser,
            card,
            weights_hash=checkpoint.hash_of(path),
            device=device,
            precision=precision,
        )

    @property
    def hash(self) -> str:
        """Content hash of the weights."""
        return self._hash

    def check(self, request: GenerationRequest) -> list[str]:
        """Return warnings about a request.

        Raises:
            InputError: If it cannot be met.
        """
        return check_request(request, self.trained)

    def sample(
        self,
        request: GenerationRequest,
        rng: torch.Generator,
        on_batch: Callable[[CrystalBatch], None] | None = None,
    ) -> CrystalBatch:
        """Return ``request.n`` crystals in the order of the plan.

        Args:
            request: What to make.
            rng: Source of randomness; the same state gives the same crystals.
            on_batch: Sees each finished batch, small cells first.

        Raises:
            InputError: If the request cannot be met.
        """
        check_request(request, self.trained)
        plan = make_plan(request, self.trained, rng)
        parts, positions = [], []
        for index in _batches(plan, doubled=plan.is_guided and request.guidance != 1.0):
            batch = self._screened(request, plan, index, rng)
            batch = batch.with_ids([f"{self.name}-{i:05d}" for i in index.tolist()])
            if on_batch is not None:
                on_batch(batch)
            parts.append(batch)
            positions.append(index)
        if not parts:
            return CrystalBatch.empty()
        return concatenate(parts).select(torch.cat(positions).argsort())

    def _screened(
        self, request: GenerationRequest, plan: Plan, index: Tensor, rng: torch.Generator
    ) -> CrystalBatch:
        """Sample, and draw again what has overlapping atoms; ``attempts`` counts the draws."""
        batch = self._sample_one_size(request, plan, index, rng)
        attempts = torch.ones(len(index), dtype=torch.float64)
        for _ in range(MAX_REDRAWS if request.screen else 0):
            bad = torch.tensor([fate is not None for fate in check(batch, SCREEN)])
            if not bool(bad.any()):
                break
            again = self._sample_one_size(request, plan, index[bad], rng)
            where = torch.arange(len(index))
            where[bad] = len(index) + torch.arange(len(again))
            batch = concatenate([batch, again]).select(where)
            attempts += bad
        return batch.with_properties(attempts=attempts)

    def _sample_one_size(
        self, request: GenerationRequest, plan: Plan, index: Tensor, rng: torch.Generator
    ) -> CrystalBatch:
        start = self._start(request, plan, index)
        field = guided(
            self._evaluate,
            plan.base.select(index).to(self.device),
            plan.asked.select(index).to(self.device),
            weight=request.guidance if plan.is_guided else 1.0,
        )
        crystals = sample(field, start, n_steps=request.n_steps, allowed=plan.allowed, rng=rng)
        return from_dense(crystals, self.denoiser.scale)

    def _evaluate(self, state: NoisyState, conditions: Conditions) -> Velocity:
        with torch.autocast(
            torch.device(self.device).type, dtype=torch.bfloat16, enabled=self._is_bf16
        ):
            return self.denoiser(state, conditions)

    def _start(self, request: GenerationRequest, plan: Plan, index: Tensor) -> Start:
        b, n = len(index), int(plan.n_atoms[index[0]])
        start = Start.nothing(b, n)
        if request.formula is not None:
            unit = [number(s) for s, count in request.formula.items() for _ in range(count)]
            z = torch.tensor(unit).repeat(n // len(unit))
            clean = DenseCrystals(z=z.repeat(b, 1), f=start.clean.f, y=start.clean.y)
            start = Start(
                clean=clean,
                free_types=torch.zeros(b, n, dtype=torch.bool),
                free_sites=start.free_sites,
                free_lattice=start.free_lattice,
            )
        elif request.seeds is not None:
            seeds = request.seeds.select(index % len(request.seeds))
            ((_, clean),) = to_dense(seeds, self.denoiser.scale).values()
            if request.free_atoms is not None:
                free = request.free_atoms.bool().repeat(b, 1)
                start = Start(
                    clean=clean,
                    free_types=free,
                    free_sites=free,
                    free_lattice=torch.full((b,), request.free_lattice),
                )
            else:
                start = Start(
                    clean=clean,
                    free_types=torch.full((b, n), not request.keep_elements),
                    free_sites=start.free_sites,
                    free_lattice=start.free_lattice,
                    time=1.0 - request.strength,
                )
        moved = {
            name: value.to(self.device) if hasattr(value, "to") else value
            for name, value in vars(start).items()
        }
        return Start(**moved)


def _batches(plan: Plan, *, doubled: bool) -> list[Tensor]:
    """Return positions in runs of one size, small cells first."""
    batches = []
    for n in sorted(set(plan.n_atoms.tolist())):
        index = torch.nonzero(plan.n_atoms == n).flatten()
        size = max(1, _TOKENS_PER_BATCH // ((n + 1) * (2 if doubled else 1)))
        batches += list(index.split(size))
    return batches
