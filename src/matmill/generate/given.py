"""What a request gives of each crystal: a composition, a seed to start from, parts that stay."""

from dataclasses import replace
from typing import Any

import torch

from matmill.crystals.batch import CrystalBatch
from matmill.crystals.elements import number
from matmill.crystals.periodic import wrap
from matmill.generate.protocol import GenerationRequest
from matmill.generate.sample import Start
from matmill.generate.state import LatticeScale, to_dense
from matmill.generate.streams import Streams


def start_of(request: GenerationRequest, n: int, own: Streams, scale: LatticeScale) -> Start:
    """Return where crystals of one size begin, and what of them is free.

    Args:
        request: With a formula, with seeds, or with neither.
        n: Atoms of each crystal.
        own: One stream for each crystal.
        scale: Of the network's lattice numbers.
    """
    b = len(own)
    start = Start.nothing(b, n)
    if request.formula is not None:
        unit = [number(s) for s, count in request.formula.items() for _ in range(count)]
        z = torch.tensor(unit).repeat(n // len(unit)).repeat(b, 1)
        return replace(
            start,
            clean=replace(start.clean, z=z),
            free_types=torch.zeros(b, n, dtype=torch.bool),
        )
    if request.seeds is None:
        return start
    seeds = request.seeds.select(own.crystal % len(request.seeds))
    ((_, clean),) = to_dense(seeds, scale).values()
    return replace(start, clean=clean, **_free_parts(request, b, n))


def _free_parts(request: GenerationRequest, b: int, n: int) -> dict[str, Any]:
    """Return which parts of given crystals are free, and the time to begin at."""
    if request.decorate:
        return {
            "free_sites": torch.zeros(b, n, dtype=torch.bool),
            "free_lattice": torch.zeros(b, dtype=torch.bool),
        }
    if request.free_atoms is None:
        return {
            "free_types": torch.full((b, n), not request.keep_elements),
            "time": 1.0 - request.strength,
        }
    types = request.free_atoms if request.free_types is None else request.free_types
    return {
        "free_types": types.bool().repeat(b, 1),
        "free_sites": request.free_atoms.bool().repeat(b, 1),
        "free_lattice": torch.full((b,), request.free_lattice),
    }


def with_given(
    batch: CrystalBatch, seeds: CrystalBatch, start: Start, own: Streams
) -> CrystalBatch:
    """Return the crystals with what was fixed as it was given, in its orientation and precision."""
    given = seeds.select(own.crystal % len(seeds)).to("cpu", torch.float64)
    free_lattice, free_sites = start.free_lattice.cpu(), start.free_sites.cpu()
    return replace(
        batch,
        lattice=torch.where(free_lattice[:, None, None], batch.lattice, given.lattice),
        frac_coords=torch.where(
            free_sites.reshape(-1, 1), batch.frac_coords, wrap(given.frac_coords)
        ),
    )
