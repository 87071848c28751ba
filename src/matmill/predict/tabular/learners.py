"""The learners by name: which columns they read, which settings they try, how they are fitted."""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Protocol

from jaxtyping import Float
from torch import Tensor

from matmill.predict.tabular.columns import View
from matmill.predict.tabular.forest import Forest, grow_boosted, grow_extra_trees
from matmill.predict.tabular.kernel import (
    KernelMachine,
    fit_gaussian_process,
    fit_support_vectors,
)
from matmill.predict.tabular.networks import NetworkPlan, Networks, draw_plans, train_networks
from matmill.randomness import child, child_seed

Variant = dict[str, Any]
_EDGE = 1e-4  # shares of votes nearer to 0 or 1 have no honest log odds
_NETWORK_STEPS = 1000
_SEEDS = 3  # of each network that is kept


class Model(Protocol):
    """One fitted learner; Forest, KernelMachine and Networks are such."""

    def predict(self, columns: Float[Tensor, "n n_columns"]) -> Float[Tensor, " n"]:
        """Return the value of each row on the learned scale."""
        ...

    def tensors(self) -> dict[str, Tensor]:
        """Return what has to be stored."""
        ...


@dataclass(frozen=True, kw_only=True)
class Task:
    """What a learner is fitted to.

    Attributes:
        columns: Of the training rows, ``(n, n_columns)``.
        target: On the learned scale, or classes 0 and 1, ``(n,)``.
        classify: The target is a class.
        seed: Of everything random.
        is_final: This model will be kept; others only tell how good their kind is.
        weights: How much each row counts, ``(n,)``, 1 on average; None for all alike.
    """

    columns: Float[Tensor, "n n_columns"]
    target: Float[Tensor, " n"]
    classify: bool
    seed: int
    is_final: bool
    weights: Float[Tensor, " n"] | None = None


@dataclass(frozen=True, kw_only=True)
class Learner:
    """One way to learn.

    Attributes:
        view: Columns that it reads; see `columns.prepare`.
        kind: Class of the fitted model, for reading files.
        variants: Settings to try, a function of (n_rows, n_columns, seed).
        fit: Function of (task, variants) that returns a model for each variant.
        keep: How many variants are kept; their median is the prediction.
        most_rows: With more training rows it would take too long.
        most_scales: On how many of the best scales of the target it is tried.
    """

    view: View
    kind: type[Any]
    variants: Callable[[int, int, int], list[Variant]]
    fit: Callable[[Task, Sequence[Variant]], list[Any]]
    keep: int = 1
    most_rows: int = 10_000
    most_scales: int = 2


def _extra_trees(task: Task, variants: Sequence[Variant]) -> list[Forest]:
    """Grow once; the variants differ in how the trees are put together."""
    forest = grow_extra_trees(
        task.columns,
        task.target,
        seed=task.seed,
        n_trees=300 if task.is_final else 80,
        max_features=0.33 if task.columns.shape[1] < 200 else 0.25,
        min_leaf=1 if len(task.columns) < 2000 else 2,
        classify=task.classify,
        weights=task.weights,
    )
    return [replace(forest, is_median=v["is_median"]) for v in variants]


def _tree_variants(n_rows: int, n_columns: int, seed: int) -> list[Variant]:  # noqa: ARG001
    # The median suits skewed targets, and those that are often exactly zero.
    return [{"is_median": False}, {"is_median": True}]


def _scout(task: Task, variants: Sequence[Variant]) -> list[Forest]:  # noqa: ARG001
    return [
        grow_extra_trees(
            task.columns,
            task.target,
            seed=task.seed,
            n_trees=25,
            max_features=0.15,
            min_leaf=2,
            classify=task.classify,
            weights=task.weights,
        )
    ]


def _boosted_trees(task: Task, variants: Sequence[Variant]) -> list[Forest]:
    return [
        grow_boosted(
            task.columns,
            task.target,
            seed=task.seed,
            classify=task.classify,
            weights=task.weights,
            **variant,
        )
        for variant in variants
    ]


