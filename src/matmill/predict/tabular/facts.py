"""Sizes and masses of crystals that scales of a target are built on; one number a crystal."""

import torch
from jaxtyping import Float
from torch import Tensor

from matmill.crystals.batch import CrystalBatch
from matmill.crystals.compositions import CompositionBatch
from matmill.crystals.elements import table
from matmill.predict.descriptors.dimensionality import layer_geometry
from matmill.predict.tabular.targets import BULK_SIZE, LAYER_SIZE

_LAYERED_SHARE = 0.95


def facts_of(batch: CrystalBatch | CompositionBatch) -> dict[str, Float[Tensor, " n"]]:
    """Return what the scales may divide by or fit a law to, float64, all positive.

    Mean mass of an atom (amu) and its harmonic mean; for crystals also volume per atom (Å³) and,
    for single layers, area per atom (Å², NaN for others).
    """
    formulas = CompositionBatch.of(batch) if isinstance(batch, CrystalBatch) else batch
    mass = table("mass")
    known = torch.where(torch.isfinite(mass), mass, 1.0)
    facts = {
        "mean_mass_amu": formulas.fractions @ known,
        "reduced_mass_amu": 1.0 / (formulas.fractions @ (1.0 / known)),
    }
    if isinstance(batch, CrystalBatch):
        facts[BULK_SIZE] = batch.volume.double() / batch.n_atoms
        facts[LAYER_SIZE] = layer_geometry(batch).area_per_atom
    return facts


def is_layered(facts: dict[str, Tensor]) -> bool:
    """Return whether nearly all of these crystals are single layers."""
    area = facts.get(LAYER_SIZE)
    if area is None or not len(area):
        return False
    return float(torch.isfinite(area).double().mean()) >= _LAYERED_SHARE
