"""What a trained ensemble gets before use: the bounds of its domain and its calibration."""

import torch
from torch import Tensor

from matmill.errors import DataError
from matmill.graphs.graph import Graph
from matmill.predict.calibrate import quantile_table, residual_scores, std_factor
from matmill.predict.ensemble import EnsembleModel, chunks, shortest_bond


def describe_domain(model: EnsembleModel, graph: Graph) -> None:
    """Store the usual bond lengths and the spread of the learned features of training graphs."""
    if graph.distance.shape[1]:
        bonds = shortest_bond(graph).double()
        # The outermost in a thousand on each side are more often slips than chemistry.
        ends = bonds.quantile(torch.tensor([0.001, 0.999]).double()).tolist()
        model.card["shortest_bond_angstrom"] = [round(end, 3) for end in ends]
    with torch.no_grad():
        network = model.members[0]
        features = torch.cat([network.embedding(g) for g in chunks(graph)]).double()  # pyright: ignore[reportCallIssue]
    mean = features.mean(0)
    covariance = torch.cov(features.T) if len(features) > 1 else torch.eye(len(mean)).double()
    # A floor on the variances: directions that hardly vary must not decide.
    values, vectors = torch.linalg.eigh(covariance)
    whitener = vectors / values.clamp_min(1e-3 * float(values.max())).sqrt()
    model.domain = {"mean": mean, "whitener": whitener.contiguous()}


def calibrate_model(model: EnsembleModel, graph: Graph, labels: Tensor) -> None:
    """Set error-bar factors, conformal factors and the limit of the domain from held-out rows."""
    raw = model.raw(graph)
    model.card["domain_limit"] = float(raw.distance.quantile(0.99))
    calibration = {}
    for target, column in enumerate(model.columns):
        is_known = torch.isfinite(labels[:, target])
        if not bool(is_known.any()):
            raise DataError(f"No validation row has a value of '{column}'; check the split column.")
        error = raw.mean[is_known, target] - labels[is_known, target].double()
        std = raw.std[is_known, target]
        factor = std_factor(error, std)
        calibration[column] = {
            "n_calibration": int(is_known.sum()),
            "std_factor": factor,
            "conformal_factors": quantile_table(residual_scores(error, std * factor)),
        }
    model.card["calibration"] = calibration
