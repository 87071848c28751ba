"""Families of compounds by their anion: groups within which intervals are calibrated."""

import torch
from jaxtyping import Float, Int
from torch import Tensor

# In order: a compound belongs to the first family of which it has an element. Oxygen comes before
# the halogens so that oxyhalides count as oxides, the larger family.
FAMILIES = {
    "oxide": (8,),
    "halide": (9, 17, 35, 53, 85),
    "chalcogenide": (16, 34, 52, 84),
    "pnictide": (7, 15, 33, 51),
    "hydride, boride, carbide": (1, 5, 6),
    "intermetallic": (),
}


def families(elements: Float[Tensor, "n_crystals 119"]) -> Int[Tensor, " n_crystals"]:
    """Return the family of each crystal, its place in `FAMILIES`.

    Args:
        elements: Amount of each element, column = atomic number; anything above 0 counts.
    """
    found = torch.full((len(elements),), len(FAMILIES) - 1)
    for place, members in reversed(list(enumerate(FAMILIES.values()))):
        if members:
            found[(elements.cpu()[:, list(members)] > 0).any(1)] = place
    return found
