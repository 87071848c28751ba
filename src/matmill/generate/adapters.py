"""Adapters: a property that the generator never saw, learnt beside it from a few hundred labels.

An adapter reads one property and adds to the condition vector and, in low rank, to the modulation
of each block. The trunk is not touched: where the property is not asked for, the additions are
zero and the output is the base's, bit for bit. Additions of several adapters are summed.

Source:
    Zeni et al., A generative model for inorganic materials design (2025), for adapters of a
    frozen generator; Hu et al., LoRA (2021), for the low rank.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from matmill.errors import DataError, InputError, UnknownNameError
from matmill.generate.conditions import Conditions
from matmill.generate.network import Changes, NetworkSize
from matmill.quantities import Quantity, find
from matmill.training import checkpoint

KIND, FORMAT = "flow adapter", 1

# Wider bumps than the base's 32: a few hundred labels cannot fill narrow ones.
_N_BUMPS = 12
_REACH = 3.0
_HIDDEN = 64
# Ends of column names that tell the unit.
_UNITS = {
    "_mev_atom": "meV/atom",
    "_ev_atom": "eV/atom",
    "_mev": "meV",
    "_ev": "eV",
    "_gpa": "GPa",
    "_g_cm3": "g/cm3",
    "_c_m2": "C/m2",
    "_cm1": "1/cm",
    "_k": "K",
}


@dataclass(frozen=True, kw_only=True)
class AddedProperty:
    """What an adapter learnt about its property.

    Attributes:
        name: What users ask for, e.g. ``"exfoliation_energy"``.
        unit: Of all values; empty for pure numbers.
        straightening: ``log`` where that makes the labels less skewed, else ``identity``.
        mean: After straightening.
        std: After straightening.
        low: 1st percentile of the labels, in the unit.
        high: 99th percentile.
        count: Labels.
    """

    name: str
    unit: str
    straightening: Literal["identity", "log"]
    mean: float
    std: float
    low: float
    high: float
    count: int

    @classmethod
    def fit(cls, name: str, values: Float[Tensor, " n"], *, unit: str = "") -> "AddedProperty":
        """Measure finite labels, at least two different ones.

        Raises:
            DataError: If they are all alike.
        """
        values = values.double()
        straightening: Literal["identity", "log"] = "identity"
        if bool((values > 0).all()) and abs(_skewness(values.log())) < abs(_skewness(values)):
            straightening = "log"
        straight = values.log() if straightening == "log" else values
        spread = float(straight.std())
        if not spread > 1e-9 * max(1.0, abs(float(straight.mean()))):
            raise DataError(
                f"The {len(values)} values of '{name}' are all alike ({float(values[0]):g}): "
                "nothing can be learned from one value."
            )
        low, high = torch.quantile(values, torch.tensor([0.01, 0.99]).double()).tolist()
        return cls(
            name=name,
            unit=unit,
            straightening=straightening,
            mean=float(straight.mean()),
            std=spread,
            low=low,
            high=high,
            count=len(values),
        )

    def standard(self, values: Tensor) -> Tensor:
        """Return values in standard deviations from the mean, after straightening."""
        if self.straightening == "log":
            values = values.clamp_min(1e-30).log()
        return (values - self.mean) / self.std

    def value(self, standard: Tensor) -> Tensor:
        """Return values in the unit; the inverse of `standard`."""
        straight = standard * self.std + self.mean
        return straight.exp() if self.straightening == "log" else straight

    @property
    def quantity(self) -> Quantity:
        """The property as targets know it, with bounds far beyond the labels."""
        reach = 10 * (self.high - self.low)
        try:
            known = find(self.name)
        except UnknownNameError:
            return Quantity(
                name=self.name,
                column=self.name,
                unit=self.unit,
                label=self.name.replace("_", " ").capitalize(),
                low=0.0 if self.straightening == "log" else self.low - reach,
                high=self.high + reach,
                log=self.straightening == "log",
            )
        return known


def unit_of(column: str) -> str:
    """Return the unit that the end of a column's name tells; empty for none."""
    return next((unit for end, unit in _UNITS.items() if column.endswith(end)), "")


def _skewness(values: Tensor) -> float:
    centred = values - values.mean()
    return float(centred.pow(3).mean() / centred.square().mean().clamp_min(1e-300).pow(1.5))


