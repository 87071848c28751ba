"""The Wyckoff model at work: templates that meet a request exactly.

Source:
    WyFormer (2025) and SymmCD (2025) for the idea of generating orbits first; the exact look-ahead
    over what a group can host, and the form of the network, are ours.
"""

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from matmill.crystals.elements import number
from matmill.errors import DataError, InputError
from matmill.generate.protocol import ASSETS
from matmill.generate.wyckoff.compose import CompositionRequest, draw_compositions, pick
from matmill.generate.wyckoff.decode import (
    Composition,
    Partial,
    group_log_probabilities,
    position_log_probabilities,
)
from matmill.generate.wyckoff.encoding import canonical, encode, fits
from matmill.generate.wyckoff.memory import TemplateMemory
from matmill.generate.wyckoff.network import WyckoffNetwork, WyckoffSettings
from matmill.generate.wyckoff.positions import N_SPACE_GROUPS
from matmill.generate.wyckoff.request import (
    allowed_groups,
    check_against,
    checked_size,
    composition_of,
    host_masks,
    system_index,
)
from matmill.generate.wyckoff.templates import Template
from matmill.generate.wyckoff.train import template_loss
from matmill.generate.wyckoff.vocabulary import MAX_ATOMS, MAX_ELEMENTS
from matmill.randomness import child
from matmill.training import checkpoint

_DRAWS = 2 * (MAX_ELEMENTS + 1) + 2 + MAX_ATOMS  # composition, source, group, orbits
_SCORED_AT_ONCE = 1024
_UNKNOWN_CELL = 0.01  # weight of a cell of which no similar crystal is known
_KEPT = 4096  # compositions whose recalled templates are kept


