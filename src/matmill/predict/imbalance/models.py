"""Models that are balanced from within: forests and boosting on equal samples, focal networks.

Each has ``fit(rows, labels)`` and ``predict_proba(rows)`` as scikit-learn's have.
"""

from collections.abc import Callable, Sequence
from importlib import import_module
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from matmill.errors import MissingExtraError
from matmill.predict.imbalance.sampling import balanced_rows
from matmill.randomness import child, child_seed

_STEPS = 600
_RATE = 3e-3


class BalancedEnsemble:
    """The mean of many classifiers, each fitted to equally many rows of both classes.

    Args:
        make: Returns an unfitted classifier for a seed.
        n_members: How many.
        replace: See `balanced_rows`.
        seed: Of samples and members.
    """

    def __init__(
        self, make: Callable[[int], Any], n_members: int, *, replace: bool, seed: int
    ) -> None:
        self.make, self.n_members, self.replace, self.seed = make, n_members, replace, seed
        self.members: list[Any] = []

    def fit(self, rows: np.ndarray, labels: np.ndarray) -> "BalancedEnsemble":
        """Fit every member to a sample of its own and return itself."""
        classes = torch.from_numpy(labels)
        self.members = []
        for number in range(self.n_members):
            rng = child(self.seed, "sample", number)
            drawn = balanced_rows(classes, rng, replace=self.replace).numpy()
            member = self.make(child_seed(self.seed, "member", number) % 2**32)
            self.members.append(member.fit(rows[drawn], labels[drawn]))
        return self

    def predict_proba(self, rows: np.ndarray) -> np.ndarray:
        """Return the mean probabilities of both classes, ``(n, 2)``."""
        return np.mean([member.predict_proba(rows) for member in self.members], axis=0)


def balanced_forest(n_trees: int, seed: int) -> BalancedEnsemble:
    """Return a random forest whose trees see a bootstrap of equal class counts each.

    Source:
        Chen, Liaw and Breiman, Using random forest to learn imbalanced data (2004).
    """
    tree = learner_of("tree").DecisionTreeClassifier
    return BalancedEnsemble(
        lambda number: tree(max_features="sqrt", random_state=number),
        n_trees,
        replace=True,
        seed=seed,
    )


def easy_ensemble(seed: int, n_members: int = 10, n_stumps: int = 50) -> BalancedEnsemble:
    """Return boosted stumps on many random under-samples.

    Source:
        Liu, Wu and Zhou, Exploratory undersampling for class-imbalance learning (2009).
    """
    boosting = learner_of("ensemble").AdaBoostClassifier
    return BalancedEnsemble(
        lambda number: boosting(n_estimators=n_stumps, random_state=number),
        n_members,
        replace=False,
        seed=seed,
    )


def learner_of(module: str) -> Any:  # noqa: ANN401 - a module
    """Return a module of scikit-learn.

    Raises:
        MissingExtraError: If it is not installed.
    """
    try:
        return import_module(f"sklearn.{module}")
    except ImportError as error:
        raise MissingExtraError(
            "Classification of rare classes needs: pip install 'matmill[train]'"
        ) from error


class FocalNetwork:
    """Two hidden layers under focal loss: ``−(1 − p_t)^γ log p_t``, p_t the chance of the truth.

    Rows that are already right count little, so the many easy ones do not drown the few hard ones.

    Source:
        Lin et al., Focal loss for dense object detection (2017), equation 4.
    """

    def __init__(self, seed: int, *, gamma: float = 2.0, widths: Sequence[int] = (64, 32)) -> None:
        self.seed, self.gamma, self.widths = seed, gamma, widths

    def fit(self, rows: np.ndarray, labels: np.ndarray) -> "FocalNetwork":
        """Fit to scaled rows and return itself."""
        rng = child(self.seed, "focal")
        x, y = torch.from_numpy(rows).float(), torch.from_numpy(labels).float()
        sizes = [x.shape[1], *self.widths, 1]
        layers: list[torch.nn.Module] = []
        for n_in, n_out in pairwise(sizes):
            layer = torch.nn.Linear(n_in, n_out)
            bound = (1.0 / n_in) ** 0.5
            torch.nn.init.uniform_(layer.weight, -bound, bound, generator=rng)
            torch.nn.init.zeros_(layer.bias)
            layers += [layer, torch.nn.SiLU()]
        self.network = torch.nn.Sequential(*layers[:-1])
        optimizer = torch.optim.AdamW(self.network.parameters(), lr=_RATE, weight_decay=1e-2)
        size = min(256, len(x))
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, _RATE, total_steps=_STEPS)
        for _ in range(_STEPS):
            picked = torch.randint(0, len(x), (size,), generator=rng)
            loss = focal_loss(self.network(x[picked])[:, 0], y[picked], self.gamma).mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
        return self

    @torch.no_grad()
    def predict_proba(self, rows: np.ndarray) -> np.ndarray:
        """Return the probabilities of both classes, ``(n, 2)``."""
        chance = torch.sigmoid(self.network(torch.from_numpy(rows).float())[:, 0]).double()
        return torch.stack([1 - chance, chance], dim=1).numpy()


def focal_loss(
    logit: Float[Tensor, " n"], classes: Float[Tensor, " n"], gamma: float
) -> Float[Tensor, " n"]:
    """Return ``−(1 − p_t)^γ log p_t`` of each row; γ = 0 is cross-entropy."""
    cross_entropy = torch.nn.functional.binary_cross_entropy_with_logits(
        logit, classes, reduction="none"
    )
    return (1 - torch.exp(-cross_entropy)) ** gamma * cross_entropy
