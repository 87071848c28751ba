"""Each failure signature on crystals that have the failure, and on real ones that do not."""

import numpy as np
import pytest
import torch
from crystals_for_tests import MP_20, given_crystals, perturbed, prototypes

from matmill.crystals.batch import CrystalBatch, concatenate
from matmill.errors import InputError
from matmill.verify import signatures as found
from matmill.verify.confidence import difference, wilson
from matmill.verify.signatures import Steering
from matmill.verify.spread import effective_number, spread

METALS = torch.tensor([3, 11, 12, 19, 20, 22, 26, 27, 29, 30, 37, 38, 40, 47, 55, 56, 57, 78])
OTHERS = torch.tensor([6, 7, 8, 9, 14, 15, 16, 17, 32, 33, 34, 35, 50, 51, 52, 53])


def family(n: int, seed: int) -> CrystalBatch:
    """Return random substitutions of nine prototypes: symmetric, varied and at sane volumes."""
    rng = torch.Generator().manual_seed(seed)
    base = prototypes()
    batch = base.select(torch.randint(len(base), (n,), generator=rng))
    numbers = batch.atomic_numbers.clone()
    lattice = batch.lattice.clone()
    for i in range(n):
        rows = batch.atoms_of(i)
        kinds = numbers[rows].unique()
        new = [
            pool[int(torch.randint(len(pool), (1,), generator=rng))] for pool in (METALS, OTHERS)
        ]
        chosen = [*new, METALS[int(torch.randint(len(METALS), (1,), generator=rng))]]
        swap = {int(old): int(chosen[k]) for k, old in enumerate(kinds)}
        numbers[rows] = torch.tensor([swap[int(z)] for z in numbers[rows]])
        lattice[i] *= 1.25 + 0.2 * float(torch.rand(1, generator=rng))
    return CrystalBatch(
        lattice=lattice,
        frac_coords=batch.frac_coords,
        atomic_numbers=numbers,
        n_atoms=batch.n_atoms,
    )


REFERENCE, HEALTHY = family(150, 1), family(100, 2)


def test_a_second_draw_from_the_same_family_is_healthy():
    steering = Steering(name="density", target=1.0, asked=normal(50, 1) + 1.0, free=normal(50, 2))
    all_of_them = found.signatures(HEALTHY, REFERENCE, training=family(150, 3), steering=[steering])
    assert len(all_of_them) == 8
    assert [str(one) for one in all_of_them if one.is_found] == []
    assert all(one.reason and one.advice and "\n" not in one.advice for one in all_of_them)


@pytest.mark.skipif(not MP_20.exists(), reason="needs the given crystals")
def test_real_crystals_are_healthy():
    crystals = given_crystals(900, seed=3)
    order = torch.randperm(900, generator=torch.Generator().manual_seed(0))
    mine, reference, training = (crystals.select(part) for part in order.chunk(3))
    every = found.signatures(mine, reference, training)
    assert len(every) == 7
    assert [str(one) for one in every if one.is_found] == []


def test_symmetry_collapse():
    rattled = perturbed(HEALTHY, step=0.4, strain=0.1, rng=torch.Generator().manual_seed(0))
    signature = found.symmetry_collapse(rattled, REFERENCE)
    assert signature.is_found
    assert signature.value > 0.5 > signature.reference
    assert "FOUND" in str(signature)
    assert signature.advice in str(signature)
    assert not found.symmetry_collapse(HEALTHY, REFERENCE).is_found


def test_copied_compositions():
    training = family(150, 3)
    copied = training.select(torch.arange(100))
    assert found.copied_compositions(copied, REFERENCE, training).is_found
    # A reference that is in training too excuses the samples.
    assert not found.copied_compositions(copied, training, training).is_found


def test_few_prototypes():
    cubes = [i for i, n in enumerate(HEALTHY.n_atoms.tolist()) if n == 5]
    one_kind = HEALTHY.select(cubes * 10)
    assert found.few_prototypes(one_kind, REFERENCE).is_found
    assert not found.few_prototypes(HEALTHY, REFERENCE).is_found


def test_overlapping_atoms_and_broken_cells():
    small = CrystalBatch(
        lattice=HEALTHY.lattice * 0.4,
        frac_coords=HEALTHY.frac_coords,
        atomic_numbers=HEALTHY.atomic_numbers,
        n_atoms=HEALTHY.n_atoms,
    )
    assert found.atoms_too_close(small, REFERENCE).is_found
    assert found.unphysical_density(small, REFERENCE).is_found
    nothing = torch.full_like(HEALTHY.lattice[:30], torch.nan)
    broken = CrystalBatch(
        lattice=torch.cat([nothing, HEALTHY.lattice[30:]]),
        frac_coords=HEALTHY.frac_coords,
        atomic_numbers=HEALTHY.atomic_numbers,
        n_atoms=HEALTHY.n_atoms,
    )
    for test in (found.atoms_too_close, found.unphysical_density):
        signature = test(broken, REFERENCE)
        assert signature.is_found
        assert 0.3 <= signature.value <= 0.4
    assert int(found.readable(broken).sum()) == 70
    # Everything still has an answer.
    assert len(found.signatures(broken, REFERENCE, first=range(100))) == 6