def _boosted_variants(n_rows: int, n_columns: int, seed: int) -> list[Variant]:  # noqa: ARG001
    return [{"max_leaves": 8 if n_rows < 1000 else 31, "min_leaf": 5 if n_rows < 1000 else 10}]


def _support_vectors(task: Task, variants: Sequence[Variant]) -> list[KernelMachine]:
    return [
        fit_support_vectors(
            task.columns, task.target, classify=task.classify, weights=task.weights, **variant
        )
        for variant in variants
    ]


def _vector_variants(n_rows: int, n_columns: int, seed: int) -> list[Variant]:  # noqa: ARG001
    # Smooth properties want wide kernels, compositions of alloys narrow and costly ones.
    pairs = ((3.0, 0.5), (10.0, 0.2), (30.0, 1.5), (100.0, 0.7))
    return [{"cost": c, "width": w} for c, w in (pairs if n_rows < 2000 else pairs[:1])]


def _gaussian_process(task: Task, variants: Sequence[Variant]) -> list[KernelMachine]:  # noqa: ARG001
    target = 2.0 * task.target - 1.0 if task.classify else task.target
    rng = child(task.seed, "gaussian process")
    return [fit_gaussian_process(task.columns, target, rng=rng, weights=task.weights)]


def _no_variants(n_rows: int, n_columns: int, seed: int) -> list[Variant]:  # noqa: ARG001
    return [{}]


def _networks(task: Task, variants: Sequence[Variant]) -> list[Networks]:
    plans = [NetworkPlan(**variant) for variant in variants]
    plans = plans * _SEEDS if task.is_final else plans
    batch_rows = 64 if len(task.columns) < 2000 else 128
    epochs = max(25, min(150, round(_NETWORK_STEPS * batch_rows / len(task.columns))))
    trained = train_networks(
        task.columns,
        task.target,
        plans,
        seed=task.seed,
        epochs=epochs,
        batch_rows=batch_rows,
        classify=task.classify,
        weights=task.weights,
    )
    if task.is_final:
        return [trained]
    return [trained.select([i]) for i in range(len(plans))]


def _network_variants(n_rows: int, n_columns: int, seed: int) -> list[Variant]:
    rng = child(seed, "network plans")
    return [asdict(plan) for plan in draw_plans(6 if n_rows < 2000 else 4, n_columns, rng)]


LEARNERS: dict[str, Learner] = {
    "extra-trees": Learner(
        view="plain", kind=Forest, variants=_tree_variants, fit=_extra_trees, most_rows=50_000
    ),
    "boosted-trees": Learner(
        view="plain",
        kind=Forest,
        variants=_boosted_variants,
        fit=_boosted_trees,
        most_rows=500_000,
        most_scales=1,
    ),
    "support-vectors": Learner(
        view="standard", kind=KernelMachine, variants=_vector_variants, fit=_support_vectors
    ),
    "gaussian-process": Learner(
        view="standard",
        kind=KernelMachine,
        variants=_no_variants,
        fit=_gaussian_process,
        most_rows=2000,
        most_scales=1,
    ),
    "scout": Learner(
        view="plain", kind=Forest, variants=_no_variants, fit=_scout, most_rows=500_000
    ),
    "networks": Learner(
        view="ranked",
        kind=Networks,
        variants=_network_variants,
        fit=_networks,
        keep=3,
        most_scales=1,
    ),
}
"""Learners by name."""


def score(name: str, value: Float[Tensor, "*n"], *, classify: bool) -> Float[Tensor, "*n"]:
    """Return what a model says as a number that grows with the odds, for classes.

    Extra trees give shares of votes, which become log odds; the others give log odds or margins.
    """
    if classify and name in ("extra-trees", "scout"):
        return value.clamp(_EDGE, 1.0 - _EDGE).logit()
    return value


def seed_of(seed: int, *names: str | int) -> int:
    """Return the seed of one fit."""
    return child_seed(seed, "tabular", *names)
