import math

import numpy as np
import pytest
import torch
from scipy import stats

from matmill.crystals.batch import CrystalBatch
from matmill.crystals.convert import to_structure
from matmill.crystals.diffraction import CU_K_ALPHA, N_POINTS, patterns, peaks
from matmill.errors import InputError


def some(n: int = 12, seed: int = 0) -> CrystalBatch:
    """Return skewed cells of 1 to 7 atoms with 1 to 4 elements."""
    rng = torch.Generator().manual_seed(seed)
    pool = torch.tensor([1, 8, 14, 22, 29, 56, 82, 94])
    lattices, coords, numbers = [], [], []
    for i in range(n):
        size = 1 + i % 7
        cell = torch.eye(3) * (3.5 + 3 * torch.rand(3, 1, generator=rng))
        lattices.append((cell + 1.2 * torch.rand(3, 3, generator=rng)).tolist())
        coords.append(torch.rand(size, 3, generator=rng).tolist())
        numbers.append(pool[torch.randint(0, 8, (size,), generator=rng)].tolist())
    return CrystalBatch.from_lists(lattices, coords, numbers)


def cubic(a: float, coords: list, numbers: list) -> CrystalBatch:
    return CrystalBatch.from_lists([(a * np.eye(3)).tolist()], [coords], [numbers])


SALT = cubic(
    5.64,
    [
        *([0, 0, 0], [0, 0.5, 0.5], [0.5, 0, 0.5], [0.5, 0.5, 0]),
        *([0.5, 0, 0], [0, 0.5, 0], [0, 0, 0.5], [0.5, 0.5, 0.5]),
    ],
    [11] * 4 + [17] * 4,
)


def test_peaks_equal_those_of_pymatgen():
    from pymatgen.analysis.diffraction.xrd import XRDCalculator

    batch = some()
    found = peaks(batch)
    for i in range(len(batch)):
        theirs = XRDCalculator().get_pattern(to_structure(batch, i))
        mine = found.crystal == i
        angle, intensity = found.two_theta[mine].numpy(), found.intensity[mine].numpy()
        # They split lines that are equal but for rounding, so lines are summed within 0.001°.
        for x, y in zip(theirs.x, theirs.y, strict=True):
            total = intensity[np.abs(angle - x) < 1e-3].sum()
            assert total == pytest.approx(theirs.y[np.abs(theirs.x - x) < 1e-3].sum(), abs=5e-3), y
        assert len(angle) <= len(theirs.x)
        assert intensity.max() == pytest.approx(100)


def test_extinctions_of_rock_salt_and_positions_by_bragg():
    found = peaks(SALT, highest=60.0)
    families = [(1, 1, 1), (2, 0, 0), (2, 2, 0), (3, 1, 1), (2, 2, 2)]
    spacing = [5.64 / math.sqrt(h * h + k * k + m * m) for h, k, m in families]
    expected = [2 * math.degrees(math.asin(CU_K_ALPHA / (2 * d))) for d in spacing]
    assert found.two_theta.tolist() == pytest.approx(expected, abs=1e-9)
    assert found.two_theta[found.intensity == 100].tolist() == pytest.approx([expected[1]])


def test_primitive_cell_supercell_and_conventional_cell_give_one_pattern():
    half = 2.82
    primitive = CrystalBatch.from_lists(
        [[[0, half, half], [half, 0, half], [half, half, 0]]],
        [[[0, 0, 0], [0.5, 0.5, 0.5]]],
        [[11, 17]],
    )
    double = CrystalBatch.from_lists(
        [[[0, 2 * half, 2 * half], [half, 0, half], [half, half, 0]]],
        [[[0, 0, 0], [0.5, 0, 0], [0.25, 0.5, 0.5], [0.75, 0.5, 0.5]]],
        [[11, 11, 17, 17]],
    )
    reference = patterns(SALT)
    torch.testing.assert_close(patterns(primitive), reference, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(patterns(double), reference, atol=1e-5, rtol=1e-4)


def test_patterns_do_not_change_with_rotation_origin_and_order():
    batch = some(5, seed=3)
    rng = torch.Generator().manual_seed(1)
    turn = torch.linalg.qr(torch.randn(3, 3, generator=rng, dtype=torch.float64))[0]
    moved = CrystalBatch.from_lists(
        [(cell @ turn).tolist() for cell in batch.lattice],
        [
            (batch.frac_coords[batch.atoms_of(i)] + torch.tensor([0.13, 0.7, 0.41]))
            .flip(0)
            .tolist()
            for i in range(5)
        ],
        [batch.atomic_numbers[batch.atoms_of(i)].flip(0).tolist() for i in range(5)],
    )
    torch.testing.assert_close(patterns(moved), patterns(batch), atol=1e-5, rtol=1e-4)


def test_patterns_equal_the_kernel_density_estimate_of_the_lines():
    batch = some(7, seed=5).select([1, 3, 4, 6])
    found, ours = peaks(batch), patterns(batch)
    for i in range(len(batch)):
        mine = found.crystal == i
        share = (found.intensity[mine] / found.intensity[mine].sum()).numpy()
        # scipy takes the spread of so many samples; ours is that of the lines themselves.
        width = 0.01 * np.sqrt(1 - (share**2).sum())
        density = stats.gaussian_kde(found.two_theta[mine].numpy(), width, share)
        difference = density(np.linspace(0, 90, N_POINTS)) - ours[i].numpy()
        assert np.abs(difference).max() < 1e-3 * float(ours[i].max())


def test_patterns_integrate_to_one_but_for_tails_at_the_end():
    total = patterns(SALT).sum(1) * 90 / (N_POINTS - 1)
    assert float(total) == pytest.approx(1.0, abs=0.02)


def test_a_cell_too_small_for_any_line_has_an_empty_pattern():
    tiny = cubic(0.5, [[0, 0, 0]], [6])
    assert len(peaks(tiny)) == 0
    assert patterns(tiny).abs().sum() == 0
    assert patterns(CrystalBatch.empty()).shape == (0, N_POINTS)


def test_what_cannot_be_computed_is_named():
    with pytest.raises(InputError, match="no X-ray form factor of Es"):
        peaks(cubic(4.0, [[0, 0, 0]], [99]))
    with pytest.raises(InputError, match="positive wavelength"):
        peaks(SALT, wavelength=0.0)
