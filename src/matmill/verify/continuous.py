"""Continuous validity, stability, uniqueness and novelty, and VSUN made of them.

Yes-or-no uniqueness hangs on a tolerance and on the order of the crystals. Here a crystal is as
unique as it is far from the others, on average, and as novel as it is far from the nearest known
one, in a distance scaled to [0, 1].

What has no embedding, no energy or no finite number scores 0 itself and is left out of what the
others are compared with; it stays in the denominator of the mean.

Source:
    Negishi et al., Continuous Uniqueness and Novelty Metrics for Generative Modeling of Inorganic
    Crystals (2025), with the rule for failed embeddings made explicit.
"""

from collections.abc import Sequence
from typing import Literal

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from matmill.crystals.batch import CrystalBatch
from matmill.errors import InputError
from matmill.verify.distances import Embedding, distances, embed
from matmill.verify.known_prints import KnownPrints
from matmill.verify.metrics import Metric, metastable_share, share

UNSTABLE_EV_PER_ATOM = 0.4289
"""Distance to the hull at which the continuous stability reaches 0: the published 99.9th percentile
of MP-20 test."""

SAME = 1e-5
"""Largest scaled distance of two crystals that are one; single-precision coordinates make 1e-6."""

_ROWS_AT_ONCE = 200


def uniqueness_scores(embedding: Embedding) -> Float[Tensor, " n_crystals"]:
    """Return how far each crystal is from all others, on average: continuous uniqueness.

    ``U_i = (1/(n−1)) Σ_{j≠i} d'_ij`` over the n crystals that have an embedding.

    Args:
        embedding: The generated crystals.

    Returns:
        float64 in [0, 1]: 0 for copies of one crystal, 1 for a crystal alone; NaN without an
        embedding. It does not depend on the order.
    """
    n = len(embedding.rows)
    scores = torch.full((len(embedding),), torch.nan, dtype=torch.float64)
    if n == 1:
        scores[embedding.rows] = 1.0
    for start in range(0, n if n > 1 else 0, _ROWS_AT_ONCE):
        part = slice(start, start + _ROWS_AT_ONCE)
        found = distances(embedding, embedding, rows=part)
        # The distance to itself is 0 by definition; rounding must not add to the sum.
        found[torch.arange(len(found)), torch.arange(start, start + len(found))] = 0.0
        scores[embedding.rows[part]] = found.sum(1) / (n - 1)
    return scores


def first_of_group(embedding: Embedding, *, same: float = SAME) -> Bool[Tensor, " n_crystals"]:
    """Return which crystals are the first of their kind: yes-or-no uniqueness.

    Crystals that a chain of distances, each at most ``same``, connects are of one kind. So another
    order changes who comes first, but never how many there are.

    Args:
        embedding: The generated crystals; one that has no embedding is never first.
        same: Largest scaled distance of two that are one.
    """
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    n = len(embedding.rows)
    pairs = [torch.zeros(2, 0, dtype=torch.int64)]
    for start in range(0, n, _ROWS_AT_ONCE):
        part = slice(start, start + _ROWS_AT_ONCE)
        i, j = torch.nonzero(distances(embedding, embedding, rows=part) <= same).T
        pairs.append(torch.stack([i + start, j]))
    i, j = torch.cat(pairs, dim=1).numpy()
    _, label = connected_components(coo_array((np.ones(len(i)), (i, j)), shape=(n, n)))
    _, first = np.unique(label, return_index=True)
    unique = torch.zeros(len(embedding), dtype=torch.bool)
    unique[embedding.rows[torch.from_numpy(first)]] = True
    return unique


def novelty_scores(embedding: Embedding, reference: Embedding) -> Float[Tensor, " n_crystals"]:
    """Return how far the nearest reference is: continuous novelty, ``N_i = min_j d'_ij``.

    For many references use `known_prints.KnownPrints.novelty`.

    Args:
        embedding: The generated crystals.
        reference: Known crystals, embedded by the same distance; those without an embedding are
            left out.

    Returns:
        float64 in [0, 1]: 0 for a known crystal, 1 when nothing is known; NaN without an embedding.
    """
    scores = torch.full((len(embedding),), torch.nan, dtype=torch.float64)
    for start in range(0, len(embedding.rows), _ROWS_AT_ONCE):
        part = slice(start, start + _ROWS_AT_ONCE)
        found = distances(embedding, reference, rows=part)
        scores[embedding.rows[part]] = torch.cat([found, torch.ones(len(found), 1)], dim=1).amin(1)
    return scores


def stability_scores(
    above_hull: Float[Tensor, " n"], *, limit: float = UNSTABLE_EV_PER_ATOM
) -> Float[Tensor, " n"]:
    """Return ``1 − E/limit`` between 0 and 1: 1 on or below the hull, 0 from the limit on.

    Args:
        above_hull: Energies above the hull in eV/atom; NaN scores 0.
        limit: Distance in eV/atom that scores 0, above 0.
    """
    if not limit > 0:
        raise InputError(f"The limit is {limit} eV/atom, but must be above 0.")
    return (1.0 - above_hull.double() / limit).clamp(0.0, 1.0).nan_to_num(nan=0.0)


