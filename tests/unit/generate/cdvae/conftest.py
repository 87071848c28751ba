"""A tiny CDVAE that has seen a handful of prototypes for some steps."""

import pytest
import torch

from matmill.generate.cdvae.settings import CdvaeSettings
from matmill.generate.cdvae.train import train_cdvae

COLUMN = "band_gap_ev"
SIZE = {
    "encoder_width": 32,
    "encoder_heads": 2,
    "encoder_blocks": 1,
    "decoder_width": 32,
    "decoder_heads": 2,
    "decoder_blocks": 2,
    "latent": 16,
    "condition": 16,
    "prior": [32, 24, 16],
}


def settings(steps, **changes):
    fit = {
        "max_steps": steps,
        "learning_rate": 3e-3,
        "warmup_steps": 5,
        "precision": "fp32",
        "ema_decay": 0.9,
        "checkpoint_every_seconds": 0.0,
        "log_every_steps": 1,
        "decay": "none",
    }
    return CdvaeSettings(
        **{
            "size": SIZE,
            "max_atoms": 8,
            "batch_size": 24,
            "prior_batch_size": 64,
            "fit": fit,
            "prior_fit": fit,
            **changes,
        }
    )


@pytest.fixture(scope="session")
def trained(crystals, space_groups, tmp_path_factory):
    """A generator with a prior, its folder beside it."""
    folder = tmp_path_factory.mktemp("cdvae")
    return train_cdvae(
        crystals,
        [COLUMN],
        settings=settings(60),
        folder=folder,
        space_group=space_groups,
    ), folder


@pytest.fixture
def rng():
    return torch.Generator().manual_seed(0)
