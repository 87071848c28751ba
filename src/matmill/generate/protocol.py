"""What a generator is: a thing that turns a request into crystals."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from matmill.crystals.batch import CrystalBatch
from matmill.errors import InputError
from matmill.registry import generators
from matmill.training.checkpoint import card_path
from matmill.training.precision import Precision

ASSETS = Path(__file__).parents[1] / "assets" / "generators"


@dataclass(frozen=True, kw_only=True)
class GenerationRequest:
    """What to generate. Everything but ``n`` is optional, and any subset may be combined.

    Attributes:
        n: How many crystals.
        elements: Symbols that may occur; others may not. None allows all trained ones.
        system: Symbols that must all occur, and no others.
        exclude: Symbols that may not occur.
        formula: Atoms of each element in a formula unit: the composition is then fixed.
        n_atoms: Smallest and largest number of atoms in the primitive cell.
        conditions: Column (``"band_gap_ev"``) to a value, or to a (low, high) window.
        space_group: Number 1..230 to aim at.
        crystal_system: ``"cubic"`` … ``"triclinic"`` to aim at.
        symmetry: ``soft`` aims at the space group by guidance; ``hard`` starts on its orbits and
            stays there.
        guidance: Weight of the conditions; 0 ignores them, 1 follows the model, more exaggerates.
        scales: Weights of single conditions: columns, ``elements`` or ``symmetry``. With any,
            conditions act one by one, and those without have ``guidance``.
        schedule: ``constant`` weights, or ``dynamic`` ones that fade as a condition is met.
        n_steps: Network steps from noise to crystal.
        screen: Draw crystals with overlapping atoms again, a few times; False returns them raw.
        seeds: Crystals to start from, used in turn.
        strength: How far to go from the seeds: 0 keeps them, 1 forgets them.
        keep_elements: With seeds, keep each site's element.
        decorate: With seeds, keep sites and cells and find all elements anew.
        free_atoms: With one seed, the atoms that may move, ``(n_atoms,)``; the rest stays.
        free_types: With ``free_atoms``, the atoms whose element is found anew, ``(n_atoms,)``;
            None means those that may move.
        free_lattice: With ``free_atoms``, whether the cell may change.
    """

    n: int
    elements: tuple[str, ...] | None = None
    system: tuple[str, ...] | None = None
    exclude: tuple[str, ...] = ()
    formula: dict[str, int] | None = None
    n_atoms: tuple[int, int] | None = None
    conditions: dict[str, float | tuple[float, float]] = field(default_factory=dict)
    space_group: int | None = None
    crystal_system: str | None = None
    symmetry: Literal["soft", "hard"] = "soft"
    guidance: float = 1.5
    scales: dict[str, float] = field(default_factory=dict)
    schedule: Literal["constant", "dynamic"] = "constant"
    n_steps: int = 50
    screen: bool = True
    seeds: CrystalBatch | None = None
    strength: float = 0.3
    keep_elements: bool = True
    decorate: bool = False
    free_atoms: Bool[Tensor, " n_atoms"] | None = None
    free_types: Bool[Tensor, " n_atoms"] | None = None
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
        if self.symmetry not in ("soft", "hard"):
            raise InputError(f"symmetry is '{self.symmetry}'; give soft or hard.")
        if self.schedule not in ("constant", "dynamic"):
            raise InputError(f"schedule is '{self.schedule}'; give constant or dynamic.")
        if self.system is not None and (self.formula or self.elements):
            raise InputError("Give system alone: it says all that elements or a formula would.")
        self._check_seeds()

    def _check_seeds(self) -> None:
        if self.formula is not None and self.seeds is not None:
            raise InputError("Give a formula or seeds, not both.")
        if self.decorate and (self.seeds is None or self.free_atoms is not None):
            raise InputError("decorate needs seeds whose sites all stay: give no free_atoms.")
        if self.free_types is not None and self.free_atoms is None:
            raise InputError("free_types needs free_atoms.")
        if self.free_atoms is None:
            return
        if self.seeds is None or len(self.seeds) != 1:
            raise InputError("free_atoms needs exactly one seed crystal.")
        n = int(self.seeds.n_atoms[0])
        for name in ("free_atoms", "free_types"):
            mask = getattr(self, name)
            if mask is not None and len(mask) != n:
                raise InputError(f"{name} has {len(mask)} entries for a seed of {n} atoms.")


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


@runtime_checkable
class ConditionalGenerator(Generator, Protocol):
    """A generator that can be asked for another value of a property in each crystal."""

    def sample_conditions(
        self,
        values: dict[str, Float[Tensor, " n"]],
        rng: torch.Generator,
        request: GenerationRequest | None = None,
        on_batch: Callable[[CrystalBatch], None] | None = None,
    ) -> CrystalBatch:
        """Return one crystal for each row of ``values``, in their order.

        Args:
            values: Column to what each crystal is asked for, in the column's unit.
            rng: Source of randomness; the same state gives the same crystals.
            request: What all of them are asked for besides; its ``n`` is that of the rows.
            on_batch: Sees crystals as they are finished.

        Raises:
            InputError: If a column was not trained, a value is not finite, or lengths differ.
        """
        ...


def check_values(
    values: dict[str, Float[Tensor, " n"]],
    request: GenerationRequest | None,
    ranges: Mapping[str, tuple[float, float, int]],
) -> GenerationRequest:
    """Return the request for as many crystals as there are values.

    Raises:
        InputError: If a column was not trained, a value is not finite, or lengths differ.
    """
    sizes = {column: len(each) for column, each in values.items()}
    if not sizes:
        raise InputError("No values are given: name at least one column, or call sample.")
    if len(set(sizes.values())) > 1:
        raise InputError(f"Columns have different numbers of values: {sizes}.")
    for column, each in values.items():
        if ranges.get(column, (0.0, 0.0, 0))[2] < 2:
            known = ", ".join(ranges) or "no property"
            raise InputError(f"This generator was not trained on '{column}'. It knows: {known}.")
        if not bool(torch.isfinite(each).all()):
            raise InputError(f"Some values of '{column}' are not finite; leave those rows out.")
    n = next(iter(sizes.values()))
    if request is None:
        return GenerationRequest(n=n)
    if request.n != n:
        raise InputError(f"The request is for {request.n} crystals, the values are for {n}.")
    if both := sorted(set(values) & set(request.conditions)):
        raise InputError(f"{', '.join(both)} is asked for twice: of all and of each crystal.")
    return request


def load_generator(
    name_or_path: str | Path = "flow",
    *,
    device: str = "cpu",
    adapters: Sequence[Path] = (),
    precision: Precision = "auto",
) -> Generator:
    """Return a generator by registered name, or the one trained into a checkpoint file.

    A registered object with ``load(device=...)`` is loaded, any other is called.

    Args:
        name_or_path: Which.
        device: Where to run.
        adapters: Files of adapters that were made for it.
        precision: ``auto``, ``bf16`` or ``fp32``, of a flow.

    Raises:
        UnknownNameError: If nobody registered the name.
        InputError: If it takes no adapters, and some were given.
        DataError: If the weights are missing or damaged, or an adapter was made for others.
    """
    from matmill.generate.flow import FlowGenerator

    path = Path(name_or_path)
    if path.suffix == ".safetensors" or (path / "generator.safetensors").exists():
        file = path / "generator.safetensors" if path.is_dir() else path
        if kind_of(file) == "concdvae":
            from matmill.generate.cdvae.generator import CdvaeGenerator

            _refuse_adapters(file, adapters)
            return CdvaeGenerator.load(file, device=device)
        return FlowGenerator.load(file, device=device, adapters=adapters, precision=precision)
    plugin = generators.load(str(name_or_path))
    if plugin is FlowGenerator:
        return FlowGenerator.load(device=device, adapters=adapters, precision=precision)
    _refuse_adapters(name_or_path, adapters)
    return plugin.load(device=device) if hasattr(plugin, "load") else plugin()


def kind_of(path: Path) -> str:
    """Return the kind on the card beside a checkpoint; empty where it cannot be read."""
    try:
        card = json.loads(card_path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return ""  # whoever loads the file says what is wrong with it
    return str(card.get("kind", "")) if isinstance(card, dict) else ""


def _refuse_adapters(name: str | Path, adapters: Sequence[Path]) -> None:
    if adapters:
        raise InputError(f"The generator '{name}' takes no adapters; those extend flows.")
