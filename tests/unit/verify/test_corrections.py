"""Corrections against the values of the scheme's paper and against pymatgen's whole pipeline."""

import math
import warnings

import pytest
import torch

from matmill.crystals.batch import CrystalBatch, concatenate
from matmill.crystals.convert import to_structure
from matmill.crystals.elements import number
from matmill.errors import InputError
from matmill.verify.corrections import TRI110_FACTOR, mp2020, tri110


def cell(numbers: dict[str, int], edge: float = 9.0) -> CrystalBatch:
    """Return atoms on a grid in a cube, far enough apart to have no O-O bond."""
    z = [number(symbol) for symbol, n in numbers.items() for _ in range(n)]
    side = math.ceil(len(z) ** (1 / 3))
    sites = [[i / side, j / side, k / side] for i in range(side) for j in range(side)
             for k in range(side)][: len(z)]  # fmt: skip
    lattice = (torch.eye(3, dtype=torch.float64) * edge).tolist()
    return CrystalBatch.from_lists([lattice], [sites], [z])


def peroxide(distance: float) -> CrystalBatch:
    """Return two Li and an O2 molecule in a box."""
    frac = [[0.0, 0.0, 0.0], [0.5, 0.5, 0.0], [0.5, 0.0, 0.5], [0.5 + distance / 8, 0.0, 0.5]]
    lattice = (torch.eye(3, dtype=torch.float64) * 8.0).tolist()
    return CrystalBatch.from_lists([lattice], [frac], [[3, 3, 8, 8]])


@pytest.mark.parametrize(
    ("atoms", "run_type", "expected"),
    [
        ({"Na": 4, "Cl": 4}, "GGA", [-2.456]),
        ({"Mg": 4, "O": 4}, "GGA", [-2.748]),
        ({"Fe": 12, "O": 18}, "GGA+U", [-12.366, -27.072]),
        ({"Fe": 4, "O": 4}, "GGA+U", [-2.748, -9.024]),
        ({"Fe": 2, "F": 4}, "GGA+U", [-1.848, -4.512]),
        ({"Cs": 1, "Au": 1}, "GGA", []),
        ({"Fe": 2}, "GGA", []),
    ],
)
def test_known_values(atoms, run_type, expected):
    found = mp2020(cell(atoms))
    assert found.run_type == [run_type]
    assert sorted(found.parts[0].values()) == pytest.approx(sorted(expected), abs=1e-6)
    assert float(found.energy_ev[0]) == pytest.approx(sum(expected), abs=1e-6)


def test_an_oxide_of_a_metal_with_u_run_without_it_is_rejected():
    found = mp2020(cell({"Fe": 12, "O": 18}), run_types=["GGA"])
    assert math.isnan(float(found.energy_ev[0]))
    assert found.parts == [{}]
    assert float(mp2020(cell({"Mg": 4, "O": 4}), run_types=["GGA"]).energy_ev[0]) < 0


def test_run_types_are_checked():
    with pytest.raises(InputError, match="GGA"):
        mp2020(cell({"Mg": 1, "O": 1}), run_types=["PBE"])
    with pytest.raises(InputError, match="each crystal"):
        mp2020(cell({"Mg": 1, "O": 1}), run_types=[])
    assert mp2020(CrystalBatch.empty()).energy_ev.shape == (0,)


def test_short_bonds_between_oxygens_change_the_correction():
    found = mp2020(concatenate([peroxide(2.6), peroxide(1.45), peroxide(1.33)]))
    assert found.oxide_type == ["oxide", "peroxide", "superoxide"]
    assert found.energy_ev.tolist() == pytest.approx([-1.374, -0.93, -0.322], abs=1e-6)
    assert mp2020(cell({"Na": 4, "Cl": 4})).oxide_type == [None]


@pytest.mark.filterwarnings("ignore")
def test_all_crystals_agree_with_pymatgens_own_pipeline():
    """pymatgen decides everything there: run type and U from its own input set, oxide types."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from pymatgen.entries.compatibility import MaterialsProject2020Compatibility
        from pymatgen.entries.computed_entries import ComputedStructureEntry
        from pymatgen.io.vasp.sets import MPRelaxSet

    formulas = [
        {"Na": 4, "Cl": 4}, {"Fe": 2, "O": 3}, {"Li": 1, "Co": 1, "O": 2}, {"Fe": 1, "Sb": 1},
        {"Mo": 1, "S": 2}, {"W": 1, "O": 3}, {"V": 1, "F": 3}, {"Ca": 1, "C": 1, "O": 3},
        {"Cr": 2, "Se": 3}, {"Ni": 1, "Cl": 2, "O": 1}, {"Zr": 1, "N": 1}, {"Ti": 1, "H": 2},
        {"Cu": 1, "Br": 1, "S": 1}, {"Mn": 1, "Si": 1}, {"Ga": 1, "Te": 1},
    ]  # fmt: skip
    batch = concatenate([cell(atoms) for atoms in formulas])
    found = mp2020(batch)
    scheme = MaterialsProject2020Compatibility(check_potcar=False)
    for i in range(len(batch)):
        structure = to_structure(batch, i)
        incar = MPRelaxSet(structure, user_potcar_functional="PBE").incar
        symbols = [site.specie.symbol for site in structure.sites]
        species = list(dict.fromkeys(symbols))
        us = dict(zip(species, incar.get("LDAUU", []), strict=False)) if incar.get("LDAU") else {}
        entry = ComputedStructureEntry(
            structure,
            0.0,
            parameters={"run_type": "GGA+U" if any(us.values()) else "GGA", "hubbards": us},
        )
        assert scheme.process_entry(entry) is not None
        assert float(found.energy_ev[i]) == pytest.approx(entry.energy, abs=1e-6), formulas[i]
        assert found.run_type[i] == entry.parameters["run_type"]


def test_tri110_scales_and_shifts():
    batch = concatenate([cell({"Fe": 4, "O": 4}), cell({"Na": 4, "Cl": 4}), cell({"Fe": 2})])
    raw = torch.tensor([-50.0, -27.0, -16.0])
    expected = [-50.0 * 1.108 - 4 * 3.189, -27.0 * 1.108, -16.0 * 1.108]
    assert tri110(raw, batch).tolist() == pytest.approx(expected, abs=1e-6)
    assert TRI110_FACTOR == 1.108
