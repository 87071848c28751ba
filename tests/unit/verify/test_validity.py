"""Distances against ASE and pymatgen, charges against SMACT, limits by test vectors."""

import warnings

import numpy as np
import pytest
import torch
from crystals_for_tests import MP_20, given_crystals, perturbed, prototypes
from hypothesis import given
from hypothesis import strategies as st

from matmill.crystals.batch import CrystalBatch, concatenate
from matmill.crystals.elements import number
from matmill.verify.charges import composition_kinds
from matmill.verify.validity import (
    Limits,
    charge_neutral,
    check,
    smact_valid,
    smallest_distance,
    smallest_distance_ratio,
)
from matmill.verify.verdict import Fate, Verdict, funnel, share_passed


def cube(a: float, frac: list[list[float]], numbers: list[int]) -> CrystalBatch:
    return CrystalBatch.from_lists([np.eye(3) * a], [frac], [numbers])


def of_formula(text: str) -> CrystalBatch:
    from matmill.crystals.composition import parse_formula

    numbers = [number(s) for s, n in parse_formula(text).items() for _ in range(n)]
    frac = np.linspace(0, 1, len(numbers), endpoint=False)[:, None] * np.ones(3)
    return CrystalBatch.from_lists([np.eye(3) * 50.0], [frac.tolist()], [numbers])


def smallest_by_vesin(batch: CrystalBatch, i: int) -> float:
    from vesin import NeighborList

    rows = batch.atoms_of(i)
    (distance,) = NeighborList(cutoff=15.0, full_list=True).compute(
        points=batch.cart_coords[rows].numpy(),
        box=batch.lattice[i].numpy(),
        periodic=True,
        quantities="d",
    )
    return float(distance.min())


@given(st.integers(0, 10_000), st.integers(1, 8))
def test_smallest_distance_in_random_skewed_cells(seed, n_atoms):
    rng = torch.Generator().manual_seed(seed)
    lattice = torch.randn(1, 3, 3, generator=rng, dtype=torch.float64) * 3
    if abs(float(torch.linalg.det(lattice))) < 0.5:
        return
    batch = CrystalBatch(
        lattice=lattice,
        frac_coords=torch.rand(n_atoms, 3, generator=rng, dtype=torch.float64),
        atomic_numbers=torch.full((n_atoms,), 14),
        n_atoms=torch.tensor([n_atoms]),
    )
    expected = smallest_by_vesin(batch, 0)
    assert float(smallest_distance(batch)) == pytest.approx(expected, abs=1e-9)


def test_smallest_distance_of_a_mixed_batch_is_that_of_each_alone():
    batch = concatenate([prototypes()] * 40)
    together = smallest_distance(batch)
    alone = [float(smallest_distance(batch.select([i]))) for i in range(9)]
    assert together[:9].tolist() == pytest.approx(alone)
    assert torch.equal(together[:9], together[-9:])
    assert alone[0] == pytest.approx(2.82)


@pytest.mark.skipif(not MP_20.exists(), reason="needs the given crystals (MATMILL_DATA)")
def test_smallest_distance_of_given_crystals():
    batch = given_crystals(100, seed=1)
    mine = smallest_distance(batch)
    for i in range(len(batch)):
        assert float(mine[i]) == pytest.approx(smallest_by_vesin(batch, i), abs=1e-9)


def test_ratio_to_covalent_radii_includes_self_images():
    # Two Cs (2.44 Å) and one far smaller H: the Cs-Cs image is the tightest contact, not H-H.
    batch = cube(4.0, [[0, 0, 0], [0.5, 0.5, 0.5]], [55, 1])
    ratio = float(smallest_distance_ratio(batch))
    assert ratio == pytest.approx(4.0 / (2 * 2.44))


def test_geometry_vectors():
    """T-5."""
    close = [cube(6.0, [[0, 0, 0], [d / 6.0, 0, 0]], [1, 1]) for d in (0.499, 0.5, 0.501)]
    limits = Limits()
    assert [check(x, limits)[0] for x in close] == [Fate.ATOMS_TOO_CLOSE, None, None]
    loose = Limits(min_volume_per_atom_a3=0.0)
    assert check(cube(0.45, [[0, 0, 0]], [1]), loose) == [Fate.CELL_IMPOSSIBLE]
    # CDVAE's rule never looks at an atom's own images and accepts this one.
    assert check(cube(0.47, [[0, 0, 0]], [1]), loose) == [Fate.ATOMS_TOO_CLOSE]


