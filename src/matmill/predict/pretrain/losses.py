"""Losses that compare two views of the same crystals, with and without class labels.

``first`` and ``second`` are the projections of the two views, row by row of the same crystal,
``(n, d)``. Labels are class numbers from 0; -1 is unknown.
"""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional

Views = Float[Tensor, "n d"]
Labels = Int[Tensor, " n"]
UNKNOWN = -1


def simclr(first: Views, second: Views, *, temperature: float = 0.2) -> Float[Tensor, ""]:
    """Return the contrastive loss: each view finds its other among all 2n - 1.

    Source:
        Chen et al., SimCLR (2020), equation 1 (NT-Xent).
    """
    unknown = torch.full((len(first),), UNKNOWN, device=first.device)
    return supervised_simclr(first, second, unknown, temperature=temperature)


def supervised_simclr(
    first: Views, second: Views, labels: Labels, *, temperature: float = 0.2
) -> Float[Tensor, ""]:
    """Return the contrastive loss where all views of a class belong together.

    A crystal of unknown class belongs with its other view only, so without labels this is
    `simclr`.

    Source:
        Khosla et al., Supervised contrastive learning (2020), equation 2.
    """
    n = len(first)
    views = functional.normalize(torch.cat([first, second]).float(), dim=1)
    similarity = views @ views.T / temperature
    itself = torch.eye(2 * n, dtype=torch.bool, device=views.device)
    log_share = similarity - similarity.masked_fill(itself, -torch.inf).logsumexp(1, keepdim=True)
    belongs = _same_class(labels).repeat(2, 2)
    crystal = torch.arange(n, device=views.device).repeat(2)
    belongs = (belongs | (crystal[:, None] == crystal)) & ~itself
    own = log_share.masked_fill(~belongs, 0.0).sum(1) / belongs.sum(1)
    return -own.mean()


def barlow(first: Views, second: Views, *, off_weight: float = 0.0051) -> Float[Tensor, ""]:
    """Return the redundancy loss: features of the two views agree, and are uncorrelated.

    Source:
        Zbontar et al., Barlow Twins (2021), equation 1; weight as in Crystal Twins (2022).
    """
    n, d = first.shape
    correlation = _standardised(first).T @ _standardised(second) / n
    on = (correlation.diagonal() - 1.0).square().sum()
    is_off = ~torch.eye(d, dtype=torch.bool, device=first.device)
    return on + off_weight * correlation[is_off].square().sum()


def supervised_barlow(
    first: Views, second: Views, labels: Labels, *, other_weight: float = 1.0
) -> Float[Tensor, ""]:
    """Return the sample-wise form: crystals of a class are alike, those of two classes are not.

    Pairs with a crystal of unknown class count on neither side. Alone it draws each class to a
    point; mix it with an unsupervised loss.

    Source:
        Supervised Pretraining for Material Property Prediction (SPMat, 2025); each side is
        divided by its number of pairs, which is our choice.
    """
    one = functional.normalize(_standardised(first), dim=1)
    two = functional.normalize(_standardised(second), dim=1)
    similarity = one @ two.T
    is_known = labels >= 0
    is_same = _same_class(labels)
    is_other = is_known[:, None] & is_known & ~is_same
    near = ((1.0 - similarity).square() * is_same).sum() / is_same.sum().clamp_min(1)
    far = (similarity.square() * is_other).sum() / is_other.sum().clamp_min(1)
    return near + other_weight * far


def _same_class(labels: Labels) -> Bool[Tensor, "n n"]:
    return (labels[:, None] == labels) & (labels >= 0)


def _standardised(values: Views) -> Views:
    """Return each feature with mean 0 and variance 1 over the rows, without trained factors."""
    values = values.float()
    spread = values.var(0, unbiased=False)
    return (values - values.mean(0)) * torch.rsqrt(spread + 1e-5)
