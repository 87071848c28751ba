"""One seed in, named and independent random streams out.

Children are made by name, so adding a stage to a campaign does not shift the draws of the others.
"""

import hashlib

import torch


def child_seed(seed: int, *names: str | int) -> int:
    """Return a seed in [0, 2**63) that depends on ``seed`` and on the path of names."""
    path = "/".join(str(part) for part in (seed, *names))
    digest = hashlib.sha256(path.encode()).digest()
    return int.from_bytes(digest[:8], "little") >> 1


def child(seed: int, *names: str | int, device: str | torch.device = "cpu") -> torch.Generator:
    """Return a torch generator for the stream called ``names`` below ``seed``."""
    return torch.Generator(device=device).manual_seed(child_seed(seed, *names))
