"""The hull against pymatgen's phase diagram, a linear program, and hand-made systems."""

import math
import warnings

import numpy as np
import pyarrow as pa
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from matmill.crystals.batch import CrystalBatch, concatenate
from matmill.crystals.composition import parse_formula
from matmill.crystals.elements import SYMBOLS, number
from matmill.errors import DataError
from matmill.verify import hull as hull_module
from matmill.verify.hull import Hull, lowest_mixture
from matmill.verify.hull_entries import HullEntries, entries_from_table, entries_to_table


def counts_of(formula: str) -> np.ndarray:
    row = np.zeros(len(SYMBOLS), dtype=np.int32)
    for symbol, n in parse_formula(formula).items():
        row[number(symbol)] = n
    return row


def hull_of(entries: dict[str, float]) -> Hull:
    """Return a hull from formulas and energies per formula as written."""
    counts = np.stack([counts_of(f) for f in entries])
    energies = np.array(list(entries.values())) / counts.sum(1)
    return Hull(
        HullEntries(
            counts=counts,
            energy_ev_per_atom=energies,
            relaxed=np.zeros(len(counts), bool),
            n_crystals=np.ones(len(counts), np.int64),
            ids=list(entries),
        ),
        name="toy",
        hash="0",
    )


def crystal(formula: str) -> CrystalBatch:
    numbers = [number(s) for s, n in parse_formula(formula).items() for _ in range(n)]
    frac = np.linspace(0, 1, len(numbers), endpoint=False)[:, None] * np.ones(3)
    return CrystalBatch.from_lists([np.eye(3) * 9.0], [frac.tolist()], [numbers])


def above(hull: Hull, formula: str, energy: float) -> float:
    return float(hull.energy_above(torch.tensor([energy]), crystal(formula))[0])


TOY = {"Li": 0.0, "O2": 0.0, "Li2O": -6.0, "Li2O2": -6.6}


@pytest.mark.parametrize(
    ("formula", "energy", "expected"),
    [
        ("Li2O2", -6.6, 0.0),
        ("Li2O2", -6.2, 0.1),
        ("Li2O", -6.3, -0.1),
        ("LiO", -3.3, 0.0),
        ("Li4O2", -12.0, 0.0),
        ("LiO2", -2.6, 0.7 / 3),
    ],
)
def test_toy_hull(formula, energy, expected):
    assert above(hull_of(TOY), formula, energy) == pytest.approx(expected, abs=1e-6)


def test_a_missing_element_gives_nan_and_nothing_else_does():
    hull = hull_of(TOY)
    batch = concatenate([crystal("NaO"), crystal("LiO")])
    values = hull.energy_above(torch.tensor([-3.0, -3.3]), batch)
    assert math.isnan(values[0])
    assert float(values[1]) == pytest.approx(0.0, abs=1e-6)
    assert hull.elements == {"Li", "O"}
    assert hull.energy_above(torch.zeros(0), CrystalBatch.empty()).shape == (0,)


def random_system(seed: int, n_elements: int, n_entries: int) -> dict[str, float]:
    rng = np.random.default_rng(seed)
    symbols = [SYMBOLS[z] for z in rng.choice(np.arange(3, 90), n_elements, replace=False)]
    entries = {s: float(rng.normal(-4, 2)) for s in symbols}
    for _ in range(n_entries):
        chosen = rng.choice(symbols, rng.integers(2, n_elements + 1), replace=False)
        formula = "".join(f"{s}{rng.integers(1, 7)}" for s in sorted(chosen))
        counts = parse_formula(formula)
        base = sum(n * entries[s] for s, n in counts.items())
        entries.setdefault(formula, base + float(rng.normal(-0.5, 0.5)) * sum(counts.values()))
    return entries


@pytest.mark.filterwarnings("ignore")  # noble gases have no electronegativity, says pymatgen
@pytest.mark.parametrize("n_elements", [1, 2, 3, 4, 5, 6])
def test_random_systems_agree_with_pymatgen(n_elements):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from pymatgen.analysis.phase_diagram import PDEntry, PhaseDiagram
        from pymatgen.core import Composition

    for seed in range(6):
        entries = random_system(seed, n_elements, 30 * (n_elements > 1))
        hull = hull_of(entries)
        diagram = PhaseDiagram([PDEntry(Composition(f), e) for f, e in entries.items()])
        for formula, energy in entries.items():
            n = sum(parse_formula(formula).values())
            expected = energy / n - diagram.get_hull_energy_per_atom(Composition(formula))
            assert above(hull, formula, energy) == pytest.approx(expected, abs=1e-6)


