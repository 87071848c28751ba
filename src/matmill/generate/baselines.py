"""What every model must beat: random atoms in random cells of a plausible volume."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from matmill.crystals.batch import CrystalBatch
from matmill.crystals.elements import SYMBOLS, number, table
from matmill.crystals.lattice import from_parameters, minimum_image_distances
from matmill.errors import InputError
from matmill.generate.dataset import NOBLE_GASES
from matmill.generate.plan import Trained, check_request
from matmill.generate.protocol import GenerationRequest

_MAX_ATOMS = 20
_MAX_Z = 94
_PACKING = (
    0.45  # share of the cell that spheres of covalent radius fill; metals 0.5-0.7, salts less
)
_TRIES = 30  # placements of one atom, of which the roomiest is kept


class RandomGenerator:
    """Random crystals: element set, cell shape and sites uniform, volume from covalent radii.

    Each atom goes to the roomiest of a few random places, so atoms do not overlap much; there is
    no chemistry and no symmetry in it. Conditions on properties cannot be met and are refused.
    """

    name = "random"
    hash = "random-1"

    def __init__(self) -> None:
        elements = [z for z in range(1, _MAX_Z + 1) if z not in NOBLE_GASES]
        self.card: dict[str, Any] = {
            "kind": "random",
            "max_atoms": _MAX_ATOMS,
            "elements": elements,
            "conditions": {},
        }
        sizes = torch.arange(1, _MAX_ATOMS + 1)
        self._trained = Trained(
            shapes=torch.stack([sizes, torch.ones_like(sizes), torch.ones_like(sizes)], dim=1),
            elements=tuple(elements),
            ranges={},
            max_atoms=_MAX_ATOMS,
        )

    def check(self, request: GenerationRequest) -> list[str]:
        """Return warnings; random crystals cannot aim at a symmetry.

        Raises:
            InputError: If conditions or seeds are given, or the request is impossible.
        """
        if request.seeds is not None:
            raise InputError("The random generator starts from nothing; use 'flow' with seeds.")
        warnings = check_request(request, self._trained)
        if request.space_group or request.crystal_system:
            warnings.append("The random generator ignores symmetry.")
        return warnings

    def sample(
        self,
        request: GenerationRequest,
        rng: torch.Generator,
        on_batch: Callable[[CrystalBatch], None] | None = None,
    ) -> CrystalBatch:
        """Return ``request.n`` crystals; one call of ``on_batch`` sees them all."""
        self.check(request)
        if not request.n:
            return CrystalBatch.empty()
        z, sizes = self._compositions(request, rng)
        n_atoms = torch.tensor(sizes)
        # Bonded hydrogen is tiny; a crystal of it alone is not.
        radius = table("covalent_radius").nan_to_num(1.5).clamp_min(0.7)[z]
        crystal = torch.repeat_interleave(torch.arange(request.n), n_atoms)
        filled = torch.zeros(request.n, dtype=torch.float64)
        filled.index_add_(0, crystal, 4 / 3 * torch.pi * radius**3)
        lattice = _cells(filled / _PACKING, rng)
        frac = torch.cat(
            [_places(n, lattice[i], rng) for i, n in enumerate(sizes)]  # a baseline, not a hot path
        )
        batch = CrystalBatch(
            lattice=lattice,
            frac_coords=frac,
            atomic_numbers=z,
            n_atoms=n_atoms,
            ids=tuple(f"{self.name}-{i:05d}" for i in range(request.n)),
        )
        if on_batch is not None:
            on_batch(batch)
        return batch

    def _compositions(
        self, request: GenerationRequest, rng: torch.Generator
    ) -> tuple[Tensor, list[int]]:
        def draw(high: int) -> int:
            return int(torch.randint(high, (1,), generator=rng))

        low, high = request.n_atoms or (1, _MAX_ATOMS)
        high = min(high, _MAX_ATOMS)
        parts: list[Tensor] = []
        if request.formula:
            unit = [number(s) for s, count in request.formula.items() for _ in range(count)]
            options = [m for m in range(1, high // len(unit) + 1) if m * len(unit) >= low]
            parts = [
                torch.tensor(unit).repeat(options[draw(len(options))]) for _ in range(request.n)
            ]
        else:
            symbols = request.elements or tuple(SYMBOLS[e] for e in self.card["elements"])
            pool = torch.tensor([number(s) for s in symbols if s not in request.exclude])
            for _ in range(request.n):
                n = low + draw(high - low + 1)
                kinds = pool[torch.randperm(len(pool), generator=rng)[: 1 + draw(4)]]
                parts.append(kinds[torch.randint(len(kinds), (n,), generator=rng)])
        return torch.cat(parts), [len(part) for part in parts]


def _cells(volume: Tensor, rng: torch.Generator) -> Tensor:
    """Return cells of these volumes with random ratios of lengths and angles of 60 to 120°."""
    ratios = torch.exp(0.3 * torch.randn(len(volume), 3, generator=rng, dtype=torch.float64))
    angles = 60 + 60 * torch.rand(len(volume), 3, generator=rng, dtype=torch.float64)
    # Three angles of 120° or more in sum 360° leave no cell: pull such triples towards 90°.
    flat = angles.sum(1, keepdim=True) > 340
    angles = torch.where(flat, 90 + 0.5 * (angles - 90), angles)
    lattice = from_parameters(torch.cat([ratios, angles], dim=1))
    return lattice * (volume / torch.linalg.det(lattice).abs())[:, None, None] ** (1 / 3)


def _places(n: int, lattice: Tensor, rng: torch.Generator) -> Tensor:
    placed = torch.rand(1, 3, generator=rng, dtype=torch.float64)
    for _ in range(n - 1):
        trial = torch.rand(_TRIES, 3, generator=rng, dtype=torch.float64)
        steps = (trial[:, None] - placed[None]).flatten(0, 1)
        distance = minimum_image_distances(steps, lattice.expand(len(steps), 3, 3))
        room = distance.view(_TRIES, -1).amin(1)
        placed = torch.cat([placed, trial[room.argmax()][None]])
    return placed
