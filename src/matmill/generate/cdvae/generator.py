"""`CdvaeGenerator`: Con-CDVAE with its prior, and plain CDVAE without."""

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any, Self

import torch
from jaxtyping import Float
from torch import Tensor

from matmill.crystals.batch import CrystalBatch, concatenate
from matmill.errors import DataError, InputError
from matmill.generate.adapters import AddedProperty
from matmill.generate.cdvae.conditions import Wishes
from matmill.generate.cdvae.decoding import decode
from matmill.generate.cdvae.model import Autoencoder
from matmill.generate.cdvae.padded import pad
from matmill.generate.cdvae.prior import LatentPrior, gaussian, sample_latents
from matmill.generate.cdvae.settings import CdvaeSize, NoiseSettings
from matmill.generate.cdvae.wishes import (
    Mode,
    allowed_sizes,
    check_mode,
    refuse_impossible,
    wishes_for,
)
from matmill.generate.plan import Trained, allowed_elements, check_request
from matmill.generate.protocol import ASSETS, GenerationRequest, check_values
from matmill.generate.screen import MAX_REDRAWS, overlapping
from matmill.generate.state import LatticeScale
from matmill.generate.streams import Streams
from matmill.training import checkpoint

KIND, FORMAT = "concdvae", 1
_CHUNK = 512  # crystals planned at a time, 160 MB of noise; drawing again costs little beside many
_ROWS = "rows."  # of the training rows among the tensors of a checkpoint


