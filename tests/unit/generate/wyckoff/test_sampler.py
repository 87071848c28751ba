"""Templates that are drawn meet what was asked for, exactly."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from matmill.crystals.symmetry import crystal_system
from matmill.errors import DataError, InputError, UnknownNameError
from matmill.generate.wyckoff.decode import Partial, position_log_probabilities
from matmill.generate.wyckoff.encoding import canonical
from matmill.generate.wyckoff.request import composition_of
from matmill.generate.wyckoff.sampler import WyckoffModel
from matmill.generate.wyckoff.templates import Template
from matmill.training import checkpoint

SYMBOLS = st.sampled_from(["Li", "Na", "Sr", "Ti", "Fe", "Zn", "O", "S", "F", "Cl"])


def rng(seed):
    return torch.Generator().manual_seed(seed)


@settings(max_examples=15, deadline=None)
@given(st.dictionaries(SYMBOLS, st.integers(1, 5), min_size=1, max_size=4), st.integers(0, 99))
def test_a_formula_is_met_exactly(untrained, formula, seed):
    for template in untrained.sample(4, rng(seed), formula=formula):
        assert template.formula == formula


@settings(max_examples=15, deadline=None)
@given(st.integers(1, 230), st.integers(0, 99))
def test_a_space_group_is_met_with_permitted_elements(untrained, space_group, seed):
    made = untrained.sample(
        3, rng(seed), space_group=space_group, elements=("Na", "Fe", "O"), n_atoms=(1, 20)
    )
    for template in made:
        assert template.space_group == space_group
        assert set(template.formula) <= {"Na", "Fe", "O"}
        assert template.n_atoms <= 20


@settings(max_examples=10, deadline=None)
@given(st.sampled_from(["cubic", "hexagonal", "monoclinic"]), st.integers(3, 8), st.integers(0, 99))
def test_system_size_and_all_elements_are_met(untrained, system, low, seed):
    request = {"elements": ("Li", "Fe", "O"), "exactly": True, "n_atoms": (low, low + 6)}
    for template in untrained.sample(3, rng(seed), crystal_system=system, **request):
        assert crystal_system(template.space_group) == system
        assert set(template.formula) == {"Li", "Fe", "O"}
        assert low <= template.n_atoms <= low + 6


def test_the_seed_decides_everything_and_more_draws_keep_the_first(untrained):
    for request in ({}, {"formula": {"Na": 1, "Cl": 1}}, {"space_group": 62}):
        many = untrained.sample(30, rng(5), **request)
        assert untrained.sample(30, rng(5), **request) == many
        assert untrained.sample(10, rng(5), **request) == many[:10]
        assert untrained.sample(30, rng(6), **request) != many


def test_each_formula_gets_its_own_template(untrained):
    formulas = [{"Na": 1, "Cl": 1}, {"Ti": 2, "O": 4}, {"Sr": 1, "Ti": 1, "O": 3}]
    assert [t.formula for t in untrained.sample_each(formulas, rng(0))] == formulas


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        ({"formula": {"Na": 1, "Cl": 1}, "space_group": 230}, "cannot hold"),
        ({"space_group": 230, "n_atoms": (1, 3)}, "No composition"),
        ({"space_group": 225, "crystal_system": "hexagonal"}, "is cubic, not hexagonal"),
        ({"formula": {"Na": 21}}, "up to 20 atoms"),
        ({"formula": {}}, "whole number"),
        ({"formula": {"Na": 1}, "elements": ("K",)}, "contradict"),
        ({"formula": {"Na": 1}, "n_atoms": (2, 4)}, "2 to 4"),
        ({"n_atoms": (0, 4)}, "primitive cells of 1 to 20"),
        ({"space_group": 231}, "no space group 231"),
        ({"elements": ("Li", "Fe", "O"), "exactly": True, "n_atoms": (1, 2)}, "with all of"),
    ],
)
def test_an_impossible_request_says_why(untrained, request_, message):
    with pytest.raises(InputError, match=message) as error:
        untrained.sample(2, rng(0), **request_)
    assert "\n" not in str(error.value)


def test_an_unknown_name_is_refused(untrained):
    with pytest.raises(UnknownNameError):
        untrained.sample(1, rng(0), formula={"Xx": 1})
    with pytest.raises(UnknownNameError):
        untrained.sample(1, rng(0), crystal_system="round")


def test_probabilities_of_all_templates_add_up_to_one(untrained):
    # Every template of NaCl in one group, reached by every path of choices.
    model = WyckoffModel(untrained.network, None)
    start = Partial(composition=composition_of({"Na": 1, "Cl": 1})).in_group(123)
    todo, done = [(start, 0.0)], []
    while todo:
        partial, score = todo.pop()
        if partial.is_done:
            done.append((partial.template(), score))
            continue
        logits = position_log_probabilities(model.network, [partial], 0.0)[0]
        todo += [(partial.with_orbit(o), score + float(logits[o])) for o in partial.options()]
    assert len(done) == len({t for t, _ in done}) > 8
    assert sum(torch.tensor(s).exp() for _, s in done) == pytest.approx(1.0, abs=1e-5)


def test_equivalent_templates_score_alike(untrained):
    one = Template(space_group=225, letters=("a", "b"), elements=(11, 17))
    other = Template(space_group=225, letters=("b", "a"), elements=(11, 17))
    scores = untrained.log_probability([one, other])
    assert torch.isfinite(scores).all()
    torch.testing.assert_close(scores[0], scores[1], atol=1e-6, rtol=0.0)


def test_proposals_are_different_and_ordered(untrained):
    found = untrained.propose({"Na": 1, "Cl": 1}, 6)
    names = [template for template, _ in found]
    assert len(set(names)) == len(names) == 6
    assert names[0] == canonical(Template(space_group=225, letters=("a", "b"), elements=(11, 17)))
    assert all(t.formula == {"Na": 1, "Cl": 1} for t in names)


def test_weights_travel_as_plain_tensors(untrained, tmp_path):
    path = untrained.save(tmp_path / "model", {"name": "small"})
    back = WyckoffModel.load(path)
    assert path.suffix == ".safetensors"
    assert back.card["name"] == "small"
    assert back.recalled_share == 0.5
    rounded = WyckoffModel(untrained.network.bfloat16().float(), untrained.memory, untrained.card)
    formula = {"Sr": 1, "Ti": 1, "O": 3}
    assert back.sample(20, rng(1), formula=formula) == rounded.sample(20, rng(1), formula=formula)
    checkpoint.save(tmp_path / "other", {"w": torch.zeros(1)}, {"kind": "flow"})
    with pytest.raises(DataError, match="no Wyckoff model"):
        WyckoffModel.load(tmp_path / "other")


def test_cells_of_known_sizes_weigh_more(untrained):
    # Of ZnS two units are known (wurtzite), of three none.
    one, two, three = untrained.cell_weights({"Zn": 1, "S": 1}, [1, 2, 3])
    assert two > three
    assert three == pytest.approx(0.01)
    assert one > three  # rock salt has one unit and two elements
    hexagonal = untrained.cell_weights({"Zn": 1, "S": 1}, [1, 2, 3], crystal_system="hexagonal")
    assert hexagonal[0] == hexagonal[2] == pytest.approx(0.01)
    assert hexagonal[1] == pytest.approx(two)


def test_the_shipped_model_knows_that_nitrides_come_in_pairs():
    one, two, three = WyckoffModel.load().cell_weights({"Ga": 1, "N": 1}, [1, 2, 3])
    assert min(one, two) > 10 * three


def test_compositions_are_drawn_on_the_hull_only_when_that_is_asked(untrained, monkeypatch):
    from matmill.generate.wyckoff import sampler

    told, original = [], sampler.draw_compositions

    def noting(network, request, uniform, *, temperature):
        told.append(request.hull)
        return original(network, request, uniform, temperature=temperature)

    monkeypatch.setattr(sampler, "draw_compositions", noting)
    untrained.sample(2, rng(0))
    untrained.sample(2, rng(0), energy_above_hull=0.02)
    assert told[0] != told[0]  # not a number: left open
    assert told[1] == 0.02
