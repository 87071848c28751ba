"""What a crystal can be asked to be: scalars, a chemical system, a space group.

Any subset may be given; what is absent has a learned null vector. The schema (names, units,
trained ranges, counts) is saved with the weights, so a wrong name or an untrained value is
noticed before any sampling.
"""

from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from matmill.crystals.batch import CrystalBatch
from matmill.generate.state import N_ELEMENTS

_N_RBF = 32
_REACH = 3.0

# Column -> how it is straightened before standardising.
SCALARS: dict[str, str] = {
    "band_gap_ev": "log1p",
    "formation_energy_per_atom_ev": "identity",
    "energy_above_hull_ev": "log1p_50mev",
    "bulk_modulus_vrh_gpa": "log10",
    "shear_modulus_vrh_gpa": "log10",
    "density_g_cm3": "log10",
}
_TRANSFORMS = {
    "identity": lambda x: x,
    "log1p": lambda x: torch.log1p(x.clamp_min(0.0)),
    "log1p_50mev": lambda x: torch.log1p(x.clamp_min(0.0) / 0.05),
    "log10": lambda x: torch.log10(x.clamp_min(1e-2)),
}
_INVERSES = {
    "identity": lambda x: x,
    "log1p": torch.expm1,
    "log1p_50mev": lambda x: 0.05 * torch.expm1(x),
    "log10": lambda x: 10.0**x,
}
# Half-widths of shown ranges in standard deviations, and the share of views that show a value.
RANGE_HALF_WIDTHS = (0.05, 1.5)
_POINT_SHARE = 0.6
RANGE_WEIGHTS = "encoder.scalar_range"  # their name in a checkpoint, where a network has them
# First and last number of each crystal system, triclinic to cubic.
CRYSTAL_SYSTEMS: dict[str, tuple[int, int]] = {
    "triclinic": (1, 2),
    "monoclinic": (3, 15),
    "orthorhombic": (16, 74),
    "tetragonal": (75, 142),
    "trigonal": (143, 167),
    "hexagonal": (168, 194),
    "cubic": (195, 230),
}


def crystal_system_of(space_group: Int[Tensor, " n"]) -> Int[Tensor, " n"]:
    """Return 1 (triclinic) to 7 (cubic) for space-group numbers; 0 where the number is 0."""
    last = torch.tensor([end for _, end in CRYSTAL_SYSTEMS.values()])
    system = torch.bucketize(space_group.contiguous(), last) + 1
    return torch.where(space_group > 0, system, 0)


