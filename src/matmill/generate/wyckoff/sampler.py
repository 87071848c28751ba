"""The Wyckoff model at work: templates that meet a request exactly.

Source:
    WyFormer (2025) and SymmCD (2025) for the idea of generating orbits first; the exact look-ahead
    over what a group can host, and the form of the network, are ours.
"""

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from matmill.crystals.elements import SYMBOLS, number
from matmill.crystals.symmetry import CRYSTAL_SYSTEMS, crystal_system
from matmill.errors import DataError, InputError, UnknownNameError
from matmill.generate.protocol import ASSETS
from matmill.generate.wyckoff.compose import CompositionRequest, draw_compositions, pick
from matmill.generate.wyckoff.decode import (
    Composition,
    Partial,
    group_log_probabilities,
    host_mask,
    position_log_probabilities,
)
from matmill.generate.wyckoff.encoding import canonical, encode, fits
from matmill.generate.wyckoff.network import WyckoffNetwork, WyckoffSettings
from matmill.generate.wyckoff.positions import N_SPACE_GROUPS
from matmill.generate.wyckoff.templates import Template
from matmill.generate.wyckoff.train import template_loss
from matmill.generate.wyckoff.vocabulary import MAX_ATOMS, MAX_ELEMENTS
from matmill.training import checkpoint

_DRAWS = 2 * (MAX_ELEMENTS + 1) + 1 + MAX_ATOMS  # composition, group, orbits
_SCORED_AT_ONCE = 1024


