"""The whole request of one design run, checked before any work starts."""

import re
from functools import cached_property
from typing import Annotated, Any

from pydantic import Field, ValidationError, field_validator, model_validator

from matmill.campaign.targets import Target, check_together, parse_target
from matmill.config import Settings
from matmill.crystals.composition import parse_elements, parse_formula
from matmill.errors import InputError


class Request(Settings):
    """What to design.

    Attributes:
        targets: Wishes as people write them; see `targets.parse_target`.
        elements: Allowed elements (a crystal may use a subset); None for all that are known.
        exclude: Elements that must not occur.
        n_atoms: Fewest and most atoms in the generated cell; None leaves it to the generator.
        formula: Fixed composition such as ``"Ga2O3"``; cells hold whole multiples of it.
        space_group: International number 1-230 to aim for; None for any.
        n: Number of crystals to deliver.
        seed: Same seed, same settings: same result.
        generator: Name or path of the generator.
        predictors: Name or path of the predictor to use by property; shipped ones otherwise.
        hull_threshold_ev_per_atom: Largest energy above hull of a delivered crystal.
        guidance: Strength of the conditions in the generator; None leaves it to the settings.
    """

    targets: tuple[str, ...] = ()
    elements: tuple[str, ...] | None = None
    exclude: tuple[str, ...] = ()
    n_atoms: tuple[int, int] | None = None
    formula: str | None = None
    space_group: Annotated[int, Field(ge=1, le=230)] | None = None
    n: Annotated[int, Field(ge=1, le=100_000)] = 20
    seed: Annotated[int, Field(ge=0)] = 0
    generator: str = "flow"
    predictors: dict[str, str] = Field(default_factory=dict)
    hull_threshold_ev_per_atom: Annotated[float, Field(ge=0.0)] = 0.1
    guidance: Annotated[float, Field(ge=0.0)] | None = None

    @field_validator("elements", "exclude", mode="before")
    @classmethod
    def _read_elements(cls, value: Any) -> Any:  # noqa: ANN401 - whatever the user gave
        if isinstance(value, str):
            return parse_elements(value) if value.strip() else ()
        return None if value is None else parse_elements(",".join(value)) if value else ()

    @model_validator(mode="after")
    def _check(self) -> "Request":
        check_together(self.parsed)
        if self.elements is not None:
            both = sorted({*self.elements} & {*self.exclude})
            if both:
                raise InputError(f"{', '.join(both)}: both in --elements and in --exclude.")
            if not self.elements:
                raise InputError("--elements is empty; leave it out to allow all elements.")
        if self.n_atoms is not None and not 1 <= self.n_atoms[0] <= self.n_atoms[1]:
            raise InputError(f"--n-atoms {self.n_atoms[0]}-{self.n_atoms[1]} is empty.")
        if self.counts is not None:
            self._check_formula(self.counts)
        return self

    def _check_formula(self, counts: dict[str, int]) -> None:
        banned = sorted({*counts} & {*self.exclude})
        if banned:
            raise InputError(f"Formula {self.formula} has {', '.join(banned)}, also in --exclude.")
        if self.elements is not None and not {*counts} <= {*self.elements}:
            missing = ", ".join(sorted({*counts} - {*self.elements}))
            raise InputError(f"Formula {self.formula} has {missing}, which --elements lacks.")
        if self.n_atoms is not None:
            size = sum(counts.values())
            low, high = self.n_atoms
            if high // size * size < low:
                raise InputError(
                    f"No whole number of {self.formula} units ({size} atoms each) fits into "
                    f"--n-atoms {low}-{high}."
                )

    @cached_property
    def parsed(self) -> tuple[Target, ...]:
        """The targets, read."""
        return tuple(parse_target(text) for text in self.targets)

    @cached_property
    def counts(self) -> dict[str, int] | None:
        """Atoms by element in one unit of the fixed formula."""
        return parse_formula(self.formula) if self.formula else None


def make_request(**given: Any) -> Request:  # noqa: ANN401 - checked by the model
    """Return a checked request.

    Raises:
        InputError: In one line, with what was given and what is allowed.
        UnknownNameError: If a property or an element does not exist.
    """
    try:
        return Request.model_validate(given)
    except ValidationError as error:
        messages = []
        for problem in error.errors():
            text = re.sub(r"^Value error, ", "", problem["msg"])
            where = ".".join(str(part) for part in problem["loc"])
            messages.append(f"{where}: {text}" if where and "--" not in text else text)
        raise InputError(" ".join(messages)) from error
