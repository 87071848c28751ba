"""Element mover's distance against T-16, T-17 and SciPy's one-dimensional transport."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from matmill.crystals.composition import element_counts
from matmill.crystals.compositions import parse_formulas
from matmill.crystals.element_mover import (
    MODIFIED_PETTIFOR,
    N_PLACES,
    composition_vectors,
    element_mover_distances,
    places,
)
from matmill.crystals.elements import SYMBOLS, number
from matmill.testing.strategies import batches


def amounts(*formulas):
    return parse_formulas(formulas).amounts


def distance(a, b):
    return float(element_mover_distances(amounts(a), amounts(b)))


@pytest.mark.parametrize(
    ("a", "b", "expected"),
    [
        ("NaCl", "KCl", 0.5),
        ("NaCl", "NaBr", 0.5),
        ("TiO2", "ZrO2", 2 / 3),
        ("BaTiO3", "SrTiO3", 0.2),
        ("LiFePO4", "NaFePO4", 1 / 7),
        ("ZnO", "Zn4O4", 0.0),
        ("ZnO", "GaN", 7.0),
        ("ZnO", "Bi2Te3", 10.7),
        ("He", "H", 102.0),
    ],
)
def test_published_distances(a, b, expected):
    assert distance(a, b) == pytest.approx(expected, abs=1e-9)
    assert distance(b, a) == pytest.approx(expected, abs=1e-9)


def test_the_scale_holds_every_element_up_to_lawrencium_once():
    assert sorted(number(symbol) for symbol in MODIFIED_PETTIFOR) == list(range(1, 104))
    line = places()
    assert [SYMBOLS[z] for z in line.argsort()[-N_PLACES:].tolist()] == list(MODIFIED_PETTIFOR)
    assert line[0] == line[104] == -1


@given(batches(max_number=103), batches(max_number=103))
def test_it_is_scipys_transport_on_the_line(a, b):
    from scipy.stats import wasserstein_distance

    mine = element_mover_distances(element_counts(a), element_counts(b))
    line = places()
    for i in range(len(a)):
        for j in range(len(b)):
            ours, theirs = (
                line[x.atomic_numbers[x.atoms_of(k)]].numpy() for x, k in ((a, i), (b, j))
            )
            assert float(mine[i, j]) == pytest.approx(wasserstein_distance(ours, theirs), abs=1e-9)


@given(st.lists(st.lists(st.integers(1, 103), min_size=1, max_size=6), min_size=3, max_size=3))
def test_it_is_a_metric(atoms):
    counts = torch.stack([torch.bincount(torch.tensor(z), minlength=119) for z in atoms])
    found = element_mover_distances(counts, counts)
    torch.testing.assert_close(found, found.T, atol=1e-12, rtol=0.0)
    assert float(found.diagonal().abs().max()) == 0.0
    assert float(found[0, 2]) <= float(found[0, 1] + found[1, 2]) + 1e-9


def test_what_is_not_on_the_scale_has_no_distance():
    table = torch.cat([amounts("NaCl", "RfO2"), torch.zeros(1, 119, dtype=torch.float64)])
    assert torch.isfinite(composition_vectors(table)).all(1).tolist() == [True, False, False]
    found = element_mover_distances(table, amounts("KCl"))
    assert float(found[0, 0]) == 0.5
    assert bool(torch.isnan(found[1:]).all())
    assert element_mover_distances(table[:0], table).shape == (0, 3)


def test_amounts_may_be_fractional():
    assert distance("Fe0.5Ni0.5", "Fe2Ni2") == pytest.approx(0.0, abs=1e-12)
    steps = int(places()[28] - places()[26])
    assert distance("Fe0.75Ni0.25", "Fe") == pytest.approx(0.25 * abs(steps))
