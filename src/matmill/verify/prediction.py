"""Structure prediction: how well predicted crystals match the known ones of their composition."""

from collections import defaultdict
from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from matmill.crystals.batch import CrystalBatch
from matmill.crystals.matching import CSP_TOLERANCE, Matcher, MatchTolerance
from matmill.errors import InputError
from matmill.verify.validity import check, smact_valid


def match_distances(
    rounds: Sequence[CrystalBatch],
    truth: CrystalBatch,
    *,
    tolerance: MatchTolerance = CSP_TOLERANCE,
) -> Float[Tensor, "k n"]:
    """Return the RMS of each prediction to its own crystal, NaN where they do not match.

    Args:
        rounds: Predictions, one batch a round; crystal i of each is meant for crystal i of truth.
        truth: The known crystals.
        tolerance: Of the matcher; 0.3/0.5/10 unless given.

    Raises:
        InputError: If a round has another number of crystals.
    """
    theirs = Matcher(truth, tolerance)
    rows = []
    for made in rounds:
        if len(made) != len(truth):
            raise InputError(f"A round has {len(made)} predictions for {len(truth)} crystals.")
        mine = Matcher(made, tolerance)
        rows.append(theirs.distances([(i, i) for i in range(len(truth))], other=mine))
    return torch.from_numpy(np.array(rows)).reshape(len(rounds), len(truth))


def polymorph_distances(
    rounds: Sequence[CrystalBatch],
    truth: CrystalBatch,
    own: Float[Tensor, "k n"],
    *,
    tolerance: MatchTolerance = CSP_TOLERANCE,
) -> Float[Tensor, "k n"]:
    """Return the RMS of the best prediction of the formula to each crystal, NaN where none matches.

    Predictions for other polymorphs of a crystal's reduced formula count as well: who asks for a
    formula cannot say which polymorph. The share of numbers in `best_of` is METRe, their mean with
    the tolerance for NaN cRMSE.

    Args:
        rounds: As for `match_distances`.
        truth: The known crystals, all polymorphs of a formula among them.
        own: What `match_distances` returned.
        tolerance: As for `match_distances`.

    Source:
        Martirossyan et al., All that structure matches does not glitter (2025).
    """
    rows_of: dict[str, list[int]] = defaultdict(list)
    for row, formula in enumerate(truth.formula):
        rows_of[formula].append(row)
    pairs = [(i, j) for rows in rows_of.values() for i in rows for j in rows if j != i]
    place = torch.tensor([i for i, _ in pairs], dtype=torch.int64)
    theirs = Matcher(truth, tolerance)
    best = []
    for made, mine in zip(rounds, own, strict=True):
        values = torch.from_numpy(theirs.distances(pairs, other=Matcher(made, tolerance)))
        lowest = mine.double().nan_to_num(nan=torch.inf)
        lowest = lowest.scatter_reduce(0, place, values.nan_to_num(nan=torch.inf), "amin")
        best.append(torch.where(torch.isinf(lowest), torch.nan, lowest))
    return torch.stack(best) if best else own.clone()


def best_of(values: Float[Tensor, "k n"]) -> Float[Tensor, " n"]:
    """Return the smallest number of each column, NaN where there is none."""
    smallest = values.nan_to_num(nan=torch.inf).amin(0)
    return torch.where(torch.isinf(smallest), torch.nan, smallest)


def both_valid(made: CrystalBatch, truth: CrystalBatch) -> Bool[Tensor, " n"]:
    """Return where both crystals pass the 0.5 Å rule and SMACT's: what published rates count."""
    return _valid(made) & _valid(truth)


def _valid(batch: CrystalBatch) -> Bool[Tensor, " n"]:
    whole = torch.tensor([fate is None for fate in check(batch)], dtype=torch.bool)
    return whole & smact_valid(batch)
