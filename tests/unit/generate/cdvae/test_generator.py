"""Con-CDVAE as a generator: the contract, its modes, best of k, and what it refuses."""

from dataclasses import replace

import pytest
import torch

from matmill.errors import InputError
from matmill.generate.cdvae.generator import CdvaeGenerator
from matmill.generate.protocol import ConditionalGenerator, GenerationRequest, load_generator
from matmill.generate.streams import Streams

COLUMN = "band_gap_ev"


def with_mode(generator, mode="default", best_of=1):
    return CdvaeGenerator(
        generator.model, generator.prior, generator.rows, generator.card, mode=mode, best_of=best_of
    )


def asked(n, **wishes):
    return GenerationRequest(n=n, n_steps=5, screen=False, **wishes)


def test_values_of_each_crystal_are_asked_for_and_repeat_by_seed(trained):
    generator, _ = trained
    assert isinstance(generator, ConditionalGenerator)
    values = {COLUMN: torch.tensor([0.0, 2.0, 5.0, 2.0])}

    def made(values, request=None):
        rng = torch.Generator().manual_seed(3)
        return generator.sample_conditions(values, rng, request or asked(4))

    first = made(values)
    assert len(first) == 4
    assert first.hashes == made(values).hashes
    moved = made({COLUMN: torch.tensor([0.0, 2.0, 0.0, 2.0])})
    same = [a == b for a, b in zip(first.hashes, moved.hashes, strict=True)]
    assert same == [True, True, False, True]  # only the one that was asked for something else
    # One value for all is the same as asking for it in the request.
    whole = generator.sample(asked(4, conditions={COLUMN: 2.0}), torch.Generator().manual_seed(3))
    each = made({COLUMN: torch.full((4,), 2.0)})
    assert whole.hashes == each.hashes


def test_a_crystal_does_not_depend_on_those_beside_it(trained):
    generator, _ = trained
    few = generator.sample(asked(3), torch.Generator().manual_seed(1))
    many = generator.sample(asked(9), torch.Generator().manual_seed(1))
    assert few.hashes == many.hashes[:3]


@pytest.mark.parametrize(
    ("values", "request_", "message"),
    [
        ({"no_such": torch.ones(2)}, None, "not trained on 'no_such'. It knows: band_gap_ev"),
        ({COLUMN: torch.tensor([1.0, torch.nan])}, None, "are not finite"),
        ({COLUMN: torch.ones(2)}, GenerationRequest(n=3), "for 3 crystals, the values are for 2"),
        ({}, None, "No values are given"),
        (
            {COLUMN: torch.ones(2)},
            GenerationRequest(n=2, conditions={COLUMN: 1.0}),
            "asked for twice",
        ),
    ],
)
def test_values_that_cannot_be_asked_for_are_named(trained, rng, values, request_, message):
    generator, _ = trained
    with pytest.raises(InputError, match=message):
        generator.sample_conditions(values, rng, request_)


def test_what_the_family_cannot_do_is_refused_with_what_can(trained, crystals):
    generator, _ = trained
    with pytest.raises(InputError, match="use 'flow' with seeds"):
        generator.check(asked(1, seeds=crystals))
    with pytest.raises(InputError, match="cannot keep a space group"):
        generator.check(asked(1, symmetry="hard", space_group=225))
    with pytest.raises(InputError, match="no guidance"):
        generator.check(asked(1, conditions={COLUMN: 1.0}, scales={COLUMN: 2.0}))
    with pytest.raises(InputError, match="no mode 'some'"):
        with_mode(generator, "some")
    with pytest.raises(InputError, match="best_of is 0"):
        with_mode(generator, best_of=0)
    assert any("symmetry is ignored" in text for text in generator.check(asked(1, space_group=225)))


