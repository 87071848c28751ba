import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import norm

from matmill.campaign.plan import CampaignSettings
from matmill.campaign.ranking import DEEP_EV_PER_ATOM, choose, probability, score
from matmill.campaign.records import Candidate
from matmill.campaign.targets import parse_target

SETTINGS = CampaignSettings()
GAP = parse_target("band_gap = 1.5..2.5")


@given(st.floats(1.4, 2.6), st.floats(0.05, 2.0))
def test_probability_is_that_of_a_normal_distribution(mean, std):
    expected = norm.cdf(2.5, mean, std) - norm.cdf(1.5, mean, std)
    assert probability(GAP, mean, std) == pytest.approx(max(expected, 0.0), abs=2e-3)


def test_exact_values_count_as_met_or_not():
    density = parse_target("density < 5")
    assert probability(density, 4.9, None) == 1.0
    assert 0.0 < probability(density, 5.1, 0.0) < 1e-3
    assert probability(density, 9.0, 0.0) < probability(density, 5.1, 0.0)
    assert probability(density, None, None) == probability(density, math.nan, 0.1) == 0.0


def test_extremes_follow_the_value():
    best, least = parse_target("max bulk_modulus"), parse_target("min bulk_modulus")
    assert probability(best, 300.0, 10.0) > probability(best, 100.0, 10.0)
    assert probability(least, 300.0, 10.0) < probability(least, 100.0, 10.0)


@given(st.floats(-DEEP_EV_PER_ATOM, 1.0), st.floats(0.0, 1.0))
def test_score_falls_with_the_hull_distance_and_when_known(above, more):
    values = {"energy_above_hull_ev_per_atom": above, "band_gap_ev": 2.0, "band_gap_ev_std": 0.2}
    here = score((GAP,), values, SETTINGS)
    higher = {**values, "energy_above_hull_ev_per_atom": above + more}
    assert score((GAP,), higher, SETTINGS) <= here
    assert score((GAP,), {**values, "known_as": "mp-1"}, SETTINGS) == pytest.approx(here / 2)
    assert 0.0 <= here <= 1.0


def test_the_hull_target_uses_the_computed_distance():
    target = parse_target("energy_above_hull <= 0.05")
    assert score((target,), {"energy_above_hull_ev_per_atom": 0.0}, SETTINGS) == 1.0
    assert score((target,), {"energy_above_hull_ev_per_atom": 0.08}, SETTINGS) < 1e-3


def candidate(number, fate="passed", stage="predict", above=0.0, **values):
    values = {"energy_above_hull_ev_per_atom": above, "fate_novelty": "passed", **values}
    return Candidate(
        number=number,
        proposed="x",
        structure="x",
        round=0,
        origin="f",
        fate=fate,
        stage=stage,
        values=values,
    )


def test_the_best_are_chosen_and_the_number_is_filled_up():
    found = [
        candidate(0, above=0.08),
        candidate(1, "above_hull", "hull", above=0.3),
        candidate(2, above=0.0),
        candidate(3, "above_hull", "hull", above=0.2),
        candidate(4, "not_converged", "relax", above=0.0),
        candidate(5, "above_hull", "hull", above=0.15, fate_novelty="duplicate"),
        candidate(6, stage="screen"),
        candidate(7, "hull_lacks_element", "hull", above=None),
    ]
    chosen, spare = choose(found, (), SETTINGS, 3)
    assert [c.number for c in chosen] == [2, 0]
    assert [c.number for c in spare] == [3]
    chosen, spare = choose(found, (), SETTINGS, 1)
    assert ([c.number for c in chosen], spare) == ([2], [])


def test_equal_scores_keep_the_order_of_proposal():
    chosen, _ = choose([candidate(3), candidate(1), candidate(2)], (), SETTINGS, 3)
    assert [c.number for c in chosen] == [1, 2, 3]


def test_a_crystal_far_below_the_hull_counts_as_doubtful():
    def at(above):
        return score((), {"energy_above_hull_ev_per_atom": above}, SETTINGS)

    assert at(-0.04) == at(0.0) == 1.0
    assert at(-1.2) < at(0.05) < at(0.01)