class WyckoffModel:
    """Draws templates: space group, Wyckoff letters and elements, without coordinates.

    For a composition, a template is recalled from known crystals of the same numbers of atoms
    (`TemplateMemory`) with probability `recalled_share`, and written by the network otherwise.
    Recalled templates count for more, the likelier the network holds them.

    Args:
        network: Trained network.
        memory: Templates to recall; None leaves all to the network.
        card: What belongs to them; ``recalled_share`` and ``network_power`` are read from it.
    """

    def __init__(
        self,
        network: WyckoffNetwork,
        memory: TemplateMemory | None = None,
        card: checkpoint.Card | None = None,
    ) -> None:
        self.network = network.eval().requires_grad_(requires_grad=False)
        self.memory = memory
        self.card = card or {}
        self.recalled_share = float(self.card.get("recalled_share", 0.9))
        self.network_power = float(self.card.get("network_power", 0.0))
        self._kept: dict[tuple[Composition, bytes, float], list[tuple[Template, float]]] = {}

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
        own = {name: t.float() for name, t in _below("network.", tensors).items()}
        checkpoint.load_into(network, own, source=str(source))
        kept = _below("memory.", tensors)
        return cls(network, TemplateMemory.from_tensors(kept) if kept else None, card)

    def save(self, path: Path | str, facts: checkpoint.Card) -> Path:
        """Write network (in bfloat16) and memory to one file, with a card beside it."""
        tensors = {
            f"network.{name}": t.to(torch.bfloat16) for name, t in self.network.state_dict().items()
        }
        if self.memory is not None:
            tensors |= {f"memory.{name}": t for name, t in self.memory.to_tensors().items()}
        own = {
            "kind": "wyckoff",
            "settings": self.network.settings.model_dump(),
            "recalled_share": self.recalled_share,
            "network_power": self.network_power,
        }
        return checkpoint.save(path, tensors, {**facts, **own})

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
        energy_above_hull: float | None = None,
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
            energy_above_hull: In eV per atom. None leaves it open for compositions, and asks for
                the positions that crystals on the hull have: of one composition the most stable
                crystal is wanted, but compositions on the hull are others than those near it.
            temperature: Below 1, likely templates become likelier.

        Raises:
            InputError: If the request is malformed or nothing can meet it.
            UnknownNameError: If an element or crystal system is unknown.
        """
        groups = allowed_groups(space_group, crystal_system)
        hull = torch.nan if energy_above_hull is None else energy_above_hull
        site_hull = energy_above_hull or 0.0
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
                asked_system=system_index(crystal_system),
                hull=hull,
            )
            compositions = draw_compositions(self.network, request, uniform, temperature=1.0)
        else:
            own = composition_of(formula)
            check_against(own, n_atoms, elements, exactly=exactly)
            compositions = [own] * n
        return self._fill(
            compositions, uniform[:, 2 * (MAX_ELEMENTS + 1) :], groups, site_hull, temperature
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
        uniform = torch.rand(len(formulas), 2 + MAX_ATOMS, generator=rng, dtype=torch.float64)
        compositions = [composition_of(formula) for formula in formulas]
        return self._fill(compositions, uniform, groups, hull, temperature)

    @torch.inference_mode()
    def propose(
        self,
        formula: dict[str, int],
        k: int,
        *,
        space_group: int | None = None,
        crystal_system: str | None = None,
        energy_above_hull: float | None = 0.0,
    ) -> list[tuple[Template, float]]:
        """Return up to ``k`` different templates of a formula, most probable first.

        The recalled ones come first; the network fills up what is missing with distinct draws
        from a fixed stream. Arguments and errors as in `sample`.

        Returns:
            Templates with their probabilities.
        """
        groups = allowed_groups(space_group, crystal_system)
        hull = torch.nan if energy_above_hull is None else energy_above_hull
        composition = composition_of(formula)
        mask = host_masks([composition], groups)[0]
        found = dict(self._recalled(composition, mask, hull)[:k])
        share = self.recalled_share if found else 0.0
        if len(found) < k:
            uniform = torch.rand(
                8 * k, 1 + MAX_ATOMS, generator=child(0, "propose"), dtype=torch.float64
            )
            drawn = list(
                dict.fromkeys(self._write([composition] * 8 * k, uniform, groups, hull, 1.0))
            )
            fresh = [template for template in drawn if template not in found]
            scores = self._written(fresh, hull).exp().tolist() if fresh else []
            ranked = sorted(zip(fresh, scores, strict=True), key=lambda pair: -pair[1])
            found = {t: share * p for t, p in found.items()}
            found |= {t: (1.0 - share) * p for t, p in ranked[: k - len(found)]}
        return list(found.items())

    def cell_weights(
        self,
        formula: dict[str, int],
        multiples: Sequence[int],
        *,
        space_group: int | None = None,
        crystal_system: str | None = None,
    ) -> list[float]:
        """Return how likely primitive cells hold these numbers of formula units, unnormalised.

        What counts is how many similar crystals are known with as many atoms of each element. On
        683 validation crystals with a choice the true number is the likeliest in 75 %; by the
        frequency of cell sizes alone in 48 %.

        Args:
            formula: Atoms of each element in a formula unit.
            multiples: Numbers of units.
            space_group: International number.
            crystal_system: Name such as ``"cubic"``.
        """
        mask = torch.zeros(N_SPACE_GROUPS + 1, dtype=torch.bool)
        mask[list(allowed_groups(space_group, crystal_system))] = True
        known = [0.0] * len(multiples)
        if self.memory is not None:
            atoms = {number(symbol): count for symbol, count in formula.items()}
            known = [
                self.memory.support({z: m * c for z, c in atoms.items()}, mask) for m in multiples
            ]
        return [_UNKNOWN_CELL + support for support in known]

    @torch.inference_mode()
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
        own = [canonical(t) for t in templates]
        written = self._written(own, hull).double()
        if self.memory is None:
            return written
        everything = torch.ones(N_SPACE_GROUPS + 1, dtype=torch.bool)
        total = []
        for template, score in zip(own, written.exp().tolist(), strict=True):
            found = dict(self._recalled(Composition.of(template.counts), everything, hull))
            share = self.recalled_share if found else 0.0
            total.append(share * found.get(template, 0.0) + (1.0 - share) * score)
        return torch.tensor(total, dtype=torch.float64).log()

    def _written(self, templates: Sequence[Template], hull: float) -> Tensor:
        """Return log p of canonical templates by the network alone."""
        scores = [torch.zeros(0)]
        for start in range(0, len(templates), _SCORED_AT_ONCE):
            part = templates[start : start + _SCORED_AT_ONCE]
            group, orbits = template_loss(
                self.network, encode(part, torch.full((len(part),), hull))
            )
            scores.append(-(group + orbits))
        return torch.cat(scores)

    def _recalled(
        self, composition: Composition, groups: Tensor, hull: float
    ) -> list[tuple[Template, float]]:
        """Return what the memory knows for a composition, weighed by the network."""
        if self.memory is None:
            return []
        key = composition, groups.numpy().tobytes(), hull
        if key not in self._kept:
            if len(self._kept) >= _KEPT:
                self._kept.clear()
            self._kept[key] = self._recall(composition, groups, hull)
        return self._kept[key]

    def _recall(
        self, composition: Composition, groups: Tensor, hull: float
    ) -> list[tuple[Template, float]]:
        if self.memory is None:
            return []
        atoms = dict(zip(composition.elements, composition.counts, strict=True))
        found = self.memory.recall(atoms, groups)
        if not found or not self.network_power:
            return found
        shares = torch.tensor([share for _, share in found]).log()
        shares = shares + self.network_power * self._written([t for t, _ in found], hull)
        pairs = zip((t for t, _ in found), shares.softmax(0).tolist(), strict=True)
        return sorted(pairs, key=lambda pair: -pair[1])

    def _fill(
        self,
        compositions: list[Composition],
        uniform: Tensor,
        groups: tuple[int, ...],
        hull: float,
        temperature: float,
    ) -> list[Template]:
        """Recall or write a template for each composition.

        The first column of ``uniform`` says which of the two, the rest what comes of it.
        """
        masks = host_masks(compositions, groups)
        known: dict[Composition, tuple[list[Template], Tensor]] = {}
        made: list[Template | None] = [None] * len(compositions)
        for i in torch.nonzero(uniform[:, 0] < self.recalled_share).flatten().tolist():
            composition = compositions[i]
            if composition not in known:
                found = self._recalled(composition, masks[i], hull)
                logits = torch.tensor([share for _, share in found]).log() / temperature
                known[composition] = [t for t, _ in found], logits
            recalled, logits = known[composition]
            if recalled:
                here = logits[None], torch.isfinite(logits)[None]
                made[i] = recalled[int(pick(*here, uniform[i : i + 1, 1]))]
        rest = [i for i, template in enumerate(made) if template is None]
        if rest:
            written = self._write(
                [compositions[i] for i in rest], uniform[rest, 1:], groups, hull, temperature
            )
            for i, template in zip(rest, written, strict=True):
                made[i] = template
        return [template for template in made if template is not None]

    def _write(
        self,
        compositions: list[Composition],
        uniform: Tensor,
        groups: tuple[int, ...],
        hull: float,
        temperature: float,
    ) -> list[Template]:
        """Draw the group and the orbits of each composition with the network."""
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


def _below(start: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {k.removeprefix(start): t for k, t in tensors.items() if k.startswith(start)}