class WyckoffModel:
    """Draws templates: space group, Wyckoff letters and elements, without coordinates.

    Args:
        network: Trained network.
        card: What belongs to it.
    """

    def __init__(self, network: WyckoffNetwork, card: checkpoint.Card | None = None) -> None:
        self.network = network.eval().requires_grad_(requires_grad=False)
        self.card = card or {}

    @classmethod
    def load(cls, path: Path | str | None = None) -> "WyckoffModel":
        """Read a model without running code from it; the one that ships if no path is given.

        Raises:
            DataError: If the file is missing, damaged or of another kind.
        """
        source = ASSETS / "wyckoff" if path is None else Path(path)
        tensors, card = checkpoint.load(source)
        if card.get("kind") != "wyckoff":
            raise DataError(f"{source} holds no Wyckoff model.")
        network = WyckoffNetwork(WyckoffSettings(**card["settings"]))
        floats = {name: t.float() if t.is_floating_point() else t for name, t in tensors.items()}
        checkpoint.load_into(network, floats, source=str(source))
        return cls(network, card)

    @torch.inference_mode()
    def sample(
        self,
        n: int,
        rng: torch.Generator,
        *,
        formula: dict[str, int] | None = None,
        n_atoms: tuple[int, int] | None = None,
        elements: tuple[str, ...] | None = None,
        exactly: bool = False,
        space_group: int | None = None,
        crystal_system: str | None = None,
        energy_above_hull: float | None = 0.0,
        temperature: float = 1.0,
    ) -> list[Template]:
        """Draw templates that meet the request exactly.

        Args:
            n: How many.
            rng: Source of randomness.
            formula: Atoms of each element in the primitive cell.
            n_atoms: Smallest and largest number of atoms in the primitive cell.
            elements: Symbols that may occur.
            exactly: Whether each of them has to occur.
            space_group: International number.
            crystal_system: Name such as ``"cubic"``.
            energy_above_hull: In eV per atom; None to leave it open.
            temperature: Below 1, likely templates become likelier.

        Raises:
            InputError: If the request is malformed or nothing can meet it.
            UnknownNameError: If an element or crystal system is unknown.
        """
        groups = allowed_groups(space_group, crystal_system)
        hull = torch.nan if energy_above_hull is None else energy_above_hull
        if n < 1 or temperature <= 0.0:
            raise InputError("Ask for at least one template, at a temperature above 0.")
        uniform = torch.rand(n, _DRAWS, generator=rng, dtype=torch.float64, device=rng.device).cpu()
        if formula is None:
            size = checked_size(n_atoms)
            request = CompositionRequest(
                groups=groups,
                size=size,
                elements=tuple(number(symbol) for symbol in elements or ()),
                exactly=exactly,
                asked_group=space_group or 0,
                asked_system=_system_index(crystal_system),
                hull=hull,
            )
            compositions = draw_compositions(self.network, request, uniform, temperature=1.0)
        else:
            own = composition_of(formula)
            _check_against(own, n_atoms, elements, exactly=exactly)
            compositions = [own] * n
        return self._fill(
            compositions, uniform[:, 2 * (MAX_ELEMENTS + 1) :], groups, hull, temperature
        )

    @torch.inference_mode()
    def sample_each(
        self,
        formulas: Sequence[dict[str, int]],
        rng: torch.Generator,
        *,
        space_group: int | None = None,
        crystal_system: str | None = None,
        energy_above_hull: float | None = 0.0,
        temperature: float = 1.0,
    ) -> list[Template]:
        """Draw one template for each formula; arguments and errors as in `sample`."""
        groups = allowed_groups(space_group, crystal_system)
        hull = torch.nan if energy_above_hull is None else energy_above_hull
        uniform = torch.rand(len(formulas), 1 + MAX_ATOMS, generator=rng, dtype=torch.float64)
        compositions = [composition_of(formula) for formula in formulas]
        return self._fill(compositions, uniform, groups, hull, temperature)

    def log_probability(
        self, templates: Sequence[Template], energy_above_hull: float | None = 0.0
    ) -> Tensor:
        """Return log p(group and orbits | composition) of each template, in nats, ``(n,)``.

        Templates that describe the same crystals (another origin, other axes) score alike.

        Raises:
            InputError: If a template is larger than the network knows.
        """
        if not all(fits(t) for t in templates):
            raise InputError(
                f"The Wyckoff model knows up to {MAX_ATOMS} atoms and {MAX_ELEMENTS} elements."
            )
        hull = torch.nan if energy_above_hull is None else energy_above_hull
        scores = []
        with torch.inference_mode():
            for start in range(0, len(templates), _SCORED_AT_ONCE):
                part = [canonical(t) for t in templates[start : start + _SCORED_AT_ONCE]]
                group, orbits = template_loss(
                    self.network, encode(part, torch.full((len(part),), hull))
                )
                scores.append(-(group + orbits))
        return torch.cat(scores) if scores else torch.zeros(0)

    def _fill(
        self,
        compositions: list[Composition],
        uniform: Tensor,
        groups: tuple[int, ...],
        hull: float,
        temperature: float,
    ) -> list[Template]:
        """Draw the group and the orbits of each composition."""
        masks = host_masks(compositions, groups)
        logits = group_log_probabilities(self.network, compositions, hull, masks)
        chosen = pick(logits / temperature, masks, uniform[:, 0]).tolist()
        partials = [
            Partial(composition=c).in_group(g) for c, g in zip(compositions, chosen, strict=True)
        ]
        for step in range(1, uniform.shape[1]):
            active = [i for i, p in enumerate(partials) if not p.is_done]
            if not active:
                break
            # Equal partials need one look at the network.
            unique = {partials[i]: 0 for i in active}
            unique = {partial: row for row, partial in enumerate(unique)}
            logits = position_log_probabilities(self.network, list(unique), hull)
            rows = logits[[unique[partials[i]] for i in active]]
            letters = pick(rows / temperature, torch.isfinite(rows), uniform[active, step])
            for i, letter in zip(active, letters.tolist(), strict=True):
                partials[i] = partials[i].with_orbit(letter)
        return [partial.template() for partial in partials]


