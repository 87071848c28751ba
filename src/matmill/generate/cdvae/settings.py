"""Settings of a CDVAE: sizes, noise, weights of the loss, and how its two parts are trained."""

from typing import Annotated

from pydantic import Field, field_validator, model_validator

from matmill.config import Settings
from matmill.training.settings import FitSettings

_LIMITS = ("max_steps", "max_epochs", "max_seconds")
Weight = Annotated[float, Field(ge=0.0)]
Positive = Annotated[float, Field(gt=0.0)]
Count = Annotated[int, Field(gt=0)]


class CdvaeSize(Settings):
    """Widths and depths; saved on the card, since weights fit one size only.

    Attributes:
        encoder_width: Of its tokens.
        encoder_heads: Of its attention.
        encoder_blocks: Its layers.
        decoder_width: Of its tokens.
        decoder_heads: Of its attention.
        decoder_blocks: Its layers.
        latent: Numbers in a latent vector.
        condition: Numbers in the vector that stands for all conditions.
        prior: Widths of the prior's three levels.
    """

    encoder_width: Count = 128
    encoder_heads: Count = 4
    encoder_blocks: Count = 2
    decoder_width: Count = 128
    decoder_heads: Count = 4
    decoder_blocks: Count = 4
    latent: Count = 256
    condition: Count = 128
    prior: tuple[Count, Count, Count] = (256, 192, 128)

    @model_validator(mode="after")
    def _heads_divide(self) -> "CdvaeSize":
        for part in ("encoder", "decoder"):
            width, heads = getattr(self, f"{part}_width"), getattr(self, f"{part}_heads")
            if width % heads:
                raise ValueError(f"{part}_heads {heads} does not divide {part}_width {width}")
        return self


class NoiseSettings(Settings):
    """Levels of noise, from the largest to the smallest in equal ratios.

    Attributes:
        n_levels: How many.
        coords_largest_a: Of the sites, in Å.
        coords_smallest_a: Of the sites, in Å.
        types_largest: Of the elements.
        types_smallest: Of the elements.

    Source:
        Xie et al., Crystal Diffusion Variational Autoencoder (2022), appendix.
    """

    n_levels: Annotated[int, Field(ge=2)] = 50
    coords_largest_a: Positive = 10.0
    coords_smallest_a: Positive = 0.01
    types_largest: Positive = 5.0
    types_smallest: Positive = 0.01


class LossSettings(Settings):
    """Weights of the parts of the loss.

    Attributes:
        n_atoms: Cross entropy of the number of atoms.
        lattice: Squared error of the standardised lattice numbers.
        composition: Cross entropy of the composition.
        coords: Score matching of the sites.
        types: Cross entropy of the elements at noisy sites, over their level of noise.
        divergence: Of the latent from a Gaussian.
        property: Squared error of the auxiliary heads.
        balanced: Weigh every level of noise alike. The published weight of a level falls with the
            square of the noise once that is larger than the cell, although sites are then the
            hardest to tell; False keeps it.
        decoder_share: Share of the crystals of a batch that the decoder sees. It costs most of a
            step; where it began with a trained flow the encoder and the heads need more steps.
        own_lattice: Share of views whose decoder works in the predicted cell, as in sampling; the
            published training does so in its second half.

    Source:
        Xie et al. (2022); weight of the property: Ye et al., Con-CDVAE (2024).
    """

    n_atoms: Weight = 1.0
    lattice: Weight = 10.0
    composition: Weight = 1.0
    coords: Weight = 10.0
    types: Weight = 1.0
    divergence: Weight = 0.01
    property: Weight = 3.0
    balanced: bool = True
    decoder_share: Annotated[float, Field(gt=0.0, le=1.0)] = 1.0
    own_lattice: Annotated[float, Field(ge=0.0, le=1.0)] = 0.5


_FIT = FitSettings(
    max_steps=1500,
    learning_rate=1e-3,
    warmup_steps=50,
    ema_decay=0.995,
    decay="cosine",
    checkpoint_every_seconds=60.0,
)
_PRIOR_FIT = FitSettings(
    max_steps=1500,
    learning_rate=1e-3,
    warmup_steps=50,
    ema_decay=0.995,
    decay="cosine",
    checkpoint_every_seconds=60.0,
    precision="fp32",
)


class CdvaeSettings(Settings):
    """What to train.

    Attributes:
        size: Widths and depths; those of the start where there is one.
        noise: Levels of noise.
        loss: Weights of the parts of the loss.
        max_atoms: Largest cell to learn from; that of the start where there is one.
        flow_trunk: Begin the decoder with the layers of the shipped flow, which has learnt to find
            sites; ``size`` must have its width, heads and blocks (see `with_flow_trunk`).
        batch_size: Crystals a step of the autoencoder.
        prior_batch_size: Latents a step of the prior.
        prior_rows: Crystals whose latents the prior learns from, at most; drawn at random.
        hide_condition: Chance that one condition is hidden from one view, so that any subset may
            be asked for.
        hide_extras: Chance that symmetry and number of atoms are hidden from the prior: such views
            teach its *default* mode, the others *full* and *less*.
        fit: Limits, optimiser and precision of the autoencoder. Where it is given by keys, those
            that are absent have the defaults of this class.
        prior_fit: The same of the prior.
    """

    size: CdvaeSize = CdvaeSize()
    noise: NoiseSettings = NoiseSettings()
    loss: LossSettings = LossSettings()
    max_atoms: Annotated[int, Field(gt=0, le=64)] = 20
    flow_trunk: bool = False
    batch_size: Count = 64
    prior_batch_size: Count = 256
    prior_rows: Count = 20_000
    hide_condition: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.15
    hide_extras: Annotated[float, Field(ge=0.0, le=1.0)] = 0.5
    fit: FitSettings = _FIT
    prior_fit: FitSettings = _PRIOR_FIT

    @field_validator("fit", mode="before")
    @classmethod
    def _over_the_defaults(cls, given: object) -> object:
        return _filled(given, _FIT)

    @field_validator("prior_fit", mode="before")
    @classmethod
    def _over_the_prior_defaults(cls, given: object) -> object:
        return _filled(given, _PRIOR_FIT)


def _filled(given: object, defaults: FitSettings) -> object:
    """Return the given keys over the defaults; a limit that is given replaces all of them."""
    if not isinstance(given, dict):
        return given
    kept = defaults.model_dump()
    if any(given.get(name) is not None for name in _LIMITS):
        kept |= dict.fromkeys(_LIMITS)
    return kept | given
