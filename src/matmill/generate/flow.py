"""`FlowGenerator`: the shipped generator, one network for every mode."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from matmill.crystals.batch import CrystalBatch, concatenate
from matmill.errors import DataError
from matmill.generate.adapters import AdapterStack
from matmill.generate.conditions import (
    RANGE_WEIGHTS,
    ConditionEncoder,
    Conditions,
    ScalarSchema,
)
from matmill.generate.given import start_of, with_given
from matmill.generate.guidance import guided
from matmill.generate.hard import (
    TemplateSource,
    draft_of,
    draw_templates,
    hard_start,
    lost_group,
    needs_draft,
    other_templates,
    with_templates,
)
from matmill.generate.network import SIZES, Denoiser
from matmill.generate.orbits import Orbits
from matmill.generate.plan import Plan, Trained, check_request, make_plan, with_values
from matmill.generate.process import Velocity
from matmill.generate.protocol import ASSETS, GenerationRequest, check_values
from matmill.generate.sample import sample
from matmill.generate.screen import MAX_REDRAWS, overlapping
from matmill.generate.state import LatticeScale, NoisyState, from_dense
from matmill.generate.steering import Guide, steered
from matmill.generate.streams import Streams
from matmill.generate.wyckoff.templates import Template
from matmill.quantities import BY_COLUMN
from matmill.training import checkpoint
from matmill.training.precision import Precision, choose

# Small batches stay in the processor's caches; the number is tokens (atoms + 1) with guidance off.
TOKENS_PER_BATCH = 1500

_SAME_SITES = 2  # draws, after which a crystal that lost its group gets another template


class FlowGenerator:
    """A trained flow.

    Args:
        denoiser: The network.
        card: The checkpoint's card.
        weights_hash: SHA-256 of the weights.
        device: Where to run.
        precision: ``auto``, ``bf16`` or ``fp32``.
        adapters: Properties learnt beside the network, see `generate.adapters`.
        guide: Draws crystals towards values of a differentiable predictor.
        tokens_per_batch: Atoms plus lattice tokens that are sampled at the same time. Crystals do
            not depend on it, up to the rounding of products of another shape.
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
        adapters: AdapterStack | None = None,
        guide: Guide | None = None,
        tokens_per_batch: int = TOKENS_PER_BATCH,
    ) -> None:
        self.denoiser = denoiser.to(device).eval()
        self.adapters = adapters.to(device).eval() if adapters is not None else None
        self.guide = guide
        self.tokens_per_batch = tokens_per_batch
        self.card = card
        self.device = device
        self._hash = weights_hash
        self._templates: TemplateSource | None = None
        self._is_bf16 = choose(precision, torch.device(device).type) == "bf16"
        properties = self.adapters.properties.values() if self.adapters is not None else ()
        added = {p.quantity.column: p for p in properties}
        learnt = {
            name: (values["low"], values["high"], values["count"])
            for name, values in card["conditions"].items()
            if values["low"] is not None
        }
        self.trained = Trained(
            shapes=torch.tensor(card["shapes"]),
            elements=tuple(card["elements"]),
            ranges=learnt | {name: (p.low, p.high, p.count) for name, p in added.items()},
            max_atoms=card["max_atoms"],
            added=tuple(added),
            reads_ranges=denoiser.encoder.scalar_range is not None,
            units={name: BY_COLUMN[name].unit for name in learnt if name in BY_COLUMN}
            | {name: p.unit for name, p in added.items()},
        )

    @classmethod
    def load(
        cls,
        path: Path | None = None,
        *,
        device: str = "cpu",
        precision: Precision = "auto",
        adapters: Sequence[Path] = (),
    ) -> "FlowGenerator":
        """Load a checkpoint; the shipped one when ``path`` is None.

        Args:
            path: File of weights.
            device: Where to run.
            precision: ``auto``, ``bf16`` or ``fp32``.
            adapters: Files of adapters that were made for these weights.

        Raises:
            DataError: If a file is missing, damaged or of another kind.
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
        encoder = ConditionEncoder(size.width, schema, reads_ranges=RANGE_WEIGHTS in tensors)
        denoiser = Denoiser(size, scale, encoder)
        # Weights may be stored in bfloat16 to save space; the buffers are exact.
        own = denoiser.state_dict()
        tensors = {k: t.to(own[k].dtype) if k in own else t for k, t in tensors.items()}
        checkpoint.load_into(denoiser, tensors, source=str(path))
        weights_hash = checkpoint.hash_of(path)
        return cls(
            denoiser,
            card,
            weights_hash=weights_hash,
            device=device,
            precision=precision,
            adapters=AdapterStack.load(adapters, size, base_hash=weights_hash)
            if adapters
            else None,
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
        warnings = check_request(request, self.trained)
        if request.symmetry == "hard" and not self.card.get("symmetric"):
            warnings.append(
                "This generator was not trained in the symmetric mode: expect poor crystals with "
                "symmetry='hard'."
            )
        return warnings

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
        return self._run(request, {}, rng, on_batch)

    def sample_conditions(
        self,
        values: dict[str, Float[Tensor, " n"]],
        rng: torch.Generator,
        request: GenerationRequest | None = None,
        on_batch: Callable[[CrystalBatch], None] | None = None,
    ) -> CrystalBatch:
        """Return one crystal for each row of ``values``; see `ConditionalGenerator`."""
        return self._run(check_values(values, request, self.trained.ranges), values, rng, on_batch)

    def _run(
        self,
        request: GenerationRequest,
        values: dict[str, Float[Tensor, " n"]],
        rng: torch.Generator,
        on_batch: Callable[[CrystalBatch], None] | None,
    ) -> CrystalBatch:
        check_request(request, self.trained)
        streams = Streams.of(rng, request.n)
        is_hard = request.symmetry == "hard" and request.n > 0
        is_draft = is_hard and needs_draft(request)
        if is_draft:
            draft = self._run(draft_of(request), values, streams.of_run().generator(0), None)
            request = replace(request, seeds=draft, strength=1.0)
        plan = make_plan(request, self.trained, streams, cell_weights=self._cell_weights(request))
        plan = with_values(plan, values, self.trained)
        templates: Sequence[Template] = ()
        if is_hard:
            templates = draw_templates(
                self.template_source(), request, plan, streams, is_draft=is_draft
            )
            plan = with_templates(plan, templates)
        parts, positions = [], []
        for index in self._batches(plan, request):
            mine = [templates[i] for i in index.tolist()] if templates else []
            batch = self._screened(request, plan, index, streams, mine)
            batch = batch.with_ids([f"{self.name}-{i:05d}" for i in index.tolist()])
            if on_batch is not None:
                on_batch(batch)
            parts.append(batch)
            positions.append(index)
        if not parts:
            return CrystalBatch.empty()
        return concatenate(parts).select(torch.cat(positions).argsort())

    def _batches(self, plan: Plan, request: GenerationRequest) -> list[Tensor]:
        """Return positions in runs of one size, small cells first."""
        rows = 1
        if plan.is_guided:
            rows += len(plan.parts) if request.scales else int(request.guidance != 1.0)
        batches = []
        for n in sorted(set(plan.n_atoms.tolist())):
            index = torch.nonzero(plan.n_atoms == n).flatten()
            batches += list(index.split(max(1, self.tokens_per_batch // ((n + 1) * rows))))
        return batches

    def _screened(
        self,
        request: GenerationRequest,
        plan: Plan,
        index: Tensor,
        streams: Streams,
        templates: Sequence[Template],
    ) -> CrystalBatch:
        """Sample, and draw again what has overlapping atoms or has lost the group asked for.

        ``attempts`` counts the draws. A crystal that loses its group twice gets another template
        of the same number of atoms.
        """
        batch = self._sample_one_size(request, plan, index, streams, templates)
        attempts = torch.ones(len(index), dtype=torch.float64)
        mine = list(templates)
        for attempt in range(1, 1 + MAX_REDRAWS if request.screen else 1):
            bad = overlapping(batch)
            if mine:
                lost = lost_group(request, batch)
                bad |= lost
                if attempt >= _SAME_SITES and bool(lost.any()):
                    plan = self._retold(request, plan, index, lost, mine, streams, attempt)
            if not bool(bad.any()):
                break
            theirs = [t for t, again in zip(mine, bad.tolist(), strict=False) if again]
            again = self._sample_one_size(
                request, plan, index[bad], streams.at_attempt(attempt), theirs
            )
            where = torch.arange(len(index))
            where[bad] = len(index) + torch.arange(len(again))
            batch = concatenate([batch, again]).select(where)
            attempts += bad
        batch = batch.with_properties(attempts=attempts)
        if not mine:
            return batch
        groups = torch.tensor([float(t.space_group) for t in mine], dtype=torch.float64)
        return batch.with_properties(space_group_requested=groups)

    def _retold(
        self,
        request: GenerationRequest,
        plan: Plan,
        index: Tensor,
        lost: Tensor,
        templates: list[Template],
        streams: Streams,
        attempt: int,
    ) -> Plan:
        """Exchange, in the list, the templates of crystals that lost their group; tell the plan."""
        rows = torch.nonzero(lost).flatten().tolist()
        own = streams.select(index[lost]).at_attempt(attempt)
        others = other_templates(
            self.template_source(), request, plan, [templates[row] for row in rows], own
        )
        for row, template in zip(rows, others, strict=True):
            templates[row] = template
        return with_templates(plan, others, index[lost])

    def _sample_one_size(
        self,
        request: GenerationRequest,
        plan: Plan,
        index: Tensor,
        streams: Streams,
        templates: Sequence[Template],
    ) -> CrystalBatch:
        own = streams.select(index)
        orbits: Orbits | None = None
        if templates:
            start, orbits = hard_start(templates, own)
            start, orbits = start.to(self.device), orbits.to(self.device)
        else:
            n = int(plan.n_atoms[own.crystal[0]])
            start = start_of(request, n, own, self.denoiser.scale).to(self.device)
        field = guided(
            self._evaluate,
            plan.base.select(index).to(self.device),
            plan.asked.select(index).to(self.device),
            weight=request.guidance if plan.is_guided else 1.0,
            parts={name: p.select(index).to(self.device) for name, p in plan.parts.items()},
            scales=request.scales,
            schedule=request.schedule,
        )
        if self.guide is not None:
            field = steered(field, self.guide, start, self.denoiser.scale)
        crystals = sample(
            field,
            start,
            n_steps=request.n_steps,
            allowed=plan.allowed,
            required=plan.required if request.system else None,
            rng=own,
            orbits=orbits,
            scale=self.denoiser.scale,
        )
        batch = from_dense(crystals, self.denoiser.scale)
        if request.seeds is None or templates:
            return batch
        return with_given(batch, request.seeds, start, own)

    def _evaluate(self, state: NoisyState, conditions: Conditions) -> Velocity:
        with torch.autocast(
            torch.device(self.device).type, dtype=torch.bfloat16, enabled=self._is_bf16
        ):
            return self.denoiser(state, conditions, self.adapters)

    def _cell_weights(
        self, request: GenerationRequest
    ) -> Callable[[Sequence[int]], Sequence[float]] | None:
        """Return what knows how likely cells hold given numbers of formula units."""
        if request.formula is None:
            return None
        asked = {"space_group": request.space_group, "crystal_system": request.crystal_system}
        return partial(self.template_source().cell_weights, request.formula, **asked)

    def template_source(self) -> TemplateSource:
        """Return what draws templates for hard symmetry: the shipped model, loaded once.

        Raises:
            DataError: If its weights are missing or damaged.
        """
        if self._templates is None:
            from matmill.generate.wyckoff.sampler import WyckoffModel

            self._templates = WyckoffModel.load()
        return self._templates
