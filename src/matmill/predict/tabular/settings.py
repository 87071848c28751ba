"""What a user may choose about the tabular predictor, and what follows from it."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from matmill.config import Settings
from matmill.predict.imbalance.scores import Goal

FULL = (
    "extra-trees",
    "boosted-trees",
    "support-vectors",
    "gaussian-process",
    "networks",
)
FAST = ("extra-trees", "support-vectors")


class TabularSettings(Settings):
    """How to make a tabular predictor.

    Attributes:
        preset: ``fast`` tries trees and kernels on descriptors; ``full`` also boosted trees,
            Gaussian processes, small networks and the frozen features of the embedded potential;
            ``thorough`` also frequencies and stiffness that the potential computes, which takes
            seconds a crystal and pays for phonons, moduli and heat capacities.
        blocks: Descriptor blocks; by default those that suit the rows.
        learners: Names of learners; by default those of the preset.
        scales: Names of target scales, see `targets.FORMS`; by default those that suit the column.
        n_folds: Inner folds, by formula.
        n_scales: How many of the best scales go on after a first look.
        threshold_for: What the threshold between two classes is tuned for, out of fold.
        descriptors: Folder that keeps descriptors row by row, so that several fits share them; by
            default inside the folder of the fit.
    """

    preset: Literal["fast", "full", "thorough"] = "full"
    blocks: tuple[str, ...] | None = None
    learners: tuple[str, ...] | None = None
    scales: tuple[str, ...] | None = None
    n_folds: Annotated[int, Field(ge=2)] = 4
    n_scales: Annotated[int, Field(ge=1)] = 2
    threshold_for: Goal = "balanced-accuracy"
    descriptors: Path | None = None
