"""Which columns to keep: much about the target, little about each other.

Columns are cut into bins of equal count. The joint counts of all pairs of columns are then one
product of 0/1 matrices, so that the mutual information of every pair takes seconds, not minutes.
"""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

N_BINS = 16
_LEAST_ENTROPY = 0.2  # nats; a column below it takes one value nearly everywhere
_BLOCK_COLUMNS = 64
_PAIR_ROWS = 1500  # rows that tell the overlap of two columns well enough


def binned(columns: Float[Tensor, "n n_columns"]) -> Int[Tensor, "n n_columns"]:
    """Return the bin of each value: 16 of about equal count, equal values in the same bin.

    Unknown values (NaN) are a bin of their own, number 16.
    """
    n = len(columns)
    ordered = columns.double().sort(dim=0).values  # NaN come last
    known = (~columns.isnan()).sum(0)
    # Edges are quantiles of the known values; ties never straddle an edge.
    share = torch.arange(1, N_BINS, dtype=torch.float64)[:, None] / N_BINS
    place = (share * known).long().clamp(0, n - 1)
    edges = ordered.gather(0, place).nan_to_num(nan=torch.inf)
    bins = torch.searchsorted(edges.T.contiguous(), columns.double().T.contiguous(), right=True).T
    return torch.where(columns.isnan(), N_BINS, bins)


def entropies(bins: Int[Tensor, "n n_columns"]) -> Float[Tensor, " n_columns"]:
    """Return the entropy of each binned column in nats."""
    shares = _one_hot(bins).mean(0, dtype=torch.float64)
    return -_x_log_x(shares).sum(-1)


def mutual_information(
    bins: Int[Tensor, "n n_columns"], others: Int[Tensor, "n n_others"]
) -> Float[Tensor, "n_columns n_others"]:
    """Return the mutual information of each pair of binned columns, in nats."""
    n = len(bins)
    right = _one_hot(others)
    n_others, n_bins = right.shape[1:]
    flat = right.reshape(n, -1)
    parts = []
    for block in bins.split(_BLOCK_COLUMNS, dim=1):
        left = _one_hot(block)
        # Counts are whole numbers below 2²⁴: exact in single precision.
        joint = left.reshape(n, -1).T @ flat
        shares = joint.view(left.shape[1], n_bins, n_others, n_bins) / n
        parts.append(_x_log_x(shares).sum((1, 3), dtype=torch.float64))
    joint_entropy = -torch.cat(parts)
    information = entropies(bins)[:, None] + entropies(others)[None, :] - joint_entropy
    return information.clamp_min(0.0)


def normalised_information(
    information: Float[Tensor, "n_columns n_others"],
    left: Float[Tensor, " n_columns"],
    right: Float[Tensor, " n_others"],
) -> Float[Tensor, "n_columns n_others"]:
    """Return mutual information over the mean of the two entropies, in [0, 1]."""
    return information / (0.5 * (left[:, None] + right[None, :])).clamp_min(1e-12)


def usable(columns: Float[Tensor, "n n_columns"]) -> Bool[Tensor, " n_columns"]:
    """Return which columns vary, carry an entropy of 0.2 nats, and repeat no earlier column."""
    bins = binned(columns)
    entropy = entropies(bins)
    is_usable = entropy >= _LEAST_ENTROPY
    seen: set[bytes] = set()
    values = columns.float().nan_to_num(nan=3.0e38).T.contiguous()
    for place in torch.nonzero(is_usable).flatten().tolist():
        content = values[place].numpy().tobytes()
        is_usable[place] = content not in seen
        seen.add(content)
    return is_usable


def ranked(
    columns: Float[Tensor, "n n_columns"], target: Float[Tensor, " n"], n_wanted: int
) -> Int[Tensor, " n_chosen"]:
    """Return the numbers of the best columns, best first; see `usable` for those left out.

    The first shares most information with the target; each next one has the largest
    ``min_s NMI(x, y) / (NMI(x, s)^p + c)`` over those chosen before, where p falls and c rises with
    their number, so that in the end relevance alone counts.

    Args:
        columns: NaN where unknown.
        target: Values or classes of the rows.
        n_wanted: How many to return at most.

    Source:
        De Breuck et al., Materials property prediction for limited datasets enabled by feature
        selection and joint learning with MODNet (2021), equations 1 to 3.
    """
    candidates = torch.nonzero(usable(columns)).flatten()
    if not len(candidates):
        return candidates
    bins, goal = binned(columns[:, candidates]), binned(target[:, None])
    own, goal_entropy = entropies(bins), entropies(goal)
    relevance = mutual_information(bins, goal)
    relevance = normalised_information(relevance, own, goal_entropy)[:, 0]
    shared = _shared(bins[:: -(-len(bins) // _PAIR_ROWS)])
    chosen = [int(relevance.argmax())]
    # The largest overlap with a chosen column decides, whatever p and c are.
    overlap = shared[:, chosen[0]].clone()
    is_left = torch.ones(len(candidates), dtype=torch.bool)
    is_left[chosen[0]] = False
    while len(chosen) < min(n_wanted, len(candidates)):
        n = len(chosen)
        power, constant = max(0.1, 4.5 - 0.4 * n**0.4), min(1e5, 1e-6 * n**3)
        score = relevance / (overlap.pow(power) + constant + 1e-12)
        best = int(score.masked_fill(~is_left, -torch.inf).argmax())
        chosen.append(best)
        is_left[best] = False
        overlap = torch.maximum(overlap, shared[:, best])
    return candidates[chosen]


def _shared(bins: Int[Tensor, "n n_columns"]) -> Float[Tensor, "n_columns n_columns"]:
    """Return the normalised information of each pair of columns, each pair computed once."""
    n_columns = bins.shape[1]
    own = entropies(bins)
    shared = torch.zeros(n_columns, n_columns, dtype=torch.float64)
    for start in range(0, n_columns, _BLOCK_COLUMNS):
        stop = min(start + _BLOCK_COLUMNS, n_columns)
        block = mutual_information(bins[:, start:stop], bins[:, start:])
        block = normalised_information(block, own[start:stop], own[start:])
        shared[start:stop, start:] = block
        shared[start:, start:stop] = block.T
    return shared


def _one_hot(bins: Int[Tensor, "n n_columns"]) -> Float[Tensor, "n n_columns n_bins"]:
    """Return zeros and ones in float32; the last bin is that of unknown values."""
    return torch.zeros(*bins.shape, N_BINS + 1).scatter_(2, bins[..., None], 1.0)


def _x_log_x(shares: Tensor) -> Tensor:
    return torch.xlogy(shares, shares)