def allowed_groups(space_group: int | None, system: str | None) -> tuple[int, ...]:
    """Return the space groups that a request permits.

    Raises:
        InputError: If there is no such group, or it belongs to another system.
        UnknownNameError: If there is no such system.
    """
    if system is not None and system not in CRYSTAL_SYSTEMS:
        raise UnknownNameError("crystal system", system, list(CRYSTAL_SYSTEMS))
    if space_group is None:
        every = range(1, N_SPACE_GROUPS + 1)
        return tuple(g for g in every if system is None or crystal_system(g) == system)
    if not 1 <= space_group <= N_SPACE_GROUPS:
        raise InputError(f"There is no space group {space_group}; use a number from 1 to 230.")
    if system is not None and crystal_system(space_group) != system:
        raise InputError(
            f"Space group {space_group} is {crystal_system(space_group)}, not {system}; "
            "ask for one of the two."
        )
    return (space_group,)


def composition_of(formula: dict[str, int]) -> Composition:
    """Return a formula in the order of generation.

    Raises:
        InputError: If it is empty, not of whole atoms, or larger than the network knows.
        UnknownNameError: If an element is unknown.
    """
    atoms = {number(symbol): count for symbol, count in formula.items()}
    if not atoms or any(count < 1 or count != int(count) for count in atoms.values()):
        raise InputError("A formula needs a whole number of atoms, at least 1, of each element.")
    if sum(atoms.values()) > MAX_ATOMS or len(atoms) > MAX_ELEMENTS:
        raise InputError(
            f"The formula has {sum(atoms.values())} atoms of {len(atoms)} elements; the Wyckoff "
            f"model knows up to {MAX_ATOMS} atoms and {MAX_ELEMENTS} elements in the primitive "
            "cell. Ask for fewer formula units."
        )
    return Composition.of({z: int(count) for z, count in atoms.items()})


def host_masks(compositions: Sequence[Composition], groups: tuple[int, ...]) -> Tensor:
    """Return which groups can host each composition, bool ``(n, 231)``.

    Raises:
        InputError: If none can host one of them.
    """
    known: dict[Composition, Tensor] = {}
    for composition in compositions:
        if composition not in known:
            known[composition] = host_mask(composition, groups)
            if not known[composition].any():
                formula = "".join(
                    f"{SYMBOLS[z]}{n}"
                    for z, n in zip(composition.elements, composition.counts, strict=True)
                )
                which = f"space group {groups[0]}" if len(groups) == 1 else "any group asked for"
                raise InputError(
                    f"The positions of {which} cannot hold {formula} in one primitive cell; "
                    "ask for another group or another number of formula units."
                )
    return torch.stack([known[composition] for composition in compositions])


def checked_size(n_atoms: tuple[int, int] | None) -> tuple[int, int]:
    """Return the range of the number of atoms.

    Raises:
        InputError: If it is empty or beyond what the network knows.
    """
    low, high = n_atoms or (1, MAX_ATOMS)
    if not 1 <= low <= high <= MAX_ATOMS:
        raise InputError(
            f"The Wyckoff model makes primitive cells of 1 to {MAX_ATOMS} atoms; "
            f"{low} to {high} were asked for."
        )
    return low, high


def _check_against(
    composition: Composition,
    n_atoms: tuple[int, int] | None,
    elements: tuple[str, ...] | None,
    *,
    exactly: bool,
) -> None:
    low, high = checked_size(n_atoms)
    if not low <= sum(composition.counts) <= high:
        raise InputError(
            f"The formula has {sum(composition.counts)} atoms, but {low} to {high} were asked for."
        )
    permitted = {number(symbol) for symbol in elements or ()}
    if permitted and not (
        permitted == set(composition.elements)
        if exactly
        else permitted >= set(composition.elements)
    ):
        raise InputError("The formula and the elements asked for contradict each other.")


def _system_index(system: str | None) -> int:
    return 0 if system is None else CRYSTAL_SYSTEMS.index(system) + 1
