"""Crystals that the tests of the descriptors share, and how to change a cell but not a crystal."""

import itertools

import torch

from matmill.crystals.batch import CrystalBatch, concatenate
from matmill.crystals.periodic import wrap


def crystal(cell, sites, name="") -> CrystalBatch:
    """One crystal from rows of lattice vectors in Å and ``(Z, x, y, z)`` of each atom."""
    batch = CrystalBatch.from_lists([cell], [[s[1:] for s in sites]], [[s[0] for s in sites]])
    return batch.with_ids([name])


def cubic(a: float) -> list[list[float]]:
    return [[a, 0, 0], [0, a, 0], [0, 0, a]]


def hexagonal(a: float, c: float) -> list[list[float]]:
    return [[a, 0, 0], [-a / 2, a * 3**0.5 / 2, 0], [0, 0, c]]


FCC = [(0, 0, 0), (0, 0.5, 0.5), (0.5, 0, 0.5), (0.5, 0.5, 0)]


def rock_salt(a=5.64, cation=11, anion=17) -> CrystalBatch:
    sites = [(cation, *p) for p in FCC] + [(anion, p[0] + 0.5, p[1], p[2]) for p in FCC]
    return crystal(cubic(a), sites, "rock salt")


def diamond(a=3.567) -> CrystalBatch:
    sites = [(6, *p) for p in FCC] + [(6, *(x + 0.25 for x in p)) for p in FCC]
    return crystal(cubic(a), sites, "diamond")


def fcc(a=3.61, z=29) -> CrystalBatch:
    return crystal(cubic(a), [(z, *p) for p in FCC], "fcc")


def simple_cubic(a=3.35, z=42) -> CrystalBatch:
    return crystal(cubic(a), [(z, 0, 0, 0)], "simple cubic")


def graphite(a=2.46, c=6.71) -> CrystalBatch:
    sites = [(6, 0, 0, 0.25), (6, 1 / 3, 2 / 3, 0.25), (6, 0, 0, 0.75), (6, 2 / 3, 1 / 3, 0.75)]
    return crystal(hexagonal(a, c), sites, "graphite")


def mos2_layer(c=25.0, a=3.19, half=1.56, z=0.4) -> CrystalBatch:
    """One layer of MoS2 in a cell with vacuum, its Mo at height ``z`` of the cell."""
    sites = [
        (42, 1 / 3, 2 / 3, z),
        (16, 2 / 3, 1 / 3, z + half / c),
        (16, 2 / 3, 1 / 3, z - half / c),
    ]
    return crystal(hexagonal(a, c), sites, "MoS2")


def chain() -> CrystalBatch:
    """A zigzag chain of selenium along c."""
    return crystal(
        [[9.0, 0, 0], [0, 9.0, 0], [0, 0, 3.6]], [(34, 0.5, 0.5, 0), (34, 0.66, 0.5, 0.5)], "chain"
    )


def molecule() -> CrystalBatch:
    """A water molecule in a box, across the cell border."""
    sites = [(8, 0.0, 0.0, 0.0), (1, 0.0757, 0.0587, 0.0), (1, -0.0757, 0.0587, 0.0)]
    return crystal(cubic(10.0), sites, "water")


def known_crystals() -> CrystalBatch:
    parts = [rock_salt(), diamond(), fcc(), simple_cubic(), graphite(), mos2_layer()]
    return concatenate([*parts, chain(), molecule()])


def rotated(batch: CrystalBatch, rotation: torch.Tensor) -> CrystalBatch:
    return CrystalBatch(
        lattice=batch.lattice @ rotation,
        frac_coords=batch.frac_coords,
        atomic_numbers=batch.atomic_numbers,
        n_atoms=batch.n_atoms,
        ids=batch.ids,
    )


def translated(batch: CrystalBatch, step: torch.Tensor) -> CrystalBatch:
    return CrystalBatch(
        lattice=batch.lattice,
        frac_coords=wrap(batch.frac_coords + step),
        atomic_numbers=batch.atomic_numbers,
        n_atoms=batch.n_atoms,
        ids=batch.ids,
    )


def reversed_atoms(batch: CrystalBatch) -> CrystalBatch:
    """The same crystals with their atoms in the opposite order."""
    rows = torch.cat(
        [
            torch.arange(len(batch.atomic_numbers))[batch.atoms_of(i)].flip(0)
            for i in range(len(batch))
        ]
    )
    return CrystalBatch(
        lattice=batch.lattice,
        frac_coords=batch.frac_coords[rows],
        atomic_numbers=batch.atomic_numbers[rows],
        n_atoms=batch.n_atoms,
        ids=batch.ids,
    )


def supercell(batch: CrystalBatch, times: tuple[int, int, int]) -> CrystalBatch:
    steps = torch.tensor(list(itertools.product(*(range(n) for n in times)))).double()
    scale = torch.tensor(times).double()
    parts = []
    for i in range(len(batch)):
        rows = batch.atoms_of(i)
        coords = (batch.frac_coords[rows][:, None] + steps) / scale
        parts.append(
            CrystalBatch(
                lattice=(batch.lattice[i] * scale[:, None])[None],
                frac_coords=coords.reshape(-1, 3),
                atomic_numbers=batch.atomic_numbers[rows].repeat_interleave(len(steps)),
                n_atoms=batch.n_atoms[i : i + 1] * len(steps),
                ids=batch.ids[i : i + 1],
            )
        )
    return concatenate(parts)
