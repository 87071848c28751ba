"""Votes of several potentials, and hulls that candidates are part of."""

import math
import warnings

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from test_hull import TOY, above, counts_of, crystal, hull_of, random_system

from matmill.crystals.batch import CrystalBatch, concatenate
from matmill.crystals.composition import parse_formula
from matmill.errors import InputError
from matmill.verify.ensemble import vote
from matmill.verify.joint_hull import energy_above_joint

NAN = math.nan


def test_votes_are_counted_by_hand():
    chgnet = torch.tensor([0.0, 0.05, 0.2, NAN, NAN, 0.1], dtype=torch.float64)
    other = torch.tensor([0.04, 0.15, 0.3, 0.01, NAN, 0.1], dtype=torch.float64)
    votes = vote([chgnet, other], names=["a", "b"], limit_ev_per_atom=0.1)
    assert votes.n_answers.tolist() == [2, 2, 2, 1, 0, 2]
    assert votes.n_votes.tolist() == [2, 1, 0, 1, 0, 2]
    # One silent potential is no vote for: four crystals are not robust, two are.
    assert votes.is_robust.tolist() == [True, False, False, False, False, True]
    mean = votes.mean_ev_per_atom.tolist()
    assert mean[:4] == pytest.approx([0.02, 0.10, 0.25, 0.01])
    assert math.isnan(mean[4])
    std = votes.std_ev_per_atom.tolist()
    assert std[:3] == pytest.approx([0.04 / 2**0.5, 0.1 / 2**0.5, 0.1 / 2**0.5])
    assert math.isnan(std[3])
    assert math.isnan(std[4])


@given(st.integers(0, 10_000), st.integers(2, 5), st.integers(1, 12))
def test_votes_agree_with_numpy_and_do_not_depend_on_the_order(seed, n_potentials, n):
    rng = np.random.default_rng(seed)
    values = rng.normal(0.05, 0.1, (n_potentials, n))
    values[rng.random(values.shape) < 0.2] = np.nan
    columns = [torch.from_numpy(row) for row in values]
    names = [str(k) for k in range(n_potentials)]
    votes = vote(columns, names=names)
    back = vote(columns[::-1], names=names[::-1])
    assert votes.is_robust.tolist() == back.is_robust.tolist()
    assert votes.n_votes.tolist() == back.n_votes.tolist()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of empty slices
        mean, std = np.nanmean(values, 0), np.nanstd(values, 0, ddof=1)
    np.testing.assert_allclose(votes.mean_ev_per_atom.numpy(), mean, atol=1e-12)
    answered = np.isfinite(values).sum(0)
    std[answered < 2] = np.nan
    np.testing.assert_allclose(votes.std_ev_per_atom.numpy(), std, atol=1e-12)
    assert (votes.is_robust.numpy() == (values <= 0.1).all(0)).all()


def test_votes_need_columns_that_fit():
    with pytest.raises(InputError, match="at least one"):
        vote([], names=[])
    with pytest.raises(InputError, match="NaN"):
        vote([torch.zeros(2), torch.zeros(3)], names=["a", "b"])


def test_candidates_compete_on_the_joint_hull():
    hull = hull_of(TOY)
    batch = concatenate([crystal(f) for f in ("LiO2", "Li2O2", "Li2O", "NaO")])
    # LiO2 far below the known hull pushes Li2O2 off it, and itself has distance zero.
    energy = torch.tensor([-12.0, -6.6, -6.0, -3.0])
    alone = hull.energy_above(energy, batch)
    assert float(alone[0]) < -2.0
    joint = energy_above_joint(hull, energy, batch)
    assert float(joint[0]) == 0.0
    # Li2O2 splits into LiO2 and Li: (-12 + 0) / 4 an atom against -1.65.
    assert float(joint[1]) == pytest.approx(-6.6 / 4 + 12.0 / 4)
    # Li2O splits the same way: one LiO2 and three Li hold two O and four Li.
    assert float(joint[2]) == pytest.approx(-6.0 / 3 + 12.0 / 6)
    assert math.isnan(joint[3])


def test_the_self_consistent_hull_replaces_the_known_crystals_of_the_system():
    hull = hull_of(TOY)
    batch = concatenate([crystal("LiO"), crystal("Li2O")])
    energy = torch.tensor([-1.0, -1.5])
    joint = energy_above_joint(hull, energy, batch)
    assert float(joint[0]) > 1.0
    own = energy_above_joint(hull, energy, batch, known="subsystems")
    assert own.tolist() == pytest.approx([0.0, 0.0])  # only Li and O are left of the known ones
    worse = energy_above_joint(hull, torch.tensor([-1.0, -0.3]), batch, known="subsystems")
    assert float(worse[1]) == pytest.approx(-0.1 + 1.0 / 3)  # LiO and Li


@pytest.mark.filterwarnings("ignore")
@given(st.integers(0, 10_000), st.integers(2, 4))
def test_joint_hulls_agree_with_pymatgen(seed, n_elements):
    from pymatgen.analysis.phase_diagram import PDEntry, PhaseDiagram
    from pymatgen.core import Composition

    entries = random_system(seed, n_elements, 12)
    new = {
        formula: energy
        for formula, energy in random_system(seed, n_elements, 24).items()
        if formula not in entries
    } or dict(list(entries.items())[-1:])
    batch = concatenate([crystal(f) for f in new])
    energy = torch.tensor(list(new.values()), dtype=torch.float64)
    found = energy_above_joint(hull_of(entries), energy, batch)
    for i, (formula, value) in enumerate(new.items()):
        mine = set(parse_formula(formula))
        inside = [
            PDEntry(Composition(f), e)
            for f, e in [*entries.items(), *new.items()]
            if set(parse_formula(f)) <= mine
        ]
        diagram = PhaseDiagram(inside)
        n = sum(parse_formula(formula).values())
        expected = value / n - diagram.get_hull_energy_per_atom(Composition(formula))
        assert float(found[i]) == pytest.approx(max(expected, 0.0), abs=1e-6)
        assert float(found[i]) >= 0.0


def test_an_empty_batch_has_no_distances():
    assert energy_above_joint(hull_of(TOY), torch.zeros(0), CrystalBatch.empty()).shape == (0,)


def test_a_known_crystal_without_an_energy_makes_its_systems_unknown():
    entries = {**TOY, "Fe": 0.0, "Fe2O3": NAN}
    hull = hull_of(entries)
    assert above(hull, "LiO", -3.3) == pytest.approx(0.0, abs=1e-6)
    assert math.isnan(above(hull, "FeO", -3.0))
    assert math.isnan(above(hull, "LiFeO2", -9.0))
    assert math.isnan(hull.value(counts_of("Fe2O3")))
    assert above(hull, "LiFe", 0.2) == pytest.approx(0.1)
    assert hull.elements == {"Li", "O", "Fe"}
