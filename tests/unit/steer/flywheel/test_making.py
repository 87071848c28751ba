"""Which generator is trained, from what, and what comes back of it."""

import json
from dataclasses import replace

import pytest
import torch
from wheel_tables import COLUMN, salts

from matmill.data.table import LabelledCrystals
from matmill.errors import InputError
from matmill.steer.flywheel import making
from matmill.steer.flywheel.settings import (
    FINETUNING,
    SMALL_FLOW,
    FlywheelSettings,
    GeneratorChoice,
)
from matmill.steer.flywheel.tasks import make_key


def test_augmented_crystals_are_near_rows_of_the_asked_label():
    table = salts()
    values = torch.tensor([15.0, 40.0, 60.0]).double()
    found = making.augmented(table, COLUMN, values, torch.Generator().manual_seed(0))
    labels = table.column(COLUMN)
    for i, value in enumerate(values.tolist()):
        near = (labels - value).abs().argsort()[: making.N_NEAR]
        volumes = table.crystals.volume[near]
        assert bool(((found.volume[i] / volumes - 1).abs() < 0.3).any())
        assert found.formula[i] in {table.crystals.formula[row] for row in near.tolist()}


def test_crystals_survive_json_exactly():
    crystals = salts().crystals
    again = making.from_plain(json.loads(json.dumps(making.to_plain(crystals))))
    assert torch.equal(again.lattice, crystals.lattice)
    assert torch.equal(again.frac_coords, crystals.frac_coords)
    assert torch.equal(again.atomic_numbers, crystals.atomic_numbers)


def test_the_key_of_a_generator_follows_the_weights_it_starts_from(tmp_path):
    weights = tmp_path / "mine.safetensors"
    weights.write_bytes(b"first")
    given = making.MakeInput(
        key="",
        choice=GeneratorChoice(start=str(weights)),
        table=salts(20),
        column=COLUMN,
        values=torch.zeros(3),
        seed=0,
    )
    first = make_key(given)
    assert make_key(replace(given, values=torch.ones(3))) == first  # it may be asked for anything
    assert make_key(replace(given, seed=1)) != first
    weights.write_bytes(b"second")
    assert make_key(given) != first
    shipped = replace(given, choice=GeneratorChoice(family="flow-adapter"))
    named = replace(given, choice=GeneratorChoice(family="flow-adapter", start="flow"))
    assert making.weights_file("flow").name == "flow.safetensors"
    assert make_key(shipped) != make_key(replace(given, choice=GeneratorChoice()))
    assert make_key(named) == make_key(shipped)
    with pytest.raises(InputError, match="no weights 'rivers'"):
        make_key(replace(given, choice=GeneratorChoice(start="rivers")))


def test_what_is_not_said_about_a_generator_is_decided_and_recorded():
    plain = FlywheelSettings(data="salts.csv", target=COLUMN).generator
    assert (plain.start, plain.settings) == ("concdvae", FINETUNING)
    again = GeneratorChoice.model_validate(plain.model_dump())
    assert again == plain
    scratch = GeneratorChoice(start="scratch")
    assert (scratch.start, scratch.settings) == (None, {})
    assert GeneratorChoice.model_validate(scratch.model_dump()) == scratch
    adapter = GeneratorChoice(family="flow-adapter")
    assert (adapter.start, adapter.settings) == ("flow", {})
    alone = GeneratorChoice(family="flow-adapter", start="scratch")
    assert (alone.start, alone.settings) == (None, {"base": SMALL_FLOW})
    assert GeneratorChoice.model_validate(alone.model_dump()) == alone
    changed = GeneratorChoice(family="flow-adapter", start="scratch", settings={"rank": 4})
    assert changed.settings == {"base": SMALL_FLOW, "rank": 4}


def test_an_adapter_from_scratch_extends_a_flow_that_knows_the_table_alone(tmp_path):
    brief = {"max_steps": 3, "warmup_steps": 1}
    choice = GeneratorChoice(
        family="flow-adapter",
        start="scratch",
        settings={
            "base": {**SMALL_FLOW, "n_tokens": 90, "fit": {**SMALL_FLOW["fit"], **brief}},
            "fit": {**brief, "validate_every_steps": 3},
        },
    )
    table = salts(40)
    given = making.MakeInput(
        key="one",
        choice=choice,
        table=table,
        column=COLUMN,
        values=torch.tensor([20.0, 50.0]).double(),
        seed=0,
    )
    made = making.Make(tmp_path)(given)
    drawn = making.from_plain(made["crystals"])
    assert len(drawn) == 2
    assert set(drawn.atomic_numbers.tolist()) <= set(table.crystals.atomic_numbers.tolist())
    assert making.Make(tmp_path)(given)["crystals"] == made["crystals"]  # read, not trained again

    labels = table.column(COLUMN)
    other = LabelledCrystals(
        crystals=table.crystals.with_properties(**{COLUMN: labels.flip(0)}), source=table.source
    )
    making.Make(tmp_path)(replace(given, key="other", table=other))
    bases = [
        (tmp_path / "generators" / key / "base" / "generator.safetensors").read_bytes()
        for key in ("one", "other")
    ]
    assert bases[0] == bases[1]  # labels are for the adapter alone
    adapters = [
        (tmp_path / "generators" / key / "flywheel_target.safetensors").read_bytes()
        for key in ("one", "other")
    ]
    assert adapters[0] != adapters[1]