@dataclass(frozen=True, kw_only=True)
class Conditions:
    """Conditions of a batch; NaN, 0 and False stand for "not given".

    Attributes:
        scalars: Values in the columns' units, NaN where not given, ``(b, n_scalars)``.
        elements: Multi-hot over Z = 0..100, ``(b, 101)``; all zero where not given.
        is_exact: True where all listed elements must occur, ``(b,)``.
        space_group: 1..230, 0 where not given, ``(b,)``.
        crystal_system: 1..7, 0 where not given, ``(b,)``.
        added: Ranges (low, high) of the properties of adapters in their units, equal for a value,
            NaN where not given, ``(b, n_added, 2)``; no property by default.
        upper: Upper ends where ``scalars`` are the lower ends of ranges, NaN for values,
            ``(b, n_scalars)``; only networks that were taught ranges read it.
    """

    scalars: Float[Tensor, "b s"]
    elements: Float[Tensor, "b e"]
    is_exact: Bool[Tensor, " b"]
    space_group: Int[Tensor, " b"]
    crystal_system: Int[Tensor, " b"]
    added: Float[Tensor, "b k 2"] = None  # pyright: ignore[reportAssignmentType]
    upper: Float[Tensor, "b s"] = None  # pyright: ignore[reportAssignmentType]

    def __post_init__(self) -> None:
        if self.added is None:
            object.__setattr__(self, "added", self.scalars.new_zeros(len(self.scalars), 0, 2))
        if self.upper is None:
            object.__setattr__(self, "upper", torch.full_like(self.scalars, torch.nan))

    @classmethod
    def none(cls, b: int, *, n_added: int = 0) -> "Conditions":
        """Return conditions that ask for nothing."""
        return cls(
            added=torch.full((b, n_added, 2), torch.nan),
            scalars=torch.full((b, len(SCALARS)), torch.nan),
            elements=torch.zeros(b, N_ELEMENTS + 1),
            is_exact=torch.zeros(b, dtype=torch.bool),
            space_group=torch.zeros(b, dtype=torch.int64),
            crystal_system=torch.zeros(b, dtype=torch.int64),
        )

    @classmethod
    def of(cls, batch: CrystalBatch, space_group: Int[Tensor, " n"]) -> "Conditions":
        """Return everything that is known about these crystals."""
        nan = torch.full((len(batch),), torch.nan, dtype=torch.float64)
        scalars = torch.stack([batch.properties.get(name, nan) for name in SCALARS], dim=1)
        elements = torch.zeros(len(batch), N_ELEMENTS + 1)
        elements[batch.crystal_index, batch.atomic_numbers.clamp_max(N_ELEMENTS)] = 1.0
        return cls(
            scalars=scalars.float(),
            elements=elements,
            is_exact=torch.ones(len(batch), dtype=torch.bool),
            space_group=space_group,
            crystal_system=crystal_system_of(space_group),
        )

    def __len__(self) -> int:
        return len(self.scalars)

    def select(self, index: Tensor) -> "Conditions":
        """Return these rows."""
        return Conditions(**{name: values[index] for name, values in vars(self).items()})

    def to(self, device: str | torch.device) -> "Conditions":
        """Return a copy on another device."""
        return Conditions(**{name: values.to(device) for name, values in vars(self).items()})

    @staticmethod
    def stack(parts: "list[Conditions]") -> "Conditions":
        """Return the rows of all parts, in order."""
        return Conditions(
            **{name: torch.cat([vars(p)[name] for p in parts]) for name in vars(parts[0])}
        )

    def dropped(self, rng: torch.Generator) -> "Conditions":
        """Hide conditions at random, so that the network learns every subset of them.

        Three crystals in ten keep none but, perhaps, their symmetry; of the others each scalar
        and the chemical system stays with probability 1/2 and 2/5.
        """
        b, s = self.scalars.shape
        u = torch.rand(b, 4, generator=rng, device=rng.device)
        talks = u[:, 0] >= 0.3
        keep = (torch.rand(b, s, generator=rng, device=rng.device) < 0.5) & talks[:, None]
        keep_elements = (u[:, 1] < 0.4) & talks
        # Half of the systems are shown with strangers added: "a subset of these".
        is_exact = u[:, 2] < 0.5
        strangers = torch.rand(b, N_ELEMENTS + 1, generator=rng, device=rng.device) < 0.04
        strangers[:, 0] = False
        shown = torch.where(
            is_exact[:, None], self.elements, (self.elements + strangers).clamp_max(1)
        )
        symmetry = u[:, 3]
        return replace(
            self,
            scalars=torch.where(keep, self.scalars, torch.nan),
            elements=torch.where(keep_elements[:, None], shown, 0.0),
            is_exact=is_exact & keep_elements,
            space_group=torch.where(symmetry < 0.55, self.space_group, 0),
            crystal_system=torch.where(symmetry < 0.75, self.crystal_system, 0),
        )


@dataclass(frozen=True, kw_only=True)
class ScalarSchema:
    """What the network learnt about one scalar.

    Attributes:
        mean: After straightening.
        std: After straightening.
        low: 1st percentile of the training values, in the column's unit.
        high: 99th percentile.
        count: Training crystals that had it.
    """

    mean: float
    std: float
    low: float
    high: float
    count: int

    @classmethod
    def fit(cls, name: str, values: Tensor) -> "ScalarSchema":
        """Measure one column, NaN where unknown."""
        known = values[torch.isfinite(values)].double()
        if len(known) < 2:
            return cls(mean=0.0, std=1.0, low=float("nan"), high=float("nan"), count=len(known))
        straight = _TRANSFORMS[SCALARS[name]](known)
        low, high = torch.quantile(known, torch.tensor([0.01, 0.99]).double()).tolist()
        return cls(
            mean=float(straight.mean()),
            std=max(float(straight.std()), 1e-6),
            low=low,
            high=high,
            count=len(known),
        )


