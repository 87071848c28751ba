"""What a generator is: a thing that turns a request into crystals."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Bool
from torch import Tensor

from matmill.crystals.batch import CrystalBatch
from matmill.errors import InputError
from matmill.registry import generators

ASSETS = Path(__file__).parents[1] / "assets" / "generators"


@dataclass(frozen=True, kw_only=True)
class GenerationRequest:
    """What to generate. Everything but ``n`` is optional, and any subset may be combined.

    Attributes:
        n: How many crystals.
        elements: Symbols that may occur; others may not. None allows all trained ones.
        exclude: Symbols that may not occur.
        formula: Atoms of each element in a formula unit: the composition is then fixed.
        n_atoms: Smallest and largest number of atoms in the primitive cell.
        conditions: Column (``"band_gap_ev"``) to a value, or to a (low, high) window.
        space_group: Number 1..230 to aim at.
        crystal_system: ``"cubic"`` … ``"triclinic"`` to aim at.
        guidance: Weight of the conditions; 0 ignores them, 1 follows the model, more exaggerates.
        n_steps: Network steps from noise to crystal.
        screen: Draw crystals with overlapping atoms again, a few times; False returns them raw.
        seeds: Crystals to start from, used in turn.
        strength: How far to go from the seeds: 0 keeps them, 1 forgets them.
        keep_elements: With seeds, keep each site's element.
        free_atoms: With one seed, the atoms to invent, ``(n_atoms,)``; the rest stays where it is.
        free_lattice: With ``free_atoms``, whether the cell may change.
    """

    n: int
    elements: tuple[str, ...] | None = None
    exclude: tuple[str, ...] = ()
    formula: dict[str, int] | None = None
    n_atoms: tuple[int, int] | None = None
    conditions: dict[str, float | tuple[float, float]] = field(default_factory=dict)
    space_group: int | None = None
    crystal_system: str | None = None
    guidance: float = 1.5
    n_steps: int = 50
    screen: bool = True
    seeds: CrystalBatch | None = None
    strength: float = 0.3
    keep_elements: bool = True
    free_atoms: Bool[Tensor, " n_atoms"] | None = None
    free_lattice: bool = False

    def __post_init__(self) -> None:
        if self.n < 0:
            raise InputError(f"n is {self.n}; ask for 0 crystals or more.")
        if self.n_atoms and not 1 <= self.n_atoms[0] <= self.n_atoms[1]:
            raise InputError(f"n_atoms is {self.n_atoms}; give 1 <= smallest <= largest.")
        if not 0.0 <= self.strength <= 1.0:
            raise InputError(f"strength is {self.strength}; give a number from 0 to 1.")
        if self.n_steps < 1:
            raise InputError(f"n_steps is {self.n_steps}; give at least 1.")
        if self.formula is not None and self.seeds is not None:
            raise InputError("Give a formula or seeds, not both.")
        if self.free_atoms is not None and (self.seeds is None or len(self.seeds) != 1):
            raise InputError("free_atoms needs exactly one seed crystal.")


@runtime_checkable
class Generator(Protocol):
    """Anything that proposes crystals."""

    name: str
    card: dict[str, Any]

    @property
    def hash(self) -> str:
        """Content hash of the weights, for provenance."""
        ...

    def check(self, request: GenerationRequest) -> list[str]:
        """Return warnings about a request; raise InputError for one that cannot be met."""
        ...

    def sample(
        self,
        request: GenerationRequest,
        rng: torch.Generator,
        on_batch: Callable[[CrystalBatch], None] | None = None,
    ) -> CrystalBatch:
        """Return ``request.n`` crystals; ``on_batch`` sees them as they are finished."""
        ...


def load_generator(name_or_path: str | Path = "flow", *, device: str = "cpu") -> Generator:
    """Return a generator by registered name, or the one trained into a checkpoint file.

    A registered object with ``load(device=...)`` is loaded, any other is called.

    Raises:
        UnknownNameError: If nobody registered the name.
        DataError: If the weights are missing or damaged.
    """
    path = Path(name_or_path)
    if path.suffix == ".safetensors" or (path / "generator.safetensors").exists():
        from matmill.generate.flow import FlowGenerator

        file = path / "generator.safetensors" if path.is_dir() else path
        return FlowGenerator.load(file, device=device)
    plugin = generators.load(str(name_or_path))
    return plugin.load(device=device) if hasattr(plugin, "load") else plugin()
