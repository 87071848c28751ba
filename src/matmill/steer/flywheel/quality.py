"""How good a synthetic set is, beyond the predictor that it teaches."""

from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from matmill.crystals.batch import CrystalBatch
from matmill.crystals.composition import element_counts
from matmill.crystals.facts import density
from matmill.steer.flywheel.rows import RunRows


def measure(
    synthetic: CrystalBatch,
    conditions: Float[Tensor, " n"],
    facts: dict[str, Any],
    rows: RunRows,
    *,
    judged: Float[Tensor, " n"] | None = None,
    judge_error: float = float("nan"),
) -> dict[str, float]:
    """Return measures of a synthetic set as it left the generator.

    Shares are of all crystals asked for. ``valid``: passes the checks of geometry. ``neutral``:
    valid, and charges can balance. ``novel``: valid and no copy of a training row. ``unique``:
    valid and not a repeat. ``reached``: share of the training rows that have a valid synthetic
    crystal within the distance that training rows keep among themselves (99th percentile), by AMD
    with the same elements. ``density_w1_g_cm3`` and ``n_elements_w1``: Wasserstein distances to the
    training rows. ``condition_error``: mean absolute difference of the condition and what an
    independent predictor says of the valid crystals, in the unit of the target;
    ``judge_error`` is that predictor's own error on real training rows, below which nothing can be
    told; ``condition_correlation`` is Spearman's.
    """
    from scipy.stats import spearmanr, wasserstein_distance

    n = max(len(synthetic), 1)
    sound = torch.tensor([fate is None for fate in facts["fate"]])
    fresh = sound & (torch.tensor(facts["copy_of"]) < 0)
    single = sound & ~torch.tensor(facts["is_repeat"])
    neutral = sound & torch.tensor(facts["is_neutral"])
    real = rows.table.crystals.select(rows.train)
    found = {
        "valid": float(sound.sum()) / n,
        "neutral": float(neutral.sum()) / n,
        "novel": float(fresh.sum()) / n,
        "unique": float(single.sum()) / n,
        "formulas_of_training": _known_formulas(synthetic.select(sound), real) / n,
        "elements_entropy_bits": _entropy(synthetic.select(sound)),
        "training_entropy_bits": _entropy(real),
    }
    good = synthetic.select(sound)
    if len(good):
        found["reached"] = _reached(good, real, facts["reach_a"])
        densities = (density(good).numpy(), density(real).numpy())
        found["density_w1_g_cm3"] = float(wasserstein_distance(*densities))
        sizes = [(element_counts(b) > 0).sum(1).numpy() for b in (good, real)]
        found["n_elements_w1"] = float(wasserstein_distance(*sizes))
    if judged is not None and int(sound.sum()) > 2:
        said, wanted = judged[sound].numpy(), conditions[sound].numpy()
        found["condition_error"] = float(np.abs(said - wanted).mean())
        found["judge_error"] = judge_error
        if np.ptp(said) > 0 and np.ptp(wanted) > 0:
            ranks: Any = spearmanr(said, wanted)
            found["condition_correlation"] = float(ranks.statistic)
    return found


def _known_formulas(good: CrystalBatch, real: CrystalBatch) -> int:
    known = set(real.formula)
    return sum(formula in known for formula in good.formula)


def _entropy(batch: CrystalBatch) -> float:
    """Return the entropy of the elements over all atoms, in bits."""
    if not len(batch):
        return 0.0
    counts = torch.bincount(batch.atomic_numbers).double()
    share = counts[counts > 0] / counts.sum()
    return float(-(share * share.log2()).sum())


def _reached(good: CrystalBatch, real: CrystalBatch, reach_a: float) -> float:
    from matmill.crystals.fingerprint import amd

    near = torch.cdist(amd(real).double(), amd(good).double(), p=torch.inf) <= reach_a
    same = (element_counts(real) > 0).float() @ (element_counts(good) > 0).float().T
    sizes = (element_counts(real) > 0).float().sum(1)[:, None]
    other = (element_counts(good) > 0).float().sum(1)[None, :]
    alike = (same == sizes) & (same == other)
    return float((near & alike).any(1).double().mean())
