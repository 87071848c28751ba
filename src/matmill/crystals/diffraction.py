"""Powder X-ray diffraction of whole batches: peaks, and patterns on a grid of 901 points.

Kinematic theory: every reciprocal point of the limiting sphere, form factors of neutral atoms, the
Lorentz-polarisation factor, no thermal motion, no absorption, no texture.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache

import torch
from jaxtyping import Float, Int
from torch import Tensor

from matmill.crystals.batch import CrystalBatch
from matmill.crystals.elements import SYMBOLS
from matmill.errors import InputError
from matmill.progress import Event, OnEvent, ignore

CU_K_ALPHA = 1.54184
"""Å, mean of the two lines."""

N_POINTS = 901
"""Points of a pattern: 0 to 90 degrees in steps of a tenth."""

MERGE_DEGREES = 1e-4
"""Reflections closer than this in 2θ are one peak: rounding of equal lengths is far below it."""

_STEP = 90.0 / (N_POINTS - 1)
_BANDWIDTH = 0.01  # of the spread of a pattern, the rule of the published patterns
_NARROWEST = 0.05  # degrees; half a step, so that the grid never misses a peak
_REACH = 5.0  # standard deviations; the rest is below 1e-6
_PAIRS = 2_000_000  # reflections × atoms held at once, about 100 MB
# Å⁻² to the electron form factor's units: Z − f_X(s) = 41.78214 s² f_e(s), Mott-Bethe.
_MOTT_BETHE = 41.78214


@dataclass(frozen=True, kw_only=True, eq=False)
class Peaks:
    """Powder lines of a batch, by crystal and ascending angle.

    Attributes:
        crystal: The crystal of each peak, ascending, ``(n_peaks,)``.
        two_theta: Degrees, ``(n_peaks,)``.
        intensity: Relative to the strongest of the crystal, which has 100, ``(n_peaks,)``.
    """

    crystal: Int[Tensor, " n_peaks"]
    two_theta: Float[Tensor, " n_peaks"]
    intensity: Float[Tensor, " n_peaks"]

    def __len__(self) -> int:
        return len(self.crystal)


def peaks(batch: CrystalBatch, *, wavelength: float = CU_K_ALPHA, highest: float = 90.0) -> Peaks:
    """Return the powder lines of every crystal, float64.

    Equal lengths of different families are one peak. Peaks below 1e-5 of the strongest are left
    out, as are the lines of cells too small to have any in the range.

    Args:
        batch: Any number of crystals with any cells.
        wavelength: Å.
        highest: Largest 2θ in degrees, in (0, 180].

    Raises:
        InputError: If the wavelength or range makes no sense, or an element has no form factor
            (those after californium).

    Source:
        De Graef and McHenry, Structure of Materials (2012), chapters 11 and 12.
    """
    if not (wavelength > 0 and 0 < highest <= 180):
        raise InputError(
            f"A wavelength of {wavelength} Å up to 2θ = {highest}° does not work: give a positive "
            "wavelength and an angle in (0, 180]."
        )
    _check_elements(batch)
    longest = 2 * math.sin(math.radians(highest / 2)) / wavelength
    found = [
        _reflections(batch, crystals, longest, wavelength) for crystals in _pieces(batch, longest)
    ]
    if not found:
        nothing = torch.zeros(0, dtype=torch.float64)
        return Peaks(crystal=nothing.long(), two_theta=nothing, intensity=nothing)
    crystal, angle, intensity = (torch.cat(parts) for parts in zip(*found, strict=True))
    return _merged(crystal, angle, intensity, len(batch))


def patterns(
    batch: CrystalBatch, *, wavelength: float = CU_K_ALPHA, on_event: OnEvent = ignore
) -> Float[Tensor, "n_crystals 901"]:
    """Return the smoothed powder pattern of each crystal from 0 to 90° in steps of 0.1°, float32.

    A pattern is the density of diffracted intensity over 2θ, which integrates to 1 over degrees:
    ``p(x) = Σ_i w_i N(x; 2θ_i, σ)`` with ``w_i = I_i / Σ I``. The width σ is 0.01 of the standard
    deviation of 2θ under these weights, at least 0.05°: the rule of a Gaussian kernel density
    estimate with bandwidth 0.01. A crystal without lines in the range has zeros.

    Raises:
        InputError: As `peaks`.

    Source:
        Li et al., MD-HIT: Machine learning for material property prediction with dataset
        redundancy control (2024), XRD features.
    """
    result = torch.zeros(len(batch), N_POINTS, dtype=torch.float32)
    size = 2048
    for start in range(0, len(batch), size):
        stop = min(start + size, len(batch))
        piece = batch.select(torch.arange(start, stop)).to("cpu")
        result[start:stop] = _smoothed(peaks(piece, wavelength=wavelength), stop - start).float()
        on_event(Event(stage="diffraction", done=stop, total=len(batch)))
    return result


def _smoothed(lines: Peaks, n_crystals: int) -> Float[Tensor, "n_crystals 901"]:
    owner, angle = lines.crystal, lines.two_theta
    weight = lines.intensity

    def total(values: Tensor) -> Tensor:
        return torch.zeros(n_crystals, dtype=values.dtype).index_add_(0, owner, values)

    weight = weight / total(weight)[owner]
    mean = total(weight * angle)
    spread = total(weight * (angle - mean[owner]) ** 2).clamp(min=0).sqrt()
    sigma = (_BANDWIDTH * spread).clamp(min=_NARROWEST)[owner]
    n_bins = math.ceil(_REACH * float(sigma.max()) / _STEP) if len(owner) else 0
    offsets = torch.arange(-n_bins, n_bins + 1)
    flat = torch.zeros(n_crystals * N_POINTS, dtype=torch.float32)
    rows = max(1, 4_000_000 // len(offsets))
    for part in torch.arange(len(owner)).split(rows):
        place = torch.round(angle[part] / _STEP).long()[:, None] + offsets
        z = (place * _STEP - angle[part, None]) / sigma[part, None]
        height = weight[part] / (sigma[part] * math.sqrt(2 * math.pi))
        density = torch.exp(-0.5 * z.float().square()) * height[:, None].float()
        inside = (place >= 0) & (place < N_POINTS)
        place = owner[part, None] * N_POINTS + place.clamp(0, N_POINTS - 1)
        flat.index_add_(0, place.flatten(), (density * inside).flatten())
    return flat.reshape(n_crystals, N_POINTS)


def _pieces(batch: CrystalBatch, longest: float) -> Iterator[Tensor]:
    """Yield crystals with equally many atoms, few enough for all their reflections at once."""
    expected = 2.1 * longest**3 * batch.volume.double().cpu() + 50  # half of 4π/3 a reflection
    n_atoms = batch.n_atoms.cpu()
    for n in torch.unique(n_atoms).tolist():
        rows = torch.nonzero(n_atoms == n).flatten()
        # The box around the sphere has up to a few times more points; only six numbers each.
        load = (expected[rows] * (n + 8)).cumsum(0)
        counts = torch.unique_consecutive((load / _PAIRS).long(), return_counts=True)[1]
        yield from rows.split(counts.tolist())


def _reflections(
    batch: CrystalBatch, crystals: Tensor, longest: float, wavelength: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Return crystal, 2θ and intensity of half of the reflections: the others are their equals."""
    piece = batch.select(crystals).to("cpu", torch.float64)
    n = int(piece.n_atoms[0])
    reciprocal = torch.linalg.inv(piece.lattice).transpose(1, 2)  # rows are a*, b*, c*, no 2π
    owner, miller, length = _half_sphere(piece.lattice, reciprocal, longest)
    angle = torch.arcsin((wavelength * length / 2).clamp(max=1.0))
    numbers = piece.atomic_numbers.reshape(-1, n)
    coords = piece.frac_coords.reshape(-1, n, 3)
    phase = torch.bmm(miller[:, None, :], coords[owner].transpose(1, 2))[:, 0]
    phase = 2 * math.pi * (phase - phase.round())
    factor = _form_factors(numbers, owner, (length / 2) ** 2)
    amplitude = (factor * phase.cos()).sum(1) ** 2 + (factor * phase.sin()).sum(1) ** 2
    polarisation = (1 + (2 * angle).cos() ** 2) / (angle.sin() ** 2 * angle.cos())
    return crystals[owner], torch.rad2deg(2 * angle), amplitude * polarisation


