"""Prototype labels do not depend on the setting, and say what they are asked to say."""

import numpy as np
import pytest
import torch

from matmill.crystals.batch import CrystalBatch, concatenate
from matmill.crystals.convert import from_structures
from matmill.crystals.periodic import wrap
from matmill.crystals.prototype import prototype_labels
from matmill.crystals.wyckoff_letters import closure, letter_swaps, wyckoff_table
from matmill.errors import InputError, UnknownNameError


def hexagonal(a, c, species, heights):
    from pymatgen.core import Lattice, Structure

    sites = [(1 / 3, 2 / 3, height) for height in heights]
    return Structure.from_spacegroup("P6_3mc", Lattice.hexagonal(a, c), species, sites)


def cubic(group, a, species, sites):
    from pymatgen.core import Lattice, Structure

    return Structure.from_spacegroup(group, Lattice.cubic(a), species, sites)


def salt():
    return cubic("Fm-3m", 5.64, ["Na", "Cl"], [(0, 0, 0), (0.5, 0.5, 0.5)])


def perovskite(first="Sr", second="Ti"):
    sites = [(0, 0, 0), (0.5, 0.5, 0.5), (0.5, 0.5, 0)]
    return cubic("Pm-3m", 3.905, [first, second, "O"], sites)


def moved(batch, shift, rng):
    """Turn, shift and reorder the crystals of a batch of one."""
    turn, _ = torch.linalg.qr(torch.randn(3, 3, generator=rng, dtype=torch.float64))
    order = torch.randperm(len(batch.frac_coords), generator=rng)
    return CrystalBatch(
        lattice=batch.lattice @ turn,
        frac_coords=wrap(batch.frac_coords + torch.tensor(shift).double())[order],
        atomic_numbers=batch.atomic_numbers[order],
        n_atoms=batch.n_atoms,
    )


def test_the_setting_does_not_matter():
    rng = torch.Generator().manual_seed(3)
    structures = [salt(), perovskite(), hexagonal(3.25, 5.2, ["Zn", "O"], (0.0, 0.382))]
    for structure in structures:
        cells = [structure, structure.get_primitive_structure(), structure * (2, 1, 3)]
        cells.append(structure * [[1, 1, 0], [0, 1, 0], [1, 0, 2]])
        batch = from_structures(cells)
        shifted = [
            moved(batch.select([i]), (0.5, 0.5, 0.5) if i % 2 else (0.13, 0.27, 0.41), rng)
            for i in range(len(batch))
        ]
        for species in ("none", "anonymous", "elements"):
            labels = prototype_labels(concatenate([batch, *shifted]), species=species)
            assert len(set(labels)) == 1, (species, labels)


def test_labels_of_known_crystals():
    batch = from_structures([salt(), perovskite()])
    assert prototype_labels(batch) == ["225:Cl a|Na b", "221:O c|Sr a|Ti b"]
    assert prototype_labels(batch, species="anonymous") == ["225:a|b", "221:a|b|c"]
    assert prototype_labels(batch, species="none") == ["225:a+b", "221:a+b+c"]


def test_exchanged_sites_are_told_apart_where_they_differ():
    """SrTiO3 and TiSrO3 are two crystals (the oxygen sits by Ti); NaCl and ClNa are one."""
    one, other = prototype_labels(from_structures([perovskite(), perovskite("Ti", "Sr")]))
    assert one != other
    swapped = cubic("Fm-3m", 5.64, ["Cl", "Na"], [(0, 0, 0), (0.5, 0.5, 0.5)])
    assert prototype_labels(from_structures([salt()])) == prototype_labels(
        from_structures([swapped])
    )


def test_elements_are_told_only_when_asked():
    oxide = hexagonal(3.23735102, 5.22206130, ["Zn", "O"], (0.00059170, 0.37971830))
    nitride = hexagonal(3.18893040, 5.19235725, ["Ga", "N"], (0.99908371, 0.37591629))
    batch = from_structures([oxide, nitride])
    for species in ("none", "anonymous"):
        assert len(set(prototype_labels(batch, species=species, symprec=0.01))) == 1
    assert len(set(prototype_labels(batch, symprec=0.01))) == 2


def test_element_lines_of_one_letter_stay_apart():
    """Two orbits on b of one element, and of two elements, differ only in who shares."""
    pair = hexagonal(3.25, 5.2, ["Zn", "O"], (0.0, 0.382))
    assert prototype_labels(from_structures([pair]), species="anonymous") == ["186:b|b"]
    assert prototype_labels(from_structures([pair]), species="none") == ["186:b+b"]


def test_crystals_that_no_symmetry_can_be_asked_of():
    broken = CrystalBatch.from_lists([np.full((3, 3), np.nan)], [[[0, 0, 0]]], [[11]])
    labels = prototype_labels(concatenate([broken, from_structures([salt()])]))
    assert labels == [None, "225:Cl a|Na b"]
    assert prototype_labels(CrystalBatch.empty()) == []
    with pytest.raises(UnknownNameError, match="species of a label"):
        prototype_labels(broken, species="colours")


def test_a_tolerance_decides_what_is_symmetric():
    batch = from_structures([salt()])
    rattled = CrystalBatch(
        lattice=batch.lattice,
        frac_coords=batch.frac_coords
        + 0.01 * torch.rand(8, 3, generator=torch.Generator().manual_seed(0)).double(),
        atomic_numbers=batch.atomic_numbers,
        n_atoms=batch.n_atoms,
    )
    assert prototype_labels(rattled, symprec=0.2) == ["225:Cl a|Na b"]
    assert prototype_labels(rattled, symprec=1e-3)[0].startswith("1:")


def test_swaps_are_a_group_of_renamings():
    for group in (2, 47, 62, 225, 227):
        letters = [row[0] for row in wyckoff_table()[str(group)]["positions"]]
        swaps = letter_swaps(group)
        assert swaps[0] == {letter: letter for letter in letters}
        rows = {tuple(names[letter] for letter in letters) for names in swaps}
        assert len(rows) == len(swaps)
        multiplicity = {row[0]: row[1] for row in wyckoff_table()[str(group)]["positions"]}
        for names in swaps:
            assert sorted(names.values()) == sorted(letters)
            assert all(multiplicity[old] == multiplicity[new] for old, new in names.items())
            composed = {tuple(other[names[letter]] for letter in letters) for other in swaps}
            assert composed == rows
    with pytest.raises(InputError, match="no space group 231"):
        letter_swaps(231)
    assert closure([(1, 2, 0)], 3) == {(0, 1, 2), (1, 2, 0), (2, 0, 1)}
