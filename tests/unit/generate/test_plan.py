"""What a request is turned into."""

import pytest
import torch

from matmill.errors import InputError
from matmill.generate.plan import Trained, check_request, make_plan
from matmill.generate.protocol import GenerationRequest

# Cells of 2, 4, 6 and 8 atoms, as often as 1 : 2 : 3 : 4.
TRAINED = Trained(
    shapes=torch.tensor([[2, 225, 10], [4, 62, 20], [6, 14, 30], [8, 1, 40]]),
    elements=(7, 8, 14, 31),
    ranges={"band_gap_ev": (0.0, 6.0, 100), "density_g_cm3": (1.0, 9.0, 100)},
    max_atoms=8,
    units={"band_gap_ev": "eV"},
)


def plan(seed=0, **wishes):
    return make_plan(GenerationRequest(**wishes), TRAINED, torch.Generator().manual_seed(seed))


def test_a_short_plan_is_the_head_of_a_long_one():
    wishes = {"conditions": {"band_gap_ev": (1.0, 3.0)}, "elements": ("Ga", "N")}
    short, long = plan(n=10, **wishes), plan(n=100, **wishes)
    head = torch.arange(10)
    assert torch.equal(short.n_atoms, long.n_atoms[:10])
    for name, values in vars(short.asked).items():
        other = vars(long.asked.select(head))[name]
        assert torch.equal(values.nan_to_num(-1.0), other.nan_to_num(-1.0)), name
    short, long = (plan(n=n, formula={"Ga": 1, "N": 1}) for n in (10, 100))
    assert torch.equal(short.n_atoms, long.n_atoms[:10])


def test_sizes_and_groups_come_as_often_as_in_training():
    made = plan(n=4000)
    shares = torch.bincount(made.n_atoms, minlength=9)[[2, 4, 6, 8]] / 4000
    # Standard error of a share of 0.4 among 4000: 0.008.
    assert (shares - torch.tensor([0.1, 0.2, 0.3, 0.4])).abs().max() < 0.03
    assert set(made.base.space_group[made.n_atoms == 4].tolist()) == {62}


def test_the_budget_of_a_formula_is_split_evenly_at_every_length():
    weights = torch.tensor([11.0, 21.0, 31.0, 41.0])
    for n in (7, 20, 60):
        made = plan(n=n, formula={"Ga": 1, "N": 1})
        counts = torch.bincount(made.n_atoms, minlength=9)[[2, 4, 6, 8]]
        # Independent draws would stray by sqrt(n p (1 - p)), nearly 4 of 60.
        assert (counts - n * weights / weights.sum()).abs().max() < 2.0


def test_values_are_drawn_from_the_window():
    values = plan(n=500, conditions={"band_gap_ev": (1.0, 3.0)}).asked.scalars[:, 0]
    assert 1.0 <= values.min() < 1.05
    assert 2.95 < values.max() <= 3.0
    assert abs(values.mean() - 2.0) < 0.1


def test_each_condition_stands_alone_in_the_parts():
    made = plan(
        n=5,
        conditions={"band_gap_ev": 2.0, "density_g_cm3": 5.0},
        system=("Ga", "N"),
        space_group=225,
    )
    assert list(made.parts) == ["band_gap_ev", "density_g_cm3", "elements", "symmetry"]
    gap = made.parts["band_gap_ev"]
    assert torch.isfinite(gap.scalars).sum(1).tolist() == [1] * 5
    assert not gap.elements.any()
    assert not gap.space_group.any()
    assert (made.parts["symmetry"].space_group == 225).all()
    assert made.parts["elements"].is_exact.all()
    assert not torch.isfinite(made.base.scalars).any()


def test_a_system_asks_for_all_of_its_elements_and_room_for_them():
    made = plan(n=40, system=("Ga", "N", "O"))
    assert made.asked.is_exact.all()
    assert (torch.nonzero(made.required).flatten() + 1).tolist() == [7, 8, 31]
    assert torch.equal(made.required, made.allowed)
    assert made.n_atoms.min() >= 3
    with pytest.raises(InputError, match="3 elements must all occur"):
        check_request(GenerationRequest(n=1, system=("Ga", "N", "O"), n_atoms=(1, 2)), TRAINED)


@pytest.mark.parametrize(
    ("wishes", "message"),
    [
        ({"conditions": {"gap": 2.0}}, r"band_gap_ev \(0 to 6 eV, 100 crystals\)"),
        ({"scales": {"density_g_cm3": 2.0}}, "which is not asked for"),
        ({"conditions": {"band_gap_ev": 2.0}, "scales": {"band_gap_ev": -1.0}}, "0 or more"),
        ({"n_atoms": (9, 9)}, "supercell"),
    ],
)
def test_what_cannot_be_met_is_said_with_what_can(wishes, message):
    with pytest.raises(InputError, match=message):
        check_request(GenerationRequest(n=1, **wishes), TRAINED)


def test_a_range_beyond_the_trained_cells_is_cut_with_a_word():
    request = GenerationRequest(n=30, n_atoms=(6, 40))
    (warning,) = check_request(request, TRAINED)
    assert "at most 8" in warning
    assert "supercells" in warning
    assert set(plan(n=30, n_atoms=(6, 40)).n_atoms.tolist()) == {6, 8}


@pytest.mark.parametrize(
    ("wishes", "message"),
    [
        ({"symmetry": "firm"}, "soft or hard"),
        ({"schedule": "wild"}, "constant or dynamic"),
        ({"system": ("Ga",), "elements": ("N",)}, "system alone"),
        ({"decorate": True}, "needs seeds"),
        ({"free_types": torch.ones(2, dtype=torch.bool)}, "needs free_atoms"),
    ],
)
def test_contradictions_are_refused_at_once(wishes, message):
    with pytest.raises(InputError, match=message):
        GenerationRequest(n=1, **wishes)


def test_the_budget_of_a_formula_follows_the_weights_of_cells():
    def weights(multiples):
        assert list(multiples) == [1, 2, 3, 4]
        return [0.0, 3.0, 0.0, 1.0]

    request = GenerationRequest(n=40, formula={"Ga": 1, "N": 1})
    rng = torch.Generator().manual_seed(0)
    made = make_plan(request, TRAINED, rng, cell_weights=weights)
    counts = torch.bincount(made.n_atoms, minlength=9)
    assert counts[[2, 6]].sum() == 0
    assert abs(int(counts[4]) - 30) <= 1
