"""Hard symmetry: templates first, and the group that was asked for is the one found."""

import pytest
import torch

from matmill.crystals import symmetry
from matmill.errors import InputError
from matmill.generate.hard import draft_of, needs_draft, shared_out
from matmill.generate.protocol import GenerationRequest
from matmill.generate.wyckoff.templates import Template


def rng() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def hard(n: int = 6, **wishes) -> GenerationRequest:
    return GenerationRequest(n=n, symmetry="hard", n_steps=4, screen=False, **wishes)


@pytest.mark.parametrize("group", [14, 62, 136, 166, 194, 225])
def test_the_group_asked_for_is_found_even_with_an_untrained_network(generator, group):
    made = generator.sample(hard(space_group=group, n_atoms=(2, 12)), rng())
    found = symmetry.find(made, symprec=1e-3).number
    # A template may describe a crystal of a higher group; most do not.
    assert (found == group).sum() >= len(made) - 1
    assert (found >= group).all()


def test_compositions_are_kept_atom_for_atom(generator):
    made = generator.sample(hard(formula={"Sr": 1, "Ti": 1, "O": 3}, n_atoms=(5, 10)), rng())
    assert set(made.n_atoms.tolist()) <= {5, 10}
    assert set(made.formula) == {"SrTiO3"}


def test_seeds_lend_their_compositions(generator, crystals):
    made = generator.sample(hard(len(crystals), seeds=crystals, strength=1.0), rng())
    assert made.formula == crystals.formula
    assert made.n_atoms.tolist() == crystals.n_atoms.tolist()


def test_seeds_cannot_be_varied(generator, crystals):
    with pytest.raises(InputError, match="strength to 1"):
        generator.sample(hard(seeds=crystals, strength=0.3), rng())


def test_compositions_of_a_user_never_give_way(generator, crystals):
    # Two atoms, one of each element, do not fit into P4_12_12, whose smallest orbit has four.
    seeds = crystals.select([0])
    wish = {"space_group": 92, "conditions": {"band_gap_ev": 2.0}}
    with pytest.raises(InputError):
        generator.sample(hard(1, seeds=seeds, strength=1.0, **wish), rng())
    made = generator.sample(hard(2, n_atoms=(2, 12), **wish), rng())  # a drafted one does
    assert (symmetry.find(made, symprec=1e-3).number >= 92).all()
    assert int(made.n_atoms.max()) <= 12


def test_a_system_is_met_exactly(generator):
    made = generator.sample(hard(system=("Na", "Cl")), rng())
    assert all(set(symbols(made, i)) == {11, 17} for i in range(len(made)))


def test_same_seed_same_crystals_whatever_the_batches(generator):
    first = generator.sample(hard(n_atoms=(1, 6)), rng())
    generator.tokens_per_batch, usual = 12, generator.tokens_per_batch
    try:
        again = generator.sample(hard(n_atoms=(1, 6)), rng())
    finally:
        generator.tokens_per_batch = usual
    assert first.formula == again.formula
    assert torch.allclose(first.frac_coords, again.frac_coords, atol=1e-4)


def test_properties_are_asked_for_in_a_draft(generator):
    request = hard(3, conditions={"band_gap_ev": 2.0}, n_atoms=(1, 6))
    assert needs_draft(request)
    assert draft_of(request).symmetry == "soft"
    assert not needs_draft(hard(conditions={"energy_above_hull_ev": 0.0}))
    assert not needs_draft(hard(conditions={"band_gap_ev": 2.0}, formula={"Na": 1, "Cl": 1}))
    assert len(generator.sample(request, rng())) == 3


def test_seats_go_to_likely_templates_and_then_to_the_others():
    options = [
        (Template(space_group=225, letters=(letter,), elements=(29,)), p)
        for letter, p in (("a", 0.81), ("b", 0.09))
    ]
    order = [t.letters[0] for t in shared_out(options, 8)]
    assert order[0] == "a"
    assert order.count("b") == 2  # the roots are as 3 to 1


def test_an_untrained_mode_is_announced(generator):
    assert any("symmetric mode" in line for line in generator.check(hard()))


def symbols(batch, crystal: int) -> list[int]:
    return batch.atomic_numbers[batch.crystal_index == crystal].tolist()


@pytest.fixture
def slides(monkeypatch):
    """Let crystals slide into a higher group as often as told; note how often that was asked."""
    from matmill.generate import flow

    def set_up(times: int) -> list[int]:
        asked: list[int] = []

        def lost(request, batch):  # noqa: ARG001
            asked.append(len(batch))
            return torch.full((len(batch),), len(asked) <= times)

        monkeypatch.setattr(flow, "lost_group", lost)
        return asked

    return set_up


def test_a_crystal_that_lost_its_group_is_drawn_again(generator, slides):
    slides(1)
    request = GenerationRequest(
        n=2, symmetry="hard", n_steps=4, n_atoms=(2, 2), space_group=225, elements=("Na", "Cl")
    )
    made = generator.sample(request, rng())
    assert (made.properties["attempts"] >= 2).all()
    assert set(made.properties["space_group_requested"].tolist()) == {225.0}


def test_after_two_losses_another_template_of_the_same_size_is_taken(generator, slides):
    slides(3)
    wish = {"formula": {"Ti": 1, "O": 2}, "n_atoms": (6, 6), "crystal_system": "tetragonal"}
    request = GenerationRequest(n=1, symmetry="hard", n_steps=4, **wish)
    made = generator.sample(request, rng())
    assert made.formula == ("TiO2",)
    assert made.n_atoms.tolist() == [6]
    assert int(made.properties["attempts"][0]) >= 4
    options = generator.template_source().propose(
        {"Ti": 2, "O": 4}, 20, crystal_system="tetragonal", energy_above_hull=0.0
    )
    group = int(made.properties["space_group_requested"][0])
    assert group in {t.space_group for t, _ in options[1:]}  # the first one was given up


def test_which_crystals_have_lost_their_group(crystals):
    from matmill.generate.hard import lost_group

    rock_salt, zinc_blende, rutile = 0, 2, 5
    some = crystals.select([rock_salt, zinc_blende, rutile])
    assert lost_group(hard(3, space_group=225), some).tolist() == [False, True, True]
    assert lost_group(hard(3, crystal_system="cubic"), some).tolist() == [False, False, True]
    assert not lost_group(hard(3), some).any()