class Adapter(nn.Module):
    """Turns a value, or a range, of one property into `Changes` of the network.

    Args:
        learnt: The property.
        size: Of the base.
        rank: Of the addition to each block's modulation.
    """

    def __init__(self, learnt: AddedProperty, size: NetworkSize, *, rank: int = 16) -> None:
        super().__init__()
        d, k = size.width, size.n_blocks
        self.learnt, self.rank, self.hash = learnt, rank, ""
        self.read = nn.Sequential(
            nn.Linear(_N_BUMPS + 3, _HIDDEN), nn.SiLU(), nn.Linear(_HIDDEN, _HIDDEN), nn.SiLU()
        )
        self.vector = nn.Linear(_HIDDEN, d, bias=False)
        self.enter = nn.Linear(_HIDDEN, d)
        self.down = nn.Parameter(torch.randn(k, d, rank) * d**-0.5)
        self.up = nn.Parameter(torch.zeros(k, rank, 6 * d))
        nn.init.zeros_(self.vector.weight)

    def forward(self, c: Float[Tensor, "b d"], span: Float[Tensor, "b 2"]) -> Changes:
        """Return what to add, zero where the property is not given.

        Args:
            c: Condition vector of the base, which also holds the clocks.
            span: Low and high of the property in its unit, equal for a value, NaN if not given.
        """
        given = torch.isfinite(span).all(1)
        ends = self.learnt.standard(span.nan_to_num(1.0))
        p = self.read(_features(ends.clamp(-2 * _REACH, 2 * _REACH)))
        u = F.silu(c + self.enter(p))
        low = torch.einsum("bd,kdr->kbr", u, self.down.to(u.dtype))
        modulation = (low @ self.up.to(low.dtype)).transpose(0, 1)
        return Changes(
            vector=torch.where(given[:, None], self.vector(p), 0.0),
            modulation=torch.where(given[:, None, None], modulation, 0.0).unflatten(2, (6, -1)),
        )

    def save(self, path: Path, *, base_hash: str, facts: dict[str, Any]) -> Path:
        """Write weights and card; ``facts`` go on the card beside what loading needs."""
        card = {
            "kind": KIND,
            "format": FORMAT,
            "base_sha256": base_hash,
            "property": asdict(self.learnt),
            "rank": self.rank,
            "n_parameters": sum(p.numel() for p in self.parameters()),
            **facts,
        }
        return checkpoint.save(path, self.state_dict(), card)

    @classmethod
    def load(cls, path: Path, size: NetworkSize, *, base_hash: str) -> "Adapter":
        """Read an adapter for the base of this size and hash.

        Raises:
            DataError: If the file is missing, damaged, of another kind, or made for other weights.
        """
        tensors, card = checkpoint.load(path)
        if card.get("kind") != KIND or card.get("format") != FORMAT:
            raise DataError(f"{path} is not an adapter of format {FORMAT} for a flow generator.")
        if card["base_sha256"] != base_hash:
            raise DataError(
                f"{path} was made for other base weights ({card['base_sha256'][:12]}…, these are "
                f"{base_hash[:12]}…). Load that base, or finetune this one."
            )
        adapter = cls(AddedProperty(**card["property"]), size, rank=card["rank"])
        checkpoint.load_into(adapter, tensors, source=str(path))
        adapter.hash = checkpoint.hash_of(path)
        return adapter


class AdapterStack(nn.Module):
    """Adapters of one base, side by side; the order in which they are given does not matter.

    Args:
        adapters: Of different properties.
    """

    def __init__(self, adapters: Sequence[Adapter]) -> None:
        super().__init__()
        # Sums of floats depend on their order: the one by name is as good as any, and fixed.
        ordered = sorted(adapters, key=lambda adapter: adapter.learnt.name)
        self.properties = {adapter.learnt.name: adapter.learnt for adapter in ordered}
        if len(self.properties) < len(ordered):
            names = ", ".join(adapter.learnt.name for adapter in ordered)
            raise InputError(f"Two adapters are of the same property: {names}. Load one of them.")
        self.adapters = nn.ModuleList(ordered)

    @classmethod
    def load(cls, paths: Sequence[Path], size: NetworkSize, *, base_hash: str) -> "AdapterStack":
        """Read adapters of this base.

        Raises:
            InputError: If two are of the same property.
            DataError: If a file cannot be used; see `Adapter.load`.
        """
        return cls([Adapter.load(Path(path), size, base_hash=base_hash) for path in paths])

    @property
    def hashes(self) -> dict[str, str]:
        """Property to the content hash of its file, for provenance; empty before it has one."""
        return {adapter.learnt.name: adapter.hash for adapter in self.adapters}  # pyright: ignore[reportAttributeAccessIssue, reportReturnType]

    @property
    def names(self) -> tuple[str, ...]:
        """Properties in the order of `Conditions.added`."""
        return tuple(self.properties)

    def asked(self, n: int, wishes: dict[str, tuple[float, float]]) -> Float[Tensor, "n k 2"]:
        """Return `Conditions.added` for ``n`` crystals that are all asked for the same ranges."""
        added = torch.full((n, len(self.names), 2), torch.nan)
        for i, name in enumerate(self.names):
            if name in wishes:
                added[:, i] = torch.tensor(wishes[name])
        return added

    def forward(self, c: Float[Tensor, "b d"], conditions: Conditions) -> Changes | None:
        """Return the sum of what the adapters add; None where no crystal asks for anything."""
        total: Changes | None = None
        if not conditions.added.shape[1]:
            return None
        for i, adapter in enumerate(self.adapters):
            span = conditions.added[:, i]
            if not bool(torch.isfinite(span).any()):
                continue
            own = adapter(c, span)
            total = own if total is None else total + own
        return total


def _features(ends: Float[Tensor, "b 2"]) -> Float[Tensor, "b f"]:
    """Return bumps at the middle of a range, widened by it, the middle, half-width and kind."""
    middle = ends.mean(1, keepdim=True)
    half = (ends[:, 1:] - ends[:, :1]).abs() / 2
    centres = torch.linspace(-_REACH, _REACH, _N_BUMPS, device=ends.device)
    width = 2 * _REACH / (_N_BUMPS - 1)
    # A bump averaged over a range is a lower and wider one; a uniform range has variance half²/3.
    square = width**2 + half.square() / 3
    bumps = torch.exp(-0.5 * (middle - centres).square() / square) * width / square.sqrt()
    return torch.cat([bumps, middle, half, (half < 1e-6).float()], dim=1)
