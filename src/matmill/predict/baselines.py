"""Predictions from the composition alone: what a structure model has to beat."""

from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from matmill.crystals.batch import CrystalBatch
from matmill.crystals.compositions import CompositionBatch
from matmill.crystals.elements import table
from matmill.errors import MissingExtraError
from matmill.graphs.graph import Graph
from matmill.predict.cgcnn import N_ELEMENTS, element_features

_FACTS = ("mass", "electronegativity", "covalent_radius", "group", "period")


class CompositionNetwork(nn.Module):
    """Network on element fractions: weighted mean and spread of element features, then layers.

    Args:
        n_targets: Number of outputs.
        width: Features of an element.
        hidden: Width of the layers after pooling.
    """

    reads: ClassVar[str] = "composition"
    element_table: Tensor

    def __init__(self, n_targets: int, *, width: int = 64, hidden: int = 256) -> None:
        super().__init__()
        features = element_features()
        self.register_buffer("element_table", features, persistent=False)
        self.embed = nn.Linear(features.shape[1], width)
        self.offset = nn.Embedding(N_ELEMENTS, width)
        nn.init.zeros_(self.offset.weight)
        self.layers = nn.Sequential(
            nn.Linear(3 * width, hidden),
            nn.SiLU(),
            nn.Linear(hidden, hidden),
            nn.SiLU(),
            nn.Linear(hidden, hidden),
            nn.SiLU(),
        )
        self.out = nn.Linear(hidden, n_targets)
        self.noise = nn.Linear(hidden, n_targets)

    def embedding(self, graph: Graph) -> Float[Tensor, "n_crystals hidden"]:
        """Return the learned features of each composition."""
        n = len(graph)
        place = graph.crystal_index * N_ELEMENTS + graph.atomic_numbers.long()
        counts = graph.weight.new_zeros(n * N_ELEMENTS).index_add(0, place, graph.weight)
        counts = counts.view(n, N_ELEMENTS)
        fractions = counts / counts.sum(1, keepdim=True)
        elements = self.embed(self.element_table) + self.offset.weight
        mean = fractions @ elements
        square = fractions @ elements.square() - mean.square()
        present = torch.where(counts > 0, 0.0, -1e4)
        # Smooth maximum over the elements present: ions are told by their extremes.
        peak = torch.logsumexp(elements[None] + present[..., None], dim=1)
        pooled = torch.cat([mean, (square.clamp_min(0.0) + 1e-6).sqrt(), peak], dim=1)
        return self.layers(pooled)

    def forward(
        self, graph: Graph
    ) -> tuple[Float[Tensor, "n_crystals n_targets"], Float[Tensor, "n_crystals n_targets"]]:
        """Return mean and log expected error on the trained scale."""
        features = self.embedding(graph)
        return self.out(features).float(), self.noise(features.detach()).float()


def composition_descriptors(
    batch: CrystalBatch | CompositionBatch,
) -> Float[Tensor, "n_crystals n_columns"]:
    """Return element fractions and weighted statistics of element facts, for tree models."""
    compositions = CompositionBatch.of(batch) if isinstance(batch, CrystalBatch) else batch
    counts, fractions = compositions.amounts, compositions.fractions
    columns = [fractions, (counts > 0).sum(1, keepdim=True).double()]
    for name in _FACTS:
        values = table(name)
        known = torch.where(torch.isfinite(values), values, values.nanmean())
        mean = fractions @ known
        spread = (fractions @ known.square() - mean.square()).clamp_min(0.0).sqrt()
        present = counts > 0
        high = torch.where(present, known, torch.full_like(known, -torch.inf)).amax(1)
        low = torch.where(present, known, torch.full_like(known, torch.inf)).amin(1)
        columns.append(torch.stack([mean, spread, high, low, high - low], dim=1))
    return torch.cat(columns, dim=1)


def boosted_trees_mae(
    train: CrystalBatch | CompositionBatch,
    train_values: Float[Tensor, " n_train"],
    test: CrystalBatch | CompositionBatch,
    test_values: Float[Tensor, " n_test"],
    *,
    is_log: bool,
    seed: int,
) -> float:
    """Return the test error of gradient-boosted trees on composition descriptors.

    For evaluation only: trees cannot be stored without pickle. Rows without a value are left out.

    Args:
        train: Training crystals or compositions.
        train_values: Their values, NaN where unknown.
        test: Those to test on.
        test_values: Their values.
        is_log: Learn the logarithm and report the error of the logarithm (base 10).
        seed: Of the trees.

    Raises:
        MissingExtraError: If scikit-learn is not installed.
    """
    try:
        from sklearn.ensemble import HistGradientBoostingRegressor
    except ImportError as error:
        raise MissingExtraError("The tree baseline needs: pip install 'matmill[train]'") from error
    known, asked = torch.isfinite(train_values), torch.isfinite(test_values)

    def learned(values: Tensor) -> Tensor:
        return values.clamp_min(0.1).log10() if is_log else values

    model = HistGradientBoostingRegressor(
        max_iter=500, learning_rate=0.1, max_leaf_nodes=63, random_state=seed
    )
    model.fit(
        composition_descriptors(train.select(known)).numpy(), learned(train_values[known]).numpy()
    )
    guess = torch.from_numpy(model.predict(composition_descriptors(test.select(asked)).numpy()))
    return float((guess - learned(test_values[asked])).abs().mean())


def median_mae(
    train_values: Float[Tensor, " n_train"], test_values: Float[Tensor, " n_test"]
) -> float:
    """Return the test error of always guessing the training median."""
    known, asked = torch.isfinite(train_values), torch.isfinite(test_values)
    return float(
        functional.l1_loss(
            train_values[known].median().expand(int(asked.sum())), test_values[asked]
        )
    )