def _half_sphere(lattice: Tensor, reciprocal: Tensor, longest: float) -> tuple[Tensor, ...]:
    """Return crystal, Miller indices and length in 1/Å of one of each pair g, −g in the sphere."""
    # |h| = |g · a| never exceeds |g| |a|.
    most = (longest * lattice.norm(dim=2) + 1e-9).floor().long()
    width = torch.stack([most[:, 0] + 1, 2 * most[:, 1] + 1, 2 * most[:, 2] + 1], dim=1)
    counts = width.prod(1)
    owner = torch.repeat_interleave(torch.arange(len(lattice)), counts)
    place = torch.arange(len(owner)) - (counts.cumsum(0) - counts)[owner]
    last = width[owner, 2]
    h = place // (width[owner, 1] * last)
    k = place // last % width[owner, 1] - most[owner, 1]
    m = place % last - most[owner, 2]
    is_half = (h > 0) | ((h == 0) & ((k > 0) | ((k == 0) & (m > 0))))
    owner = owner[is_half]
    miller = torch.stack([h[is_half], k[is_half], m[is_half]], dim=1).double()
    length = torch.bmm(miller[:, None, :], reciprocal[owner])[:, 0].norm(dim=1)
    inside = length <= longest
    return owner[inside], miller[inside], length[inside]


