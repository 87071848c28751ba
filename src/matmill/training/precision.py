"""Whether bfloat16 matrix products pay on this machine: measured, not guessed from flags."""

import time
from functools import lru_cache
from typing import Literal

import torch

Precision = Literal["auto", "bf16", "fp32"]
_WORTHWHILE = 1.5  # below this, the casts around the products eat the gain
_BUDGET_SECONDS = 0.05


@lru_cache(maxsize=8)
def bf16_speedup(device_type: str = "cpu") -> float:
    """Return how many times faster bfloat16 products are than float32 ones (about 50 ms)."""
    device = torch.device(device_type)
    if device.type == "cuda" and not torch.cuda.is_bf16_supported(including_emulation=False):
        return 0.0
    rng = torch.Generator().manual_seed(0)
    a = torch.randn(512, 256, generator=rng).to(device)
    b = torch.randn(256, 256, generator=rng).to(device)
    best = {torch.float32: float("inf"), torch.bfloat16: float("inf")}
    operands = {dtype: (a.to(dtype), b.to(dtype)) for dtype in best}
    start = time.perf_counter()
    n_rounds = 0
    # Alternate and keep the fastest: a busy neighbour then disturbs both alike.
    while n_rounds < 3 or time.perf_counter() - start < _BUDGET_SECONDS:
        for dtype, (x, y) in operands.items():
            began = time.perf_counter()
            _ = x @ y
            if device.type == "cuda":
                torch.cuda.synchronize()
            best[dtype] = min(best[dtype], time.perf_counter() - began)
        n_rounds += 1
    return best[torch.float32] / best[torch.bfloat16]


def choose(precision: Precision, device_type: str = "cpu") -> Literal["bf16", "fp32"]:
    """Return the precision to compute in; ``auto`` measures it once per process."""
    if precision != "auto":
        return precision
    return "bf16" if bf16_speedup(device_type) >= _WORTHWHILE else "fp32"
