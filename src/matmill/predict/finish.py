"""What a trained ensemble gets before use: the bounds of its domain and its calibration."""

import torch
from jaxtyping import Int
from torch import Tensor

from matmill.errors import DataError
from matmill.graphs.graph import Graph
from matmill.predict.calibrate import quantile_table, residual_scores, std_factor
from matmill.predict.chemistry import families
from matmill.predict.domain import LIMIT, Domain, elements_of, shortest_bond
from matmill.predict.ensemble import EnsembleModel
from matmill.predict.intervals import CalibrationRows
from matmill.predict.networks import chunks


def describe_domain(model: EnsembleModel, graph: Graph) -> None:
    """Store elements, usual bond lengths and learned features of training graphs.

    The features are those of the first member, so with folds give the graphs that it learned from.
    """
    with torch.no_grad():
        network = model.members[0]
        parts = [network.embedding(g.to(model.device)) for g in chunks(graph)]  # pyright: ignore[reportCallIssue]
    has_bonds = graph.distance.shape[1] > 0
    bonds = shortest_bond(graph) if has_bonds else None
    elements = elements_of(graph)
    # The rows given may be a sample; which elements occurred is known of all.
    elements[0, model.card["elements_z"]] = True
    features = torch.cat(parts).cpu()
    domain = Domain.fit(features, elements, shortest_bond=bonds, seed=model.card.get("seed", 0))
    model.domain = domain.to(model.device)
    if has_bonds:
        model.card["shortest_bond_angstrom"] = [round(end, 3) for end in domain.bonds.tolist()]


def calibrate_model(
    model: EnsembleModel,
    graph: Graph,
    labels: Tensor,
    folds: Int[Tensor, " n_crystals"] | None = None,
) -> None:
    """Set error-bar factors, conformal factors and the limit of the domain from held-out rows.

    Args:
        model: Ensemble with a domain, see `describe_domain`.
        graph: Graphs of the held-out rows.
        labels: Their values on the learned scale, ``(n_crystals, n_targets)``, NaN unknown.
        folds: The member that did not learn from each row; without, none did.

    Raises:
        DataError: If no row has a value of a column.
    """
    raw = model.raw(graph)
    mean, std = raw.mean, raw.std
    if folds is not None:
        rows = torch.arange(len(graph))
        mean, std = raw.members[folds, rows], raw.member_stds[folds, rows]
    if model.domain is not None:
        unseen = raw.distance if folds is None else raw.distance[folds == 0]
        model.domain = model.domain.measured_on(unseen)
        model.card["domain_limit"] = float(model.domain.distances[LIMIT])
    calibration, kept = {}, {}
    for target, column in enumerate(model.columns):
        is_known = torch.isfinite(labels[:, target])
        if not bool(is_known.any()):
            raise DataError(f"No validation row has a value of '{column}'; check the split column.")
        error = mean[is_known, target] - labels[is_known, target].double()
        own = std[is_known, target]
        # The deviation of a class follows from its probability; a factor would part the two.
        factor = 1.0 if model.scales[target].is_class else std_factor(error, own)
        scores = residual_scores(error, own * factor)
        calibration[column] = {
            "n_calibration": int(is_known.sum()),
            "method": "held-out" if folds is None else "folds",
            "std_factor": factor,
            "conformal_factors": quantile_table(scores),
        }
        kept[column] = torch.full((len(graph),), torch.nan)
        kept[column][is_known] = scores.float()
    model.card["calibration"] = calibration
    model.calibration_rows = CalibrationRows(
        features=raw.features.float(),
        families=families(elements_of(graph)),
        scores=kept,
        folds=folds,
    )