def _form_factors(numbers: Tensor, owner: Tensor, s_squared: Tensor) -> Tensor:
    """Return the form factor of every atom at every reflection; once for each element."""
    elements, slot = torch.unique(numbers, return_inverse=True)
    strength, decay = _parameters()
    if len(elements) > 8:
        # Per crystal: few different elements each, whatever the piece has in all.
        ordered = numbers.sort(dim=1).values
        is_new = torch.ones_like(ordered, dtype=torch.bool)
        is_new[:, 1:] = ordered[:, 1:] != ordered[:, :-1]
        rank = is_new.cumsum(1) - 1
        distinct = torch.ones(len(numbers), int(rank.max()) + 1, dtype=torch.int64)
        distinct.scatter_(1, rank, ordered)
        slot = (numbers[:, :, None] == distinct[:, None, :]).long().argmax(2)
        elements_of = distinct[owner]
    else:
        elements_of = elements.expand(len(owner), -1)
    a, b = strength[elements_of], decay[elements_of]  # (n_reflections, n_slots, 4)
    s = s_squared[:, None, None]
    factor = elements_of - _MOTT_BETHE * s_squared[:, None] * (a * torch.exp(-b * s)).sum(2)
    return factor.gather(1, slot[owner])


def _merged(crystal: Tensor, angle: Tensor, intensity: Tensor, n_crystals: int) -> Peaks:
    order = torch.argsort(crystal.double() * 360.0 + angle)
    crystal, angle, intensity = crystal[order], angle[order], intensity[order]
    starts = torch.ones(len(crystal), dtype=torch.bool)
    starts[1:] = (angle.diff() > MERGE_DEGREES) | (crystal.diff() > 0)
    peak = starts.cumsum(0) - 1
    crystal, angle = crystal[starts], angle[starts]
    summed = torch.zeros(len(crystal), dtype=torch.float64).index_add_(0, peak, intensity)
    strongest = torch.zeros(n_crystals, dtype=torch.float64)
    strongest.scatter_reduce_(0, crystal, summed, "amax")
    relative = 100 * summed / strongest[crystal].clamp(min=torch.finfo(torch.float64).tiny)
    seen = relative > 1e-3
    return Peaks(crystal=crystal[seen], two_theta=angle[seen], intensity=relative[seen])


def _check_elements(batch: CrystalBatch) -> None:
    known = _parameters()[0].abs().sum(1) > 0
    unknown = [z for z in torch.unique(batch.atomic_numbers.cpu()).tolist() if not known[z]]
    if unknown:
        symbols = ", ".join(SYMBOLS[z] for z in unknown)
        raise InputError(
            f"There is no X-ray form factor of {symbols}: leave crystals with it out of "
            "diffraction patterns."
        )


@cache
def _parameters() -> tuple[Float[Tensor, "119 4"], Float[Tensor, "119 4"]]:
    """Return strengths and decays of the form factors, zero where there are none."""
    from pymatgen.analysis.diffraction.xrd import ATOMIC_SCATTERING_PARAMS

    table = torch.zeros(len(SYMBOLS), 4, 2, dtype=torch.float64)
    for z, symbol in enumerate(SYMBOLS):
        if symbol in ATOMIC_SCATTERING_PARAMS:
            table[z] = torch.tensor(ATOMIC_SCATTERING_PARAMS[symbol], dtype=torch.float64)
    return table[:, :, 0], table[:, :, 1]
