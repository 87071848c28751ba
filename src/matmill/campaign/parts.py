"""The models and tables that a campaign works with, bound to their hashes."""

from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Protocol, runtime_checkable

from jaxtyping import Float, Int
from torch import Tensor

from matmill.campaign.plan import HULL_COLUMN
from matmill.campaign.request import Request
from matmill.crystals.batch import CrystalBatch
from matmill.errors import InputError
from matmill.generate.protocol import Generator, load_generator
from matmill.predict.protocol import Predictor, available, load_predictor
from matmill.quantities import QUANTITIES, find
from matmill.registry import potentials
from matmill.verify.potentials import Potential


@runtime_checkable
class HullLike(Protocol):
    """Reference energies of one potential; see `verify.hull.Hull`."""

    @property
    def name(self) -> str:
        """Name of the hull; energies of different hulls are never compared."""
        ...

    @property
    def hash(self) -> str:
        """Content hash of its table."""
        ...

    @property
    def elements(self) -> Collection[str]:
        """Symbols of the elements that it has entries for."""
        ...

    def energy_above(
        self, energy_ev: Float[Tensor, " n"], batch: CrystalBatch
    ) -> Float[Tensor, " n"]:
        """Return the energy above hull in eV/atom, NaN where an element is missing."""
        ...

    def n_competitors(self, batch: CrystalBatch) -> Int[Tensor, " n"]:
        """Return the number of entries in exactly the chemical system of each crystal."""
        ...


Known = tuple[str, bool] | None
"""Id of the known crystal that one matches, and whether an exact matcher confirmed it."""


@dataclass(frozen=True, kw_only=True)
class Parts:
    """What a campaign is made of. Everything may be replaced by something with the same methods.

    Attributes:
        generator: Proposes crystals.
        make_potential: Picklable function that loads the potential; called in each worker.
        potential_name: Name of the potential.
        potential_hash: Content hash of its weights.
        predictors: Predictor by column.
        hull: Reference energies by the same potential.
        find_known: Says of each crystal which known one it is.
        known_name: What `find_known` looks in, for the record.
        known_hash: Content hash of that index.
        first_of_each: For each crystal, the position of the first one that is the same crystal.
    """

    generator: Generator
    make_potential: Callable[[], Potential]
    potential_name: str
    potential_hash: str
    predictors: dict[str, Predictor] = field(default_factory=dict)
    hull: HullLike
    find_known: Callable[[CrystalBatch], list[Known]]
    known_name: str = ""
    known_hash: str = ""
    first_of_each: Callable[[CrystalBatch], list[int]]

    def hashes(self) -> dict[str, Any]:
        """Return the content hash of everything that results depend on."""
        return {
            "generator": {"name": self.generator.name, "hash": self.generator.hash},
            "potential": {"name": self.potential_name, "hash": self.potential_hash},
            "hull": {"name": self.hull.name, "hash": self.hull.hash},
            "known": {"name": self.known_name, "hash": self.known_hash},
            "predictors": {
                column: predictor.card.get("weights_sha256", "")
                for column, predictor in sorted(self.predictors.items())
            },
        }


def load_parts(request: Request, *, device: str = "cpu") -> Parts:
    """Load the shipped models and tables, and those that the request names.

    Args:
        request: What the user wants.
        device: Where the generator runs; everything else is fast enough on the processor.

    Raises:
        UnknownNameError: If a generator or predictor does not exist.
        DataError: If a file is missing or damaged.
        InputError: If the potential's energies do not compare with the hull.
    """
    from matmill.verify.hull import Hull
    from matmill.verify.novelty import KnownIndex, find_known, first_of_each
    from matmill.verify.schemes import step

    potential, hull = potentials.load("chgnet")(), Hull.load()
    step(potential, hull)
    index = KnownIndex.load()
    return Parts(
        generator=load_generator(request.generator, device=device),
        make_potential=potentials.load("chgnet"),
        potential_name=potential.name,
        potential_hash=potential.hash,
        predictors=load_predictors(request),
        hull=hull,  # pyright: ignore[reportArgumentType] - a cached property is a property
        find_known=partial(find_known, reference=index),
        known_name=index.name,
        known_hash=index.hash,
        first_of_each=first_of_each,
    )


def load_predictors(request: Request) -> dict[str, Predictor]:
    """Return predictors by column: those the request names, all others that ship, the computed.

    Raises:
        InputError: If a named predictor predicts something else.
    """
    found = {}
    for name, source in request.predictors.items():
        column = find(name).column
        predictor = load_predictor(source, column=column)
        if predictor.column != column:
            raise InputError(f"{source} predicts {predictor.column}, not {name}.")
        found[column] = predictor
    for name in available():
        column = QUANTITIES[name].column
        if column not in found and column != HULL_COLUMN:
            found[column] = load_predictor(name)
    return found