def test_full_needs_every_condition_and_less_fills_them_from_training_rows(trained, rng):
    generator, _ = trained
    full, less = with_mode(generator, "full"), with_mode(generator, "less")
    with pytest.raises(InputError, match="missing: space_group, n_atoms"):
        full.sample(asked(2, conditions={COLUMN: 2.0}), rng)
    whole = asked(2, conditions={COLUMN: 2.0}, space_group=225, n_atoms=(2, 2))
    assert len(full.sample(whole, rng)) == 2
    assert len(less.sample(asked(3, conditions={COLUMN: 2.0}), rng)) == 3

    streams = Streams.of(rng, 50)
    from matmill.generate.cdvae.wishes import wishes_for

    told, target = wishes_for(asked(50), {}, generator.trained, "less", generator.rows, streams)
    rows = {tuple(row) for row in _rows(generator.rows)}
    assert all(tuple(row) in rows for row in _rows(told))  # whole rows, not a mixture
    assert len(set(_rows(told))) > 1
    assert not bool(torch.isfinite(target).any())  # filled in, not asked for
    aimed = asked(50, space_group=225)
    told, _ = wishes_for(aimed, {}, generator.trained, "less", generator.rows, streams)
    assert set(told.space_group.tolist()) == {225}
    told, _ = wishes_for(asked(50), {}, generator.trained, "default", generator.rows, streams)
    assert int(told.n_atoms.abs().sum() + told.space_group.abs().sum()) == 0


def _rows(wishes):
    return list(
        zip(
            wishes.values[:, 0].tolist(),
            wishes.crystal_system.tolist(),
            wishes.space_group.tolist(),
            wishes.n_atoms.tolist(),
            strict=True,
        )
    )


def test_modes_tell_the_prior_different_things(trained):
    generator, _ = trained
    request = asked(4, conditions={COLUMN: 2.0}, space_group=225, n_atoms=(2, 2))
    latents = {}
    for mode in ("default", "full"):
        made = with_mode(generator, mode).sample(request, torch.Generator().manual_seed(0))
        latents[mode] = made.hashes
    assert latents["default"] != latents["full"]


def test_best_of_k_brings_the_auxiliary_heads_closer(trained, rng):
    generator, _ = trained
    from matmill.generate.cdvae.wishes import wishes_for

    streams = Streams.of(rng, 40)
    request = asked(40, conditions={COLUMN: 2.0})
    told, target = wishes_for(request, {}, generator.trained, "default", generator.rows, streams)
    away = []
    for k in (1, 4):
        chooser = with_mode(generator, best_of=k)
        away.append(chooser.disagreement(chooser.latents(told, target, streams), target))
    assert bool((away[1] <= away[0] + 1e-6).all())  # the first draw is among the four
    assert float(away[1].mean()) < 0.7 * float(away[0].mean())


def test_a_formula_a_system_and_a_size_are_kept(trained, rng):
    generator, _ = trained
    batch = generator.sample(asked(5, formula={"Ti": 1, "O": 2}, n_atoms=(3, 6)), rng)
    assert set(batch.formula) == {"TiO2"}
    batch = generator.sample(asked(5, system=("Na", "Cl", "O")), rng)
    assert all(set(names) == {11, 17, 8} for names in _elements(batch))
    batch = generator.sample(asked(6, n_atoms=(2, 3), exclude=("O",)), rng)
    assert set(batch.n_atoms.tolist()) <= {2, 3}
    assert 8 not in batch.atomic_numbers.tolist()


def _elements(batch):
    return [batch.atomic_numbers[batch.atoms_of(i)].tolist() for i in range(len(batch))]


def test_a_file_gives_the_same_generator_back(trained, tmp_path):
    generator, folder = trained
    loaded = load_generator(folder / "generator.safetensors")
    assert isinstance(loaded, CdvaeGenerator)
    assert loaded.hash == generator.hash
    request = asked(4, conditions={COLUMN: 2.0})
    made = [g.sample(request, torch.Generator().manual_seed(0)) for g in (generator, loaded)]
    assert made[0].hashes == made[1].hashes
    with pytest.raises(InputError, match="takes no adapters"):
        load_generator(folder, adapters=[tmp_path / "a.safetensors"])
    half = loaded.save(tmp_path / "half", dtype=torch.bfloat16)
    assert len(CdvaeGenerator.load(half).sample(asked(3), torch.Generator().manual_seed(0))) == 3


def test_columns_that_are_out_of_range_are_warned_of_and_unknown_ones_refused(trained):
    generator, _ = trained
    warnings = generator.check(asked(1, conditions={COLUMN: 50.0}))
    assert any("outside the trained range" in text for text in warnings)
    with pytest.raises(InputError, match="was not trained on 'hardness'"):
        generator.check(asked(1, conditions={"hardness": 1.0}))
    plain = CdvaeGenerator(generator.model, None, generator.rows, generator.card)
    with pytest.raises(InputError, match="It knows: no property"):
        plain.check(asked(1, conditions={COLUMN: 2.0}))
    assert replace(asked(1), n=2).n == 2
