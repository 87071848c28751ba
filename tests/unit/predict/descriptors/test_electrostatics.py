"""Ewald sums against Madelung's constant, pymatgen and simple identities."""

import pytest
import torch
from descriptor_crystals import known_crystals, rock_salt, supercell
from hypothesis import given, settings

from matmill.crystals.batch import CrystalBatch
from matmill.predict.descriptors.bonds import edges_within
from matmill.predict.descriptors.electrostatics import (
    charge_columns,
    guessed_charges,
    site_potentials,
)
from matmill.testing.strategies import batches

MADELUNG = 1.747564594633  # rock salt, per nearest distance
COULOMB = 14.399645


def test_madelung_constant_of_rock_salt():
    salt = rock_salt(a=5.64)
    charge = torch.tensor([1.0] * 4 + [-1.0] * 4).double()
    found = site_potentials(edges_within(salt, 8.4), charge, 8.4)
    torch.testing.assert_close(found, -charge * MADELUNG * COULOMB / 2.82, rtol=1e-4, atol=0)


@pytest.mark.filterwarnings("ignore:No Pauling electronegativity")
@given(batches(max_crystals=2, max_atoms=5, min_distance=0.8))
@settings(max_examples=8)
def test_energies_agree_with_pymatgen(batch: CrystalBatch):
    from pymatgen.analysis.ewald import EwaldSummation
    from pymatgen.core import Structure

    found = charge_columns(edges_within(batch, 8.4), 8.4)["madelung_energy_ev_per_atom"]
    charge = guessed_charges(batch)
    for i in range(len(batch)):
        rows = batch.atoms_of(i)
        structure = Structure(
            batch.lattice[i].numpy(),
            batch.atomic_numbers[rows].tolist(),
            batch.frac_coords[rows].numpy(),
        )
        structure.add_site_property("charge", charge[rows].tolist())
        structure.add_oxidation_state_by_site(charge[rows].tolist())
        theirs = float(EwaldSummation(structure, acc_factor=14).total_energy) / len(structure)
        assert float(found[i]) == pytest.approx(theirs, rel=1e-3, abs=1e-3)


def test_charges_are_neutral_and_have_the_right_sign():
    batch = known_crystals()
    charge = guessed_charges(batch)
    total = torch.zeros(len(batch)).double().index_add(0, batch.crystal_index, charge)
    torch.testing.assert_close(total, torch.zeros_like(total))
    salt = guessed_charges(rock_salt())
    # Mulliken: (IE + EA) / 2 of Na and Cl is 2.84 and 8.29 eV, IE - EA is 4.59 and 9.35 eV.
    common = (2.84 / 4.59 + 8.29 / 9.35) / (1 / 4.59 + 1 / 9.35)
    torch.testing.assert_close(
        salt[[0, -1]], torch.tensor([(common - 2.84) / 4.59, (common - 8.29) / 9.35]).double(),
        rtol=1e-2, atol=0,
    )  # fmt: skip


def test_a_supercell_feels_the_same_potential():
    batch = known_crystals()
    first = charge_columns(edges_within(batch, 8.4), 8.4)
    large = supercell(batch, (2, 1, 1))
    second = charge_columns(edges_within(large, 8.4), 8.4)
    for name, values in first.items():
        torch.testing.assert_close(values, second[name], rtol=1e-7, atol=1e-7)


def test_where_the_sums_are_cut_does_not_matter():
    batch = known_crystals()
    results = [
        site_potentials(edges_within(batch, cutoff), guessed_charges(batch), cutoff)
        for cutoff in (6.0, 8.4, 11.0)
    ]
    torch.testing.assert_close(results[0], results[1], rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(results[1], results[2], rtol=1e-3, atol=1e-3)