class ConditionEncoder(nn.Module):
    """Sums one vector per condition, ``(b, width)``.

    Args:
        width: Of the network.
        schema: What is known of each scalar.
        reads_ranges: Whether ranges of scalars are told apart from values. The weights for it
            start at zero, so that a network taught without them can learn them later.
    """

    def __init__(
        self, width: int, schema: dict[str, ScalarSchema], *, reads_ranges: bool = False
    ) -> None:
        super().__init__()
        self.schema = schema
        n_scalars = len(SCALARS)
        hidden = 64
        self.scalar_in = nn.Parameter(torch.randn(n_scalars, _N_RBF + 2, hidden) * 0.15)
        self.scalar_bias = nn.Parameter(torch.zeros(n_scalars, hidden))
        self.scalar_out = nn.Parameter(torch.randn(n_scalars, hidden, width) * 0.05)
        self.scalar_null = nn.Parameter(torch.zeros(n_scalars, width))
        self.scalar_range = (
            nn.Parameter(torch.zeros(n_scalars, 2, hidden)) if reads_ranges else None
        )
        self.elements = nn.Linear(N_ELEMENTS + 2, width)
        self.elements_null = nn.Parameter(torch.zeros(width))
        self.space_group = nn.Embedding(231, width)
        self.crystal_system = nn.Embedding(8, width)
        nn.init.normal_(self.space_group.weight, std=0.05)
        nn.init.normal_(self.crystal_system.weight, std=0.05)
        stats = torch.tensor([[schema[name].mean, schema[name].std] for name in SCALARS])
        self.register_buffer("stats", stats, persistent=False)

    def standard(self, values: Float[Tensor, "b s"]) -> Float[Tensor, "b s"]:
        """Return scalars in standard deviations from their means, straightened and clamped."""
        straight = torch.stack(
            [_TRANSFORMS[kind](values[:, i]) for i, kind in enumerate(SCALARS.values())], dim=1
        )
        assert isinstance(self.stats, Tensor)
        x = (straight - self.stats[:, 0]) / self.stats[:, 1]
        return x.clamp(-2 * _REACH, 2 * _REACH)

    def widened(self, conditions: Conditions, rng: torch.Generator) -> Conditions:
        """Replace some values by ranges that hold them anywhere, where ranges are learnt at all."""
        if self.scalar_range is None:
            return conditions
        assert isinstance(self.stats, Tensor)
        u = torch.rand(3, *conditions.scalars.shape, generator=rng, device=rng.device)
        narrow, wide = RANGE_HALF_WIDTHS
        half = narrow + (wide - narrow) * u[1]
        middle = self.standard(conditions.scalars.nan_to_num(0.0)) + half * (2 * u[2] - 1)
        ends = [(middle + side * half) * self.stats[:, 1] + self.stats[:, 0] for side in (-1, 1)]
        low, high = (
            torch.stack([_INVERSES[kind](e[:, i]) for i, kind in enumerate(SCALARS.values())], 1)
            for e in ends
        )
        is_range = (u[0] >= _POINT_SHARE) & torch.isfinite(conditions.scalars)
        return replace(
            conditions,
            scalars=torch.where(is_range, low, conditions.scalars),
            upper=torch.where(is_range, high, torch.nan),
        )

    def forward(self, conditions: Conditions) -> Tensor:
        """Return the sum of the condition vectors."""
        known = torch.isfinite(conditions.scalars)
        values = conditions.scalars.nan_to_num(0.0)
        x = self.standard(values)
        half = torch.zeros_like(x)
        if self.scalar_range is not None:
            is_range = torch.isfinite(conditions.upper)
            far = self.standard(torch.where(is_range, conditions.upper, values))
            x, half = torch.where(is_range, (x + far) / 2, x), (far - x).abs() / 2
            values = torch.where(is_range, 1.0, values)  # a range is no exact zero
        centres = torch.linspace(-_REACH, _REACH, _N_RBF, device=x.device)
        width = 2 * _REACH / (_N_RBF - 1)
        bumps = torch.exp(-0.5 * ((x[..., None] - centres) / width).square())
        is_zero = (values.abs() < 1e-6).float()  # a metal among gaps, a hull member among distances
        features = torch.cat([bumps, x[..., None], is_zero[..., None]], dim=-1)
        hidden = torch.einsum("bsf,sfh->bsh", features, self.scalar_in) + self.scalar_bias
        if self.scalar_range is not None:
            breadth = torch.stack([half, (half > 0).to(half)], dim=-1)
            hidden = hidden + torch.einsum("bsf,sfh->bsh", breadth, self.scalar_range)
        vectors = torch.einsum("bsh,shd->bsd", F.silu(hidden), self.scalar_out)
        total = torch.where(known[..., None], vectors, self.scalar_null).sum(1)

        asked = conditions.elements.sum(1, keepdim=True) > 0
        listed = torch.cat([conditions.elements, conditions.is_exact[:, None].float()], dim=1)
        total = total + torch.where(asked, self.elements(listed), self.elements_null)
        return (
            total
            + self.space_group(conditions.space_group)
            + self.crystal_system(conditions.crystal_system)
        )