def vsun_scores(
    validity: Tensor,
    stability: Tensor,
    uniqueness: Tensor,
    novelty: Tensor,
    *,
    weights: Sequence[float] = (1.0, 1.0, 1.0, 1.0),
    how: Literal["product", "mean"] = "product",
) -> Float[Tensor, " n"]:
    """Return one score a crystal from validity, stability, uniqueness and novelty.

    ``V^a S^b U^c N^d``, or ``(aV + bS + cU + dN)/(a + b + c + d)``. A crystal whose uniqueness or
    novelty is not a number has no embedding: it is not valid, and scores 0 in both forms.

    Args:
        validity: In [0, 1], or yes and no, ``(n,)``.
        stability: The same; NaN counts as 0.
        uniqueness: The same; NaN marks a failed embedding.
        novelty: The same.
        weights: a, b, c and d, none negative, not all 0.
        how: Which of the two forms.

    Raises:
        InputError: If the weights are not four, negative or all 0, or a value is outside [0, 1].
    """
    parts = torch.stack([x.double() for x in (validity, stability, uniqueness, novelty)])
    power = torch.tensor(weights, dtype=torch.float64)
    if power.shape != (4,) or not (power >= 0).all() or float(power.sum()) <= 0:
        raise InputError(f"The weights are {tuple(weights)}; give four, none negative, not all 0.")
    if ((parts < 0) | (parts > 1 + 1e-9)).any():
        raise InputError("Validity, stability, uniqueness and novelty must lie between 0 and 1.")
    failed = torch.isnan(parts[2:]).any(0)
    parts = parts.nan_to_num(nan=0.0).clamp(max=1.0)
    if how == "mean":
        scores = (power[:, None] * parts).sum(0) / power.sum()
    else:
        scores = (parts ** power[:, None]).prod(0)
    return scores.masked_fill(failed, 0.0)


def score_metric(name: str, scores: Float[Tensor, " n"]) -> Metric:
    """Return the mean score over all crystals; one without a score counts as 0."""
    total = float(scores.double().nan_to_num(nan=0.0).sum())
    value = total / len(scores) if len(scores) else float("nan")
    return Metric(name=name, value=value, numerator=total, denominator=len(scores))


def continuous_uniqueness(embedding: Embedding) -> Metric:
    """Return the mean continuous uniqueness; a crystal without an embedding counts as 0."""
    return score_metric(f"uniqueness, continuous ({embedding.kind})", uniqueness_scores(embedding))


def continuous_novelty(embedding: Embedding, reference: Embedding) -> Metric:
    """Return the mean continuous novelty; a crystal without an embedding counts as 0."""
    scores = novelty_scores(embedding, reference)
    return score_metric(f"novelty, continuous ({embedding.kind})", scores)


def binary_uniqueness(embedding: Embedding, *, same: float = SAME) -> Metric:
    """Return the share of crystals that are the first of their kind by a distance."""
    return share(f"uniqueness ({embedding.kind})", first_of_group(embedding, same=same))


def vsun(
    validity: Tensor,
    stability: Tensor,
    uniqueness: Tensor,
    novelty: Tensor,
    *,
    weights: Sequence[float] = (1.0, 1.0, 1.0, 1.0),
    how: Literal["product", "mean"] = "product",
) -> Metric:
    """Return the mean of `vsun_scores` over all crystals.

    With yes and no for all four it is the share that is valid, stable, unique and novel.
    """
    scores = vsun_scores(validity, stability, uniqueness, novelty, weights=weights, how=how)
    shown = "/".join(f"{weight:g}" for weight in weights)
    return score_metric(f"VSUN ({how}, weights {shown})", scores)


def vsun_sheet(
    batch: CrystalBatch,
    known: KnownPrints,
    *,
    validity: Bool[Tensor, " n_crystals"],
    above_hull: Float[Tensor, " n_crystals"],
    kind: str = "elmd+amd",
    weights: Sequence[float] = (1.0, 1.0, 1.0, 1.0),
    stable_ev_per_atom: float = 0.1,
) -> list[Metric]:
    """Return validity, stability, uniqueness, novelty and VSUN, continuous and by yes and no.

    Args:
        batch: The crystals.
        known: Fingerprints of the crystals that are not new.
        validity: Which are valid, by whatever rules the protocol names.
        above_hull: Energies above the hull, eV/atom; NaN counts as unstable.
        kind: ``"amd"``, ``"elmd"`` or ``"elmd+amd"``.
        weights: Of the four, as in `vsun_scores`.
        stable_ev_per_atom: Largest distance to the hull that counts as stable by yes and no.
    """
    embedding = embed(batch, kind, k=known.amd.shape[1])
    unique, novelty = uniqueness_scores(embedding), known.novelty(batch, kind)
    stability = stability_scores(above_hull)
    first = first_of_group(embedding)
    is_stable = above_hull <= stable_ev_per_atom
    is_new = novelty > SAME
    return [
        share("validity", validity),
        score_metric("stability, continuous", stability),
        score_metric(f"uniqueness, continuous ({kind})", unique),
        score_metric(f"novelty, continuous ({kind})", novelty),
        vsun(validity, stability, unique, novelty, weights=weights),
        metastable_share(above_hull, stable_ev_per_atom),
        share(f"uniqueness ({kind})", first),
        share(f"novelty ({kind})", is_new),
        share(f"VSUN@{stable_ev_per_atom:g} ({kind})", validity & is_stable & first & is_new),
    ]