class CdvaeGenerator:
    """A trained CDVAE.

    Args:
        model: The autoencoder.
        prior: The conditional prior; None draws latents from a Gaussian, as plain CDVAE does.
        rows: What is known of some training crystals, for the prior's mode *less*.
        card: The checkpoint's card.
        weights_hash: SHA-256 of the weights.
        device: Where to run.
        mode: Of the prior: ``default``, ``full`` or ``less``.
        best_of: Latents drawn for each crystal, of which the one is kept whose auxiliary heads
            come closest to what was asked for.
    """

    def __init__(
        self,
        model: Autoencoder,
        prior: LatentPrior | None,
        rows: Wishes,
        card: dict[str, Any],
        *,
        weights_hash: str = "",
        device: str = "cpu",
        mode: Mode = "default",
        best_of: int = 1,
    ) -> None:
        check_mode(mode)
        if best_of < 1:
            raise InputError(f"best_of is {best_of}; give 1 or more latents a crystal.")
        self.name = "concdvae" if prior is not None else "cdvae"
        self.model = model.to(device).eval()
        self.prior = prior.to(device).eval() if prior is not None else None
        self.rows, self.card, self.device = rows, card, device
        self.mode: Mode = mode
        self.best_of = best_of
        self._hash = weights_hash
        learnt = model.learnt if prior is not None else ()
        self.trained = Trained(
            shapes=torch.tensor(card["shapes"]),
            elements=tuple(card["elements"]),
            ranges={p.name: (p.low, p.high, p.count) for p in learnt},
            max_atoms=card["max_atoms"],
            units={p.name: p.unit for p in learnt},
        )

    @classmethod
    def load(
        cls,
        path: Path | None = None,
        *,
        device: str = "cpu",
        mode: Mode = "default",
        best_of: int = 1,
    ) -> Self:
        """Load a checkpoint; the shipped one when ``path`` is None.

        Raises:
            DataError: If a file is missing, damaged or of another kind.
        """
        path = path or ASSETS / "concdvae.safetensors"
        tensors, card = checkpoint.load(path)
        if card.get("kind") != KIND or card.get("format") != FORMAT:
            raise DataError(f"{path} is not a CDVAE of format {FORMAT}.")
        rows = {k.removeprefix(_ROWS): t for k, t in tensors.items() if k.startswith(_ROWS)}
        learnt = [AddedProperty(**entry) for entry in card["learnt"]]
        size = CdvaeSize(**card["size"])
        scale = LatticeScale(
            mean=tensors["model.scale_mean"].double(), std=tensors["model.scale_std"].double()
        )
        model = Autoencoder(
            learnt,
            size=size,
            noise=NoiseSettings(**card["noise"]),
            max_atoms=card["max_atoms"],
            scale=scale,
        )
        checkpoint.load_into(model, _of(tensors, "model.", model), source=str(path))
        prior = None
        if card["has_prior"]:
            prior = LatentPrior(learnt, size, max_atoms=card["max_atoms"])
            checkpoint.load_into(prior, _of(tensors, "prior.", prior), source=str(path))
        return cls(
            model,
            prior,
            Wishes(**rows),
            card,
            weights_hash=checkpoint.hash_of(path),
            device=device,
            mode=mode,
            best_of=best_of,
        )

    def save(self, path: Path, *, dtype: torch.dtype = torch.float32) -> Path:
        """Write weights and card; smaller in bfloat16, the lattice scale and the rows exact."""
        exact = ("scale_mean", "scale_std", "latent_mean", "latent_std")
        tensors = {f"{_ROWS}{name}": t for name, t in vars(self.rows).items()}
        for part, module in (("model", self.model), ("prior", self.prior)):
            for name, t in module.state_dict().items() if module is not None else ():
                is_exact = name in exact or not t.is_floating_point()
                tensors[f"{part}.{name}"] = t if is_exact else t.to(dtype)
        saved = checkpoint.save(path, tensors, self.card)
        self._hash = checkpoint.hash_of(saved)
        return saved

    @property
    def hash(self) -> str:
        """Content hash of the weights."""
        return self._hash

    @property
    def sampling(self) -> dict[str, Any]:
        """How latents are drawn, for provenance."""
        return {"prior": self.mode if self.prior else "gaussian", "latents": self.best_of}

    def check(self, request: GenerationRequest) -> list[str]:
        """Return warnings about a request.

        Raises:
            InputError: If it cannot be met.
        """
        refuse_impossible(request)
        warnings = check_request(request, self.trained)
        is_aimed = request.space_group or request.crystal_system
        if is_aimed and (self.prior is None or self.mode == "default"):
            warnings.append(
                "The symmetry is ignored: only the prior's modes full and less are told of it."
            )
        return warnings

    def sample(
        self,
        request: GenerationRequest,
        rng: torch.Generator,
        on_batch: Callable[[CrystalBatch], None] | None = None,
    ) -> CrystalBatch:
        """Return ``request.n`` crystals in order.

        Args:
            request: What to make; ``n_steps`` calls of the decoder each, over all noise levels.
            rng: Source of randomness; the same state gives the same crystals.
            on_batch: Sees each finished batch.

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
        self.check(request)
        streams = Streams.of(rng, request.n)
        told, asked = wishes_for(request, values, self.trained, self.mode, self.rows, streams)
        parts = []
        for index in torch.arange(request.n).split(_CHUNK) if request.n else ():
            batch = self._screened(request, told.select(index), asked[index], streams.select(index))
            batch = batch.with_ids([f"{self.name}-{i:05d}" for i in index.tolist()])
            if on_batch is not None:
                on_batch(batch)
            parts.append(batch)
        return concatenate(parts) if parts else CrystalBatch.empty()

    def _screened(
        self, request: GenerationRequest, told: Wishes, asked: Tensor, streams: Streams
    ) -> CrystalBatch:
        """Sample, and draw again what has overlapping atoms; ``attempts`` counts the draws."""
        batch = self._made(request, told, asked, streams)
        attempts = torch.ones(len(batch), dtype=torch.float64)
        for attempt in range(1, 1 + MAX_REDRAWS if request.screen else 1):
            bad = overlapping(batch)
            if not bool(bad.any()):
                break
            own = streams.select(torch.nonzero(bad).flatten()).at_attempt(attempt)
            again = self._made(request, told.select(bad), asked[bad], own)
            where = torch.arange(len(batch))
            where[bad] = len(batch) + torch.arange(len(again))
            batch = concatenate([batch, again]).select(where)
            attempts += bad
        return batch.with_properties(attempts=attempts)

    @torch.no_grad()
    def _made(
        self, request: GenerationRequest, told: Wishes, asked: Tensor, streams: Streams
    ) -> CrystalBatch:
        latent = self.latents(told, asked, streams)
        shown = told.without_extras()
        if self.prior is None:  # every condition hidden, whatever the autoencoder could be told
            nothing = torch.full((len(told), len(self.model.learnt)), torch.nan)
            shown = Wishes(**{**vars(shown), "values": nothing})
        return decode(
            self.model,
            self.model.fused(latent, shown.to(self.device)),
            request=request,
            sizes=allowed_sizes(request, self.trained.max_atoms),
            allowed=allowed_elements(request, self.trained),
            streams=streams,
        )

    @torch.no_grad()
    def latents(
        self, told: Wishes, asked: Float[Tensor, "b p"], streams: Streams
    ) -> Float[Tensor, "b k"]:
        """Return a latent for each row: the best of ``best_of`` by the auxiliary heads.

        Args:
            told: What the prior is told.
            asked: Values to come close to, NaN where none.
            streams: One for each row.
        """
        if self.prior is None:
            return gaussian(streams, (self.model.size.latent,)).to(self.device)
        best = sample_latents(self.prior, told, streams)
        if self.best_of == 1 or not bool(torch.isfinite(asked).any()):
            return best
        away = self.disagreement(best, asked)
        for draw in range(1, self.best_of):
            other = sample_latents(self.prior, told, streams, draw=draw)
            far = self.disagreement(other, asked)
            is_better = far < away
            best = torch.where(is_better[:, None], other, best)
            away = torch.where(is_better, far, away)
        return best

    @torch.no_grad()
    def disagreement(
        self, latent: Float[Tensor, "b k"], asked: Float[Tensor, "b p"]
    ) -> Float[Tensor, " b"]:
        """Return how far the auxiliary heads are from what is asked: RMS, in six deviations."""
        heads = self.model.properties
        wanted = heads.scaled(asked.to(latent.device))
        error = (heads(latent) - wanted).square().nan_to_num(0.0).sum(1)
        return error.sqrt()

    @torch.no_grad()
    def reconstruct(
        self, batch: CrystalBatch, rng: torch.Generator, *, n_steps: int = 50
    ) -> CrystalBatch:
        """Return what comes back of crystals through the latent, told their size and conditions.

        Args:
            batch: Crystals in Niggli cells that the model can be trained on (see `usable`).
            rng: Source of randomness.
            n_steps: Calls of the decoder.
        """
        streams = Streams.of(rng, len(batch))
        parts = []
        nan = torch.full((len(batch),), torch.nan, dtype=torch.float64)
        columns = [batch.properties.get(p.name, nan).float() for p in self.model.learnt]
        values = torch.stack(columns, dim=1) if columns else torch.zeros(len(batch), 0)
        zero = torch.zeros(len(batch), dtype=torch.int64)
        shown = Wishes(values=values, crystal_system=zero, space_group=zero, n_atoms=zero)
        for index in torch.arange(len(batch)).split(_CHUNK):
            some = batch.select(index)
            mean, _ = self.model.encode(pad(some, self.model.scale).to(self.device))
            parts.append(
                decode(
                    self.model,
                    self.model.fused(mean, shown.select(index).to(self.device)),
                    request=GenerationRequest(n=len(some), n_steps=n_steps),
                    sizes=some.n_atoms,
                    allowed=torch.ones(100, dtype=torch.bool),
                    streams=streams.select(index),
                )
            )
        return concatenate(parts) if parts else CrystalBatch.empty()


class PlainCdvae:
    """Makes the unconditional case of the shipped model: latents from a Gaussian, nothing told."""

    @classmethod
    def load(cls, path: Path | None = None, *, device: str = "cpu") -> CdvaeGenerator:
        """Load a checkpoint; the shipped one when ``path`` is None.

        Raises:
            DataError: If a file is missing, damaged or of another kind.
        """
        whole = CdvaeGenerator.load(path, device=device)
        return CdvaeGenerator(
            whole.model,
            None,
            whole.rows,
            {**whole.card, "conditions": {}},
            weights_hash=whole.hash,
            device=device,
        )


def _of(tensors: dict[str, Tensor], prefix: str, module: torch.nn.Module) -> dict[str, Tensor]:
    """Return the tensors of one module, in its precision: weights may be stored in bfloat16."""
    own = module.state_dict()
    mine = {k.removeprefix(prefix): t for k, t in tensors.items() if k.startswith(prefix)}
    return {k: t.to(own[k].dtype) if k in own else t for k, t in mine.items()}


def card_of_columns(learnt: tuple[AddedProperty, ...]) -> dict[str, Any]:
    """Return what a card says of the conditions: for users, and for loading."""
    return {
        "conditions": {
            p.name: {"low": p.low, "high": p.high, "count": p.count, "unit": p.unit} for p in learnt
        },
        "learnt": [asdict(p) for p in learnt],
    }