def test_each_objection_is_raised_once_and_in_its_place():
    good = prototypes()
    broken = [
        (CrystalBatch.from_lists([np.eye(3) * 4], [[[0, 0, np.nan]]], [[14]]), Fate.NOT_FINITE),
        (CrystalBatch.from_lists([np.zeros((3, 3))], [[[0, 0, 0]]], [[14]]), Fate.CELL_IMPOSSIBLE),
        (cube(4.0, [[0, 0, 0]], [99]), Fate.UNKNOWN_ELEMENT),
        (cube(9.0, [[0, 0, 0]], [14]), Fate.VOLUME_IMPLAUSIBLE),
        (cube(4.0, [[0, 0, 0], [0.01, 0, 0]], [14, 14]), Fate.ATOMS_TOO_CLOSE),
        (of_formula("Na2Cl"), Fate.VOLUME_IMPLAUSIBLE),
    ]
    batch = concatenate([good, *(x for x, _ in broken)])
    assert check(batch) == [None] * len(good) + [fate for _, fate in broken]
    roomy = Limits(charge_table="icsd24", max_volume_per_atom_a3=1e6)
    assert check(of_formula("Na2Cl"), roomy) == [Fate.NOT_CHARGE_NEUTRAL]
    assert check(of_formula("NaCl"), roomy) == [None]
    assert check(CrystalBatch.empty()) == []


VALID = "NaCl TiO2 LiCoO2 NaO SiC GaAs FeAl CsAu Fe C He BaTiO3 KrF2 ClF3"
INVALID = "Na2Cl NaCl3 KO2 Fe3O4 Mn3O4 Co3O4 LaB6 HeNe"


def test_smact_vectors():
    """T-6."""
    assert all(bool(smact_valid(of_formula(f))) for f in VALID.split())
    assert not any(bool(smact_valid(of_formula(f))) for f in INVALID.split())
    for formula in ("Fe3O4", "Mn3O4", "Co3O4"):
        assert bool(smact_valid(of_formula(formula), mixed_valence=True))
    assert bool(smact_valid(of_formula("Fe3O4"), "wiki"))
    assert bool(smact_valid(of_formula("LaB6"), "wiki"))
    for formula in ("SiC", "GaAs", "NaO", "CaC2", "FeSi"):
        assert not bool(smact_valid(of_formula(formula), "sp"))
    assert bool(smact_valid(of_formula("Na4Cl4")))
    kinds = composition_kinds(concatenate([of_formula(f) for f in ("C", "FeAl", "NaCl", "Na2Cl")]))
    assert kinds == ["element", "metals", "neutral", "invalid"]
    assert bool(charge_neutral(of_formula("NaCl")))
    assert not bool(charge_neutral(of_formula("Na2Cl")))


def agree_with_smact(formulas: list[str], **options) -> None:
    pytest.importorskip("smact")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from smact.screening import smact_validity

        mine = [bool(smact_valid(of_formula(f), **options)) for f in formulas]
        names = {"table": "oxidation_states_set", "mixed_valence": "mixed_valence"}
        theirs = [
            smact_validity(f, **{names[key]: value for key, value in options.items()})
            for f in formulas
        ]
    differ = [f for f, a, b in zip(formulas, mine, theirs, strict=True) if a != b]
    assert differ == []
    assert 0.02 < np.mean(theirs) < 0.98  # both verdicts occur, or the test shows nothing


def random_formulas(n: int, seed: int) -> list[str]:
    from matmill.crystals.elements import SYMBOLS

    rng = np.random.default_rng(seed)
    formulas = []
    for _ in range(n):
        chosen = rng.choice(np.arange(1, 95), size=rng.integers(2, 5), replace=False)
        anion = rng.choice([8, 9, 16, 17, 7, 35])
        counts = dict.fromkeys([*chosen.tolist(), int(anion)], 0)
        formulas.append("".join(f"{SYMBOLS[z]}{rng.integers(1, 6)}" for z in counts))
    return formulas


def test_random_formulas_agree_with_smact():
    agree_with_smact(random_formulas(400, seed=0))
    agree_with_smact(random_formulas(200, seed=1), table="smact14")


@pytest.mark.skipif(not MP_20.exists(), reason="needs the given crystals (MATMILL_DATA)")
def test_given_formulas_agree_with_smact():
    import pyarrow.parquet as pq

    formulas = sorted(set(pq.read_table(MP_20, columns=["formula"])["formula"].to_pylist()))
    chosen = np.random.default_rng(2).choice(formulas, size=1500, replace=False).tolist()
    agree_with_smact(chosen)
    agree_with_smact(chosen[:300], mixed_valence=True)


def test_funnel_counts_every_candidate():
    fates = [Fate.PASSED, Fate.DUPLICATE, Fate.DUPLICATE, Fate.ABOVE_HULL]
    verdicts = [Verdict(candidate_id=str(i), fate=fate) for i, fate in enumerate(fates)]
    assert share_passed(verdicts) == 0.25
    assert share_passed([]) == 0.0
    assert funnel(verdicts) == {Fate.PASSED: 1, Fate.DUPLICATE: 2, Fate.ABOVE_HULL: 1}
    assert all(fate.explanation for fate in Fate)
    assert len({fate.explanation for fate in Fate}) == len(Fate)


def test_perturbation_moves_the_smallest_distance():
    rng = torch.Generator().manual_seed(0)
    batch = prototypes()
    assert not torch.allclose(
        smallest_distance(perturbed(batch, step=0.1, strain=0.0, rng=rng)), smallest_distance(batch)
    )
