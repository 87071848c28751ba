"""Each filter takes what it is for, counts it once, and can be switched off."""

from dataclasses import replace

import pytest
import torch
from wheel_tables import COLUMN, quick, salts

from matmill.crystals.batch import CrystalBatch, concatenate
from matmill.steer.flywheel.filters import Judged, sift, weights_of_synthetic
from matmill.steer.flywheel.looking import LookInput, Settle, SettleInput, look
from matmill.steer.flywheel.rows import prepared, run_rows
from matmill.steer.flywheel.settings import FilterSettings
from matmill.verify.validity import Limits


@pytest.fixture(scope="module")
def rows():
    return run_rows(prepared(salts(), COLUMN), quick(), 0, "supervised")


def cell(numbers, edge=4.5, shift=0.5):
    cubic = torch.tensor([[0.0, 1, 1], [1, 0, 1], [1, 1, 0]]).double()
    return CrystalBatch(
        lattice=(0.5 * edge * cubic * 2**0.5)[None],
        frac_coords=torch.tensor([[0.0, 0, 0], [shift] * 3]).double(),
        atomic_numbers=torch.tensor(numbers),
        n_atoms=torch.tensor([2]),
    )


@pytest.fixture(scope="module")
def odd(rows):
    """One crystal for each reason, and a last one that nobody objects to."""
    crystals = rows.table.crystals
    bare = replace(crystals, properties={}, ids=())
    held_out = int(rows.test[0])
    formulas = {crystals.formula[row] for row in range(len(crystals))}
    pairs = ([a, b] for a in (3, 11, 19, 37, 12, 20, 30, 38) for b in (9, 17, 35, 53, 8))
    new = [pair for pair in pairs if cell(pair).formula[0] not in formulas]
    fresh, other, third = new[0], new[1], new[2]
    batch = concatenate(
        [
            cell(fresh, shift=0.02),  # atoms on each other
            bare.select([held_out]),  # a test row
            cell([79, 17]),  # gold is in no training row
            bare.select([int(rows.train[0])]),  # a training row
            cell(third, edge=8.0),  # far from all
            cell(fresh),
            cell(fresh),  # again
            cell(other),
        ]
    )
    real = bare.select(rows.train)
    limits = Limits(min_distance_ratio=0.5)
    return batch, look(LookInput(synthetic=batch, real=real, limits=limits))


REASONS = [
    "no crystal",
    "formula of a test row",
    "element that no training row has",
    "copy of a training row",
    "far from every training row",
    "repeated crystal",
]


def test_every_reason_is_found_and_counted_once(rows, odd):
    batch, facts = odd
    found = sift(batch, torch.zeros(8), facts, rows, FilterSettings(agreement=0))
    assert found.kept.tolist() == [5, 7]
    assert {reason: found.dropped[reason] for reason in REASONS} == dict.fromkeys(REASONS, 1)
    assert len(found.kept) + sum(found.dropped.values()) == len(batch)


def test_without_filters_only_the_unreadable_and_test_formulas_go(rows, odd):
    batch, _ = odd
    nothing = FilterSettings.none()
    real = replace(rows.table.crystals.select(rows.train), properties={}, ids=())
    limits = Limits(min_distance_ratio=nothing.min_distance_ratio)
    facts = look(LookInput(synthetic=batch, real=real, limits=limits))
    found = sift(batch, torch.zeros(8), facts, rows, nothing)
    assert 1 not in found.kept.tolist()  # no arm may ever see a test row's formula
    assert found.dropped["formula of a test row"] == 1
    # The overlapping atoms, 0.08 Å apart, fall to the field's own rule of 0.5 Å.
    assert found.kept.tolist() == [2, 3, 4, 5, 6, 7]


def test_values_off_their_condition_and_uncertain_ones_go(rows, odd):
    batch, facts = odd
    wanted = torch.arange(8).double()
    judged = Judged(
        mean=wanted,
        std=torch.tensor([1.0] * 7 + [9.0]).double(),
        low=wanted - 1.0,
        high=torch.tensor([1e3] * 5 + [4.9] + [1e3] * 2).double(),
    )
    plain = FilterSettings(agreement=0.9, copies=False)
    found = sift(batch, wanted, facts, rows, plain, judged=judged)
    assert found.kept.tolist() == [3, 6, 7]
    assert found.dropped["predicted value off its condition"] == 1
    sure = plain.model_copy(update={"certainty": 0.3})
    found = sift(batch, wanted, facts, rows, sure, judged=judged)
    assert found.kept.tolist() == [3, 6]
    assert found.dropped["uncertain prediction"] == 1


def test_crystals_too_far_above_the_hull_or_without_energy_go(rows, odd):
    batch, facts = odd
    settings = FilterSettings(
        agreement=0, copies=False, stability="single-point", max_above_hull_ev_per_atom=0.3
    )
    above = torch.tensor([0, 0, 0, 0.2, 0, 0.4, torch.nan, 0.3], dtype=torch.float64)
    found = sift(batch, torch.zeros(8), facts, rows, settings, above_hull=above)
    assert found.kept.tolist() == [3, 7]
    assert found.dropped["energy too far above the hull"] == 2


def test_synthetic_rows_never_outvote_real_ones():
    weights = weights_of_synthetic(torch.rand(500).double(), 20, factor=1.0)
    assert float(weights.sum()) == pytest.approx(20.0)
    few = weights_of_synthetic(torch.tensor([1.0, 2.0]).double(), 100, factor=0.5)
    assert few.tolist() == pytest.approx([0.5 * 2.718281828**-1, 0.5 * 2.718281828**-2])
    assert len(weights_of_synthetic(torch.zeros(0), 5, factor=1.0)) == 0


def test_energies_are_those_of_the_potential_and_the_hull():
    from matmill.verify.hull import Hull
    from matmill.verify.potentials import load_chgnet

    batch = concatenate([cell([11, 17], edge=5.6 / 2**0.5), cell([12, 8], edge=4.2 / 2**0.5)])
    found = Settle()(SettleInput(crystals=batch, stability="single-point"))
    energy = load_chgnet().compute(batch, forces=False).energy_ev
    expected = Hull.load().energy_above(energy, batch)
    assert found["above_hull_ev_per_atom"] == pytest.approx(expected.tolist(), abs=1e-6)
    relaxed = Settle()(SettleInput(crystals=batch, stability="relaxed"))
    assert max(relaxed["above_hull_ev_per_atom"]) < 0.05
    assert found["hull"] == Hull.load().name