def test_duplicates():
    twice = concatenate([HEALTHY.select(torch.arange(50))] * 2)
    signature = found.duplicates(twice, REFERENCE)
    assert signature.is_found
    assert signature.value >= 0.5
    assert not found.duplicates(twice, REFERENCE, first=list(range(100))).is_found


def test_embedding_collapse():
    rng = torch.Generator().manual_seed(0)
    ball = torch.randn(400, 8, generator=rng)
    other = torch.randn(300, 8, generator=rng)
    point = 0.1 * torch.randn(300, 8, generator=rng)
    line = torch.randn(300, 1, generator=rng).repeat(1, 8)
    far = torch.cat([point[:299], torch.full((1, 8), 1e6)])
    assert not found.narrow_embedding(other, ball).is_found
    assert found.narrow_embedding(point, ball).is_found
    assert found.narrow_embedding(line, ball).is_found
    assert found.narrow_embedding(far, ball).is_found, "an outlier does not hide a collapse"
    one = concatenate([HEALTHY.select([0])] * 60)
    found_one = found.signatures(one, REFERENCE, first=range(60))
    assert found_one[-1].name == "embedding collapse"
    assert found_one[-1].is_found


def test_spread_in_closed_form():
    total, rank = spread(torch.diag(torch.tensor([1.0, 1.0, 1.0, 0.0])).double()[:3, :3] * 2)
    assert total == pytest.approx(4.0)
    assert rank == pytest.approx(2.0)  # three points span a plane, evenly
    assert effective_number(["a", "b", "c", "c"]) == pytest.approx(2 * 2**0.5)


def test_conditioning_without_effect():
    rng = torch.Generator().manual_seed(0)
    free = torch.randn(200, generator=rng)
    deaf = Steering(name="gap", target=2.0, asked=torch.randn(200, generator=rng), free=free)
    obeys = Steering(name="gap", target=2.0, asked=free + 1.5, free=free)
    few = Steering(name="gap", target=2.0, asked=torch.tensor([2.0]), free=free[:2])
    assert found.no_effect([deaf]).is_found
    assert not found.no_effect([obeys]).is_found
    assert found.no_effect([few]).is_found, "one crystal proves nothing"
    assert found.no_effect([deaf, obeys]).value == pytest.approx(
        0.5 * (found.no_effect([deaf]).value + found.no_effect([obeys]).value)
    )
    with pytest.raises(InputError, match="No values"):
        found.no_effect([Steering(name="gap", target=1.0, asked=torch.tensor([]), free=free)])


def test_chance_is_that_of_mann_and_whitney():
    from scipy.stats import mannwhitneyu

    rng = np.random.default_rng(0)
    asked, free = rng.integers(0, 9, 40) / 2, rng.integers(0, 9, 30) / 2
    one = Steering(name="x", target=1.0, asked=torch.tensor(asked), free=torch.tensor(free))
    u = mannwhitneyu(np.abs(free - 1.0), np.abs(asked - 1.0)).statistic
    assert found.no_effect([one]).value == pytest.approx(u / (40 * 30))


def test_too_few_crystals_are_refused():
    with pytest.raises(InputError, match="at least 2"):
        found.signatures(HEALTHY.select([0]), REFERENCE)


def test_intervals_of_shares():
    from scipy.stats import binomtest

    for hits, n in ((0, 10), (3, 10), (10, 10), (57, 400)):
        expected = binomtest(hits, n).proportion_ci(method="wilson")
        assert wilson(hits, n) == pytest.approx((expected.low, expected.high))
    assert wilson(0, 0) == (0.0, 1.0)
    # Newcombe (1998), table II, method 10, contrasts a and g.
    assert difference(56, 70, 48, 80) == pytest.approx((0.0524, 0.3339), abs=1e-4)
    assert difference(10, 10, 0, 10) == pytest.approx((0.6075, 1.0), abs=1e-4)
    assert difference(1, 0, 1, 2) == (-1.0, 1.0)


def normal(n: int, seed: int) -> torch.Tensor:
    return torch.randn(n, generator=torch.Generator().manual_seed(seed))