@given(st.integers(0, 100_000), st.integers(2, 6))
def test_random_mixtures_agree_with_a_linear_program(seed, n_elements):
    from scipy.optimize import linprog

    rng = np.random.default_rng(seed)
    entries = random_system(seed, n_elements, 25)
    symbols = sorted({s for f in entries for s in parse_formula(f)})
    counts = np.array([[parse_formula(f).get(s, 0) for s in symbols] for f in entries], float)
    sizes = counts.sum(1, keepdims=True)
    fractions, energies = counts / sizes, np.array(list(entries.values())) / sizes[:, 0]
    target = rng.dirichlet(np.ones(len(symbols)))
    solution = linprog(energies, A_eq=fractions.T, b_eq=target, bounds=(0, None), method="highs")
    assert lowest_mixture(fractions, energies, target) == pytest.approx(solution.fun, abs=1e-6)


def test_competitors_are_counted_by_system_and_subsystem():
    hull = hull_of({**TOY, "Fe": 0.0, "Fe2O3": -8.0, "LiFeO2": -9.0, "Li5FeO4": -20.0})
    batch = concatenate([crystal("LiFeO2"), crystal("Li2O"), crystal("Na"), crystal("Li")])
    assert hull.n_competitors(batch).tolist() == [2, 2, 0, 1]
    assert hull.n_competitors(batch, subsystems=True).tolist() == [8, 4, 0, 1]


def test_tables_survive_the_file(tmp_path):
    hull = hull_of(TOY)
    table = entries_to_table(hull.entries, {"name": "toy/1"})
    path = tmp_path / "hull.parquet"
    import pyarrow.parquet as pq

    pq.write_table(table, path)
    back = Hull.load(path)
    assert back.name == "toy/1"
    assert back.entries.ids == hull.entries.ids
    assert np.array_equal(back.entries.counts, hull.entries.counts)
    assert above(back, "LiO2", -2.6) == pytest.approx(0.7 / 3, abs=1e-5)
    assert entries_from_table(table).energy_ev_per_atom.dtype == np.float64


def test_a_file_that_is_no_hull_is_refused(tmp_path):
    import pyarrow.parquet as pq

    path = tmp_path / "other.parquet"
    pq.write_table(pa.table({"a": [1]}), path)
    with pytest.raises(DataError, match=r"other\.parquet"):
        Hull.load(path)
    with pytest.raises(DataError, match="missing"):
        Hull.load(tmp_path / "missing.parquet")


def test_subsystems_of_many_elements_are_found_by_both_ways(monkeypatch):
    """Few elements are looked up, many are searched; what lies inside is the same."""
    entries = random_system(5, 6, 60)
    looked_up, searched = hull_of(entries), hull_of(entries)
    formulas = list(entries)
    batch = concatenate([crystal(f) for f in formulas])
    energy = torch.tensor(list(entries.values()), dtype=torch.float64)
    expected = looked_up.energy_above(energy, batch)
    counts = looked_up.n_competitors(batch, subsystems=True)
    monkeypatch.setattr(hull_module, "_SMALL", 0)
    torch.testing.assert_close(searched.energy_above(energy, batch), expected, atol=0, rtol=0)
    assert searched.n_competitors(batch, subsystems=True).tolist() == counts.tolist()


@given(st.integers(0, 10_000), st.floats(0.01, 2.0))
def test_a_hull_only_falls_when_entries_are_added(seed, depth):
    entries = random_system(seed, 3, 12)
    formula, energy = list(entries.items())[-1]
    n = sum(parse_formula(formula).values())
    lower = {**entries, formula: energy - depth * n}
    before, after = hull_of(entries), hull_of(lower)
    for name in entries:
        counts = counts_of(name)
        assert after.value(counts) <= before.value(counts) + 1e-9
    # What a crystal gains in energy it gains against a hull that it is no part of.
    assert above(before, formula, energy - depth * n) == pytest.approx(
        above(before, formula, energy) - depth, abs=1e-6
    )


@pytest.mark.filterwarnings("ignore")
def test_below_the_hull_is_negative_where_pymatgen_needs_to_be_asked():
    """T-13: Li2O at -6.3 and a missing element."""
    from pymatgen.analysis.phase_diagram import PDEntry, PhaseDiagram
    from pymatgen.core import Composition

    diagram = PhaseDiagram([PDEntry(Composition(f), e) for f, e in TOY.items()])
    entry = PDEntry(Composition("Li2O"), -6.3)
    with pytest.raises(ValueError, match="No valid decomp"):
        diagram.get_e_above_hull(entry)
    expected = diagram.get_e_above_hull(entry, allow_negative=True)
    assert above(hull_of(TOY), "Li2O", -6.3) == pytest.approx(expected, abs=1e-6)
    with pytest.raises(ValueError, match=r"Unable|not"):
        diagram.get_e_above_hull(PDEntry(Composition("NaO"), -3.0), allow_negative=True)
    assert math.isnan(above(hull_of(TOY), "NaO", -3.0))
