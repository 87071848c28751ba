"""Sizes and masses of crystals that scales of a target are built on; one number a crystal."""

import torch
from jaxtyping import Float
from torch import Tensor

from matmill.crystals.batch import CrystalBatch
from matmill.crystals.compositions import CompositionBatch
from matmill.crystals.elements import table
from matmill.predict.descriptors.dimensionality import dimensionality, layer_geometry
from matmill.predict.tabular.targets import BULK_SIZE, LAYER_SIZE

_LAYERED_SHARE = 0.8
_WIDE_GAP_ANGSTROM = 8.0


def facts_of(batch: CrystalBatch | CompositionBatch) -> dict[str, Float[Tensor, " n"]]:
    """Return what the scales may divide by or fit a law to, float64, all positive.

    Mean mass of an atom and its harmonic mean (amu); for crystals also volume per atom (Å³), and
    area per atom (Å²) of the layers between the widest gaps, which is finite but means little
    where there are no layers: see `is_layered`.
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


def is_layered(batch: CrystalBatch | CompositionBatch) -> bool:
    """Return whether most of these crystals are layers, single or stacked.

    A crystal is one when its bonds span two dimensions, or its widest gap is wider than any in a
    framework.
    """
    if not isinstance(batch, CrystalBatch) or not len(batch):
        return False
    has_gap = layer_geometry(batch).vacuum > _WIDE_GAP_ANGSTROM
    return float(((dimensionality(batch) == 2) | has_gap).double().mean()) >= _LAYERED_SHARE
