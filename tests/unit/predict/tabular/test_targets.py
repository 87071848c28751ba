import pytest
import torch

from matmill.crystals.batch import CrystalBatch
from matmill.errors import DataError
from matmill.predict.tabular.facts import facts_of, is_layered
from matmill.predict.tabular.targets import (
    BULK_SIZE,
    FORMS,
    LAYER_SIZE,
    candidates,
    fit_scale,
)


def facts(n=200, seed=0):
    rng = torch.Generator().manual_seed(seed)
    draw = torch.rand(3, n, generator=rng, dtype=torch.float64)
    return {"mean_mass_amu": 5 + 90 * draw[0], BULK_SIZE: 8 + 30 * draw[1], LAYER_SIZE: 2 + draw[2]}


def positive(n=200):
    return torch.randn(n, generator=torch.Generator().manual_seed(1)).double().exp()


@pytest.mark.parametrize("name", FORMS)
def test_every_scale_can_be_undone_and_grows(name):
    values = positive() / 10 if name != "logit" else 0.9 * positive().sigmoid()
    scale = fit_scale(name, values, facts())
    learned = scale.learned(values, facts())
    assert torch.allclose(scale.original(learned, facts()), values, rtol=1e-9)
    more = scale.learned(values * 1.01, facts())
    assert bool((more > learned).all())
    assert abs(float(learned.median())) < 1e-9
    assert 0.5 < float((learned - learned.median()).abs().mean()) < 1.0


@pytest.mark.parametrize("name", FORMS)
def test_nothing_runs_away(name):
    values = positive() / 20
    scale = fit_scale(name, values, facts())
    far = scale.original(torch.tensor([-1e9, 1e9]).double(), {n: f[:2] for n, f in facts().items()})
    assert torch.isfinite(far).all()
    assert bool((far >= 0).all())  # the values never were negative
    assert float(far.max()) < 1e3 * float(values.max())


def test_a_law_takes_away_what_follows_it():
    known = facts()
    values = 7.0 * known["mean_mass_amu"] ** -0.5 * known[BULK_SIZE] ** 0.3
    scale = fit_scale("log minus law", values, known)
    assert scale.law["mean_mass_amu"] == pytest.approx(-0.5, abs=1e-6)
    assert scale.law[BULK_SIZE] == pytest.approx(0.3, abs=1e-6)
    noisy = values * (1 + 0.1 * positive())
    plain, lawful = fit_scale("log", noisy, known), fit_scale("log minus law", noisy, known)
    assert lawful.spread < 0.5 * plain.spread


def test_an_unknown_size_takes_the_typical_one():
    known = facts()
    values = positive()
    scale = fit_scale("asinh per area", values, known)
    gap = {**known, LAYER_SIZE: torch.full_like(known[LAYER_SIZE], torch.nan)}
    typical = {**known, LAYER_SIZE: torch.full_like(known[LAYER_SIZE], scale.typical[LAYER_SIZE])}
    learned = torch.zeros(len(values)).double()
    assert torch.equal(scale.original(learned, gap), scale.original(learned, typical))


def test_candidates_follow_the_values_and_the_crystals():
    known = facts()
    assert candidates(positive(), known, is_layered=False) == [
        "identity",
        "log",
        "per volume",
        "log minus law",
    ]
    both = torch.randn(200, generator=torch.Generator().manual_seed(0)).double()
    assert candidates(both, {}, is_layered=False) == ["identity"]
    heavy = torch.cat([both[:190], 100 * both[190:], 100 * both[:10]])
    assert "asinh" in candidates(heavy, {}, is_layered=False)
    assert "log" not in candidates(heavy, {}, is_layered=False)
    assert "logit" in candidates(both.sigmoid(), {}, is_layered=False)
    layered = candidates(positive(), known, is_layered=True)
    assert {"per area", "asinh per area"} <= set(layered)
    assert "per volume" not in layered


def test_one_value_or_a_wrong_sign_is_refused():
    with pytest.raises(DataError, match="all alike"):
        fit_scale("identity", torch.ones(9), {})
    with pytest.raises(DataError, match="needs positive values"):
        fit_scale("log", torch.tensor([-1.0, 2.0, 3.0]), {})


def layer(vacuum, tile=1):
    """A square layer of two elements; ``tile`` × ``tile`` cells of it."""
    spots = torch.cartesian_prod(torch.arange(tile), torch.arange(tile)).double() / tile
    flat = torch.cat([spots, torch.zeros(len(spots), 1).double()], dim=1)
    other = flat + torch.tensor([0.5 / tile, 0.5 / tile, 1.2 / vacuum])
    return CrystalBatch.from_lists(
        [[[4.0 * tile, 0, 0], [0, 4.0 * tile, 0], [0, 0, vacuum]]],
        [torch.cat([flat, other]).tolist()],
        [[12] * len(flat) + [8] * len(flat)],
    )


def test_facts_know_no_supercell_no_vacuum_and_no_rotation():
    once, wide, large = (facts_of(layer(*args)) for args in ((20.0,), (35.0,), (20.0, 2)))
    for name in once:
        assert torch.allclose(once[name], large[name]), name
    assert torch.allclose(once[LAYER_SIZE], wide[LAYER_SIZE])
    assert float(once[LAYER_SIZE]) == pytest.approx(8.0)
    turn = torch.linalg.qr(torch.randn(3, 3, generator=torch.Generator().manual_seed(0)).double())
    batch = layer(20.0)
    turned = CrystalBatch(
        lattice=batch.lattice @ turn.Q,
        frac_coords=batch.frac_coords,
        atomic_numbers=batch.atomic_numbers,
        n_atoms=batch.n_atoms,
    )
    for name, values in facts_of(turned).items():
        assert torch.allclose(values, once[name]), name


def test_layers_are_told_from_frameworks():
    salt = CrystalBatch.from_lists(
        [[[0.0, 2.82, 2.82], [2.82, 0.0, 2.82], [2.82, 2.82, 0.0]]],
        [[[0.0, 0.0, 0.0], [0.5, 0.5, 0.5]]],
        [[11, 17]],
    )
    assert is_layered(layer(20.0))
    assert not is_layered(salt)
    assert not is_layered(CrystalBatch.empty())
