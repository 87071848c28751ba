"""Adapters: no change where nothing is asked, sums, files, refusals, and an effect that is real."""

import math
from dataclasses import replace

import pytest
import torch

from matmill.crystals.batch import CrystalBatch
from matmill.data.table import LabelledCrystals
from matmill.errors import DataError, InputError, UnknownNameError
from matmill.generate.adapters import Adapter, AdapterStack, AddedProperty
from matmill.generate.conditions import SCALARS, Conditions
from matmill.generate.finetune import (
    Adapted,
    FinetuneSettings,
    finetune,
    request_name,
)
from matmill.generate.flow import FlowGenerator
from matmill.generate.labelled import LabelledSet, widened
from matmill.generate.network import SIZES
from matmill.generate.process import add_noise
from matmill.generate.state import to_dense
from matmill.generate.train import GeneratorSettings, train
from matmill.training import checkpoint
from matmill.training.fit import FitSettings

LABELS = torch.tensor([10.0, 20.0, 40.0, 80.0, 30.0, 25.0, 160.0])


def fresh(name="hardness", labels=LABELS):
    with torch.random.fork_rng():
        torch.manual_seed(len(name))
        return Adapter(AddedProperty.fit(name, labels, unit="GPa"), SIZES["tiny"], rank=4)


def stirred(name="hardness"):
    """An adapter whose zero layers are not zero any more, as after training."""
    adapter = fresh(name)
    with torch.random.fork_rng():
        torch.manual_seed(len(name) + 1)
        for parameter in adapter.parameters():
            parameter.data += 0.1 * torch.randn_like(parameter)
    return adapter


@pytest.fixture
def noisy(crystals, denoiser):
    """Two views of the rock salt and the caesium chloride, both with two atoms."""
    _, dense = to_dense(crystals, denoiser.scale)[2]
    return add_noise(dense, torch.Generator().manual_seed(0))[0]


def told(n, added):
    return replace(Conditions.none(n), added=torch.as_tensor(added, dtype=torch.float32))


def same(a, b):
    return all(torch.equal(getattr(a, k), getattr(b, k)) for k in ("sites", "lattice", "logits"))


def test_a_fresh_adapter_changes_no_bit(denoiser, noisy):
    n = len(noisy.crystals)
    stack = AdapterStack([fresh()])
    asked = told(n, torch.full((n, 1, 2), 40.0))
    with torch.no_grad():
        assert same(denoiser(noisy, asked, stack), denoiser(noisy, Conditions.none(n)))


def test_only_crystals_that_ask_are_changed(denoiser, noisy):
    n = len(noisy.crystals)
    stack = AdapterStack([stirred()])
    added = torch.full((n, 1, 2), torch.nan)
    added[0] = 40.0
    with torch.no_grad():
        base = denoiser(noisy, Conditions.none(n))
        mixed = denoiser(noisy, told(n, added), stack)
        absent = denoiser(noisy, told(n, torch.full((n, 1, 2), torch.nan)), stack)
        without = denoiser(noisy, Conditions.none(n), stack)
    assert same(base, absent)
    assert same(base, without)
    assert torch.equal(base.logits[1:], mixed.logits[1:])
    assert torch.equal(base.sites[1:], mixed.sites[1:])
    assert not torch.allclose(base.logits[0], mixed.logits[0])
    assert not torch.allclose(base.lattice[0], mixed.lattice[0])


def test_adapters_add_up_in_any_order(denoiser, noisy):
    n = len(noisy.crystals)
    one, two = stirred("hardness"), stirred("colour")
    both = AdapterStack([one, two])
    turned = AdapterStack([two, one])
    assert both.names == turned.names == ("colour", "hardness")
    wishes = {"hardness": (40.0, 40.0), "colour": (20.0, 60.0)}
    conditions = told(n, both.asked(n, wishes))
    c = torch.randn(n, SIZES["tiny"].width, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        a, b = denoiser(noisy, conditions, both), denoiser(noisy, conditions, turned)
        total = both(c, conditions)
        parts = [
            AdapterStack([x])(c, told(n, torch.tensor(wishes[x.learnt.name]).expand(n, 1, 2)))
            for x in (one, two)
        ]
    assert same(a, b)
    torch.testing.assert_close(total.vector, parts[0].vector + parts[1].vector)
    torch.testing.assert_close(total.modulation, parts[0].modulation + parts[1].modulation)
    with torch.no_grad():
        alone = denoiser(noisy, told(n, both.asked(n, {"colour": (20.0, 60.0)})), both)
        single = denoiser(
            noisy, told(n, torch.tensor([20.0, 60.0]).expand(n, 1, 2)), AdapterStack([two])
        )
    assert same(alone, single)
    with pytest.raises(InputError, match="same property"):
        AdapterStack([stirred("colour"), fresh("colour")])


def test_ranges_and_values_are_different_wishes():
    stack = AdapterStack([stirred()])
    c = torch.zeros(3, SIZES["tiny"].width)
    spans = torch.tensor([[40.0, 40.0], [20.0, 80.0], [10.0, 160.0]])
    with torch.no_grad():
        vector = stack(c, told(3, spans[:, None])).vector
    assert (vector[0] - vector[1]).abs().max() > 1e-3
    assert (vector[1] - vector[2]).abs().max() > 1e-3


def test_labels_are_straightened_where_that_makes_them_even():
    rng = torch.Generator().manual_seed(0)
    normal = torch.randn(500, generator=rng).double()
    moduli = AddedProperty.fit("k", (1.5 * normal + 3).exp())
    assert moduli.straightening == "log"
    assert moduli.mean == pytest.approx(3.0, abs=0.15)
    energies = AddedProperty.fit("e", normal - 0.5)
    assert energies.straightening == "identity"
    values = torch.tensor([2.0, 50.0, 300.0], dtype=torch.float64)
    for learnt in (moduli, energies):
        torch.testing.assert_close(learnt.value(learnt.standard(values)), values)
    with pytest.raises(DataError, match="all alike"):
        AddedProperty.fit("x", torch.full((40,), 3.25))


def test_shown_ranges_hold_the_value_at_any_place():
    learnt = AddedProperty.fit("hardness", LABELS)
    values = LABELS.repeat(300)
    spans = widened(values, learnt, 0.5, torch.Generator().manual_seed(0))
    low, high = spans.unbind(1)
    is_point = low == high
    blur = (learnt.standard(low) - learnt.standard(values))[is_point]
    assert abs(float(blur.mean())) < 0.02
    assert float(blur.std()) == pytest.approx(0.15, abs=0.02)
    assert 0.4 < is_point.float().mean() < 0.6
    wide = ~is_point
    assert (low <= values * 1.0001)[wide].all()
    assert (high >= values * 0.9999)[wide].all()
    place = (learnt.standard(values) - learnt.standard(low))[wide] / (
        learnt.standard(high) - learnt.standard(low)
    )[wide]
    assert abs(float(place.mean()) - 0.5) < 0.03
    assert float(place.std()) == pytest.approx(math.sqrt(1 / 12), abs=0.02)


def test_a_file_gives_the_adapter_back(tmp_path, denoiser, noisy):
    n = len(noisy.crystals)
    made = stirred()
    path = made.save(tmp_path / "hardness", base_hash="a" * 64, facts={"attribution": "nobody"})
    stack = AdapterStack.load([path], SIZES["tiny"], base_hash="a" * 64)
    assert stack.properties["hardness"] == made.learnt
    assert stack.hashes == {"hardness": checkpoint.hash_of(path)}
    asked = told(n, torch.full((n, 1, 2), 33.0))
    with torch.no_grad():
        assert same(denoiser(noisy, asked, AdapterStack([made])), denoiser(noisy, asked, stack))
    with pytest.raises(DataError, match="other base weights"):
        AdapterStack.load([path], SIZES["tiny"], base_hash="b" * 64)
    checkpoint.save(tmp_path / "other", {"x": torch.zeros(1)}, {"kind": "cgcnn"})
    with pytest.raises(DataError, match="not an adapter"):
        AdapterStack.load([tmp_path / "other"], SIZES["tiny"], base_hash="a" * 64)


# ---------------------------------------------------------------- training
FOUR = [[55, 17], [37, 35], [11, 17], [19, 9]]
TWENTY = [[a, b] for a in (3, 11, 19, 37, 55) for b in (9, 17, 35, 53)]


def salts(n, seed=0, kinds=FOUR):
    """Caesium chloride cells of random size; the label is the volume per atom in nm³."""
    rng = torch.Generator().manual_seed(seed)
    a = 2.6 + 2.4 * torch.rand(n, generator=rng).double()
    rows = torch.tensor(kinds)[torch.arange(n) % len(kinds)]
    return CrystalBatch(
        lattice=torch.eye(3).double() * a[:, None, None],
        frac_coords=torch.tensor([[0.0, 0, 0], [0.5, 0.5, 0.5]]).double().repeat(n, 1),
        atomic_numbers=rows.flatten(),
        n_atoms=torch.full((n,), 2),
        ids=tuple(f"salt-{i}" for i in range(n)),
        properties={"room_nm3": a**3 / 2000, "spacegroup": torch.full((n,), 221.0).double()},
    )


def table(n=60, **columns):
    crystals = salts(n)
    return LabelledCrystals(crystals=crystals.with_properties(**columns), source="salts.parquet")


def quick(steps, **changes):
    return FinetuneSettings(
        rank=4,
        n_tokens=90,
        held_out=0.2,
        fit=FitSettings(
            max_steps=steps,
            learning_rate=3e-3,
            warmup_steps=3,
            precision="fp32",
            ema_decay=0.9,
            log_every_steps=5,
            validate_every_steps=5,
            checkpoint_every_seconds=0.0,
            **changes,
        ),
    )


@pytest.fixture
def base(denoiser, tmp_path):
    """The stirred network as a generator file that knows the elements of the salts."""
    return load_base(denoiser, tmp_path / "base")


def load_base(denoiser, path):
    unknown = {"mean": 0.0, "std": 1.0, "low": None, "high": None, "count": 0}
    card = {
        "kind": "flow",
        "format": 1,
        "size": "tiny",
        "max_atoms": 20,
        "conditions": dict.fromkeys(SCALARS, unknown),
        "elements": [9, 11, 17, 19, 35, 37, 55],
        "shapes": [[2, 221, 6]],
    }
    path = checkpoint.save(path, denoiser.state_dict(), card)
    return FlowGenerator.load(path, precision="fp32")


def test_training_leaves_the_base_alone_and_goes_on_after_a_stop(base, tmp_path, noisy):
    before = {name: t.clone() for name, t in base.denoiser.state_dict().items()}
    whole = finetune(base, table(), "room", settings=quick(12), folder=tmp_path / "a")
    finetune(base, table(), "room", settings=quick(5), folder=tmp_path / "b")
    part = finetune(base, table(), "room", settings=quick(12), folder=tmp_path / "b")
    assert whole.fit.step == part.fit.step == 12
    tensors, card = checkpoint.load(whole.path)
    again, _ = checkpoint.load(part.path)
    assert all(torch.equal(tensors[name], again[name]) for name in tensors)
    assert bool(tensors["up"].any())
    after = base.denoiser.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert all(p.requires_grad for p in base.denoiser.parameters())

    n = len(noisy.crystals)
    stack = AdapterStack.load([whole.path], SIZES["tiny"], base_hash=base.hash)
    with torch.no_grad():
        assert same(
            base.denoiser(noisy, Conditions.none(n, n_added=1), stack),
            base.denoiser(noisy, Conditions.none(n)),
        )
    assert card["base_sha256"] == base.hash
    assert card["property"]["name"] == "room"
    assert card["data"]["labels_given"] == card["data"]["labels_used"] == 60
    assert card["data"]["held_out"] == card["check"]["n"] > 0

    with pytest.raises(InputError, match="training of another adapter"):
        finetune(base, table(50), "room", settings=quick(12), folder=tmp_path / "a")


@pytest.mark.parametrize(
    ("made", "name", "error", "message"),
    [
        (table(60), "rom", UnknownNameError, "No column of salts.parquet called 'rom'"),
        (table(3), "room", DataError, "Only 3 of 3 rows"),
        (table(60, flat=torch.full((60,), 2.5)), "flat", DataError, "all alike"),
        (table(60, gone=torch.full((60,), torch.nan)), "gone", DataError, "Only 0 of 60 rows"),
        (table(60, gone=torch.full((60,), torch.inf)), "gone", DataError, "Only 0 of 60 rows"),
        (table(60), "band_gap", InputError, "know band_gap without an adapter"),
        (table(60), "room!", InputError, "cannot name a property"),
    ],
)
def test_what_cannot_be_learnt_is_refused_in_one_line(base, tmp_path, made, name, error, message):
    with pytest.raises(error, match=message) as caught:
        finetune(base, made, name, settings=quick(1), folder=tmp_path / "run")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "run").exists()


def test_rows_that_the_base_cannot_place_are_left_out(base, tmp_path):
    odd = table(60)
    z = odd.crystals.atomic_numbers.clone()
    z[:80] = 26  # iron is not among the base's elements
    odd = replace(odd, crystals=replace(odd.crystals, atomic_numbers=z))
    with pytest.raises(DataError, match="Only 20 of 60 labelled rows"):
        finetune(base, odd, "room", settings=quick(1), folder=tmp_path)
    z[60:80] = 17
    made = finetune(base, odd, "room", settings=quick(1), folder=tmp_path)
    assert (made.n_given, made.n_used) == (60, 30)


def test_few_labels_still_fill_batches(base):
    few = table(30)
    learnt = AddedProperty.fit("room", few.column("room_nm3"))
    dealt = LabelledSet(few, "room_nm3", learnt, base.denoiser.scale, n_tokens=90, point_share=0.5)
    sizes = [len(b.crystals) for b in dealt.epoch(0, torch.Generator().manual_seed(0))]
    assert max(sizes) == 30  # 90 tokens, three a crystal
    assert sum(sizes) == 30 * dealt.repeats >= 2048
    assert sum(size < 30 for size in sizes) <= 1


def test_known_quantities_keep_their_column_and_unit():
    assert request_name("Fermi energy") == ("fermi_energy_ev", "eV")
    assert request_name("Exfoliation-Energy") == ("exfoliation_energy", None)


@pytest.mark.slow
def test_a_short_training_makes_the_property_follow_the_request(tmp_path):
    """Small and large cells on demand, from a base that never heard of the property."""
    salt = salts(200, kinds=TWENTY)  # whole formulas are held out: some must be left
    groups = torch.full((200,), 221)
    known = GeneratorSettings(
        size="tiny",
        n_tokens=300,
        fit=FitSettings(
            max_steps=400, learning_rate=2e-3, warmup_steps=20, precision="fp32", ema_decay=0.98
        ),
    )
    train(salt, groups, settings=known, folder=tmp_path, seed=0)
    generator = FlowGenerator.load(tmp_path / "generator.safetensors", precision="fp32")
    settings = quick(300).model_copy(update={"n_tokens": 300})
    made = finetune(
        generator,
        LabelledCrystals(crystals=salt, source="salts"),
        "room",
        settings=settings,
        folder=tmp_path / "room",
    )
    assert made.effect.is_seen

    from matmill.generate.guidance import guided
    from matmill.generate.sample import Start, sample

    stack = AdapterStack.load([made.path], generator.denoiser.size, base_hash=generator.hash)
    network = Adapted(generator.denoiser, stack)

    def room(low, high):
        base = replace(
            Conditions.none(48, n_added=1),
            space_group=torch.full((48,), 221),
            crystal_system=torch.full((48,), 7),
        )
        field = guided(
            network, base, replace(base, added=stack.asked(48, {"room": (low, high)})), weight=1.0
        )
        out = sample(
            field,
            Start.nothing(48, 2),
            n_steps=30,
            allowed=torch.ones(100, dtype=torch.bool),
            rng=torch.Generator().manual_seed(1),
        )
        lattice = generator.denoiser.scale.decode(out.y, torch.full((48,), 2))
        return lattice.det().abs() / 2000

    small, large = room(0.014, 0.014), room(0.05, 0.05)
    assert small.median() < 0.022
    assert large.median() > 0.036
    middle = room(0.02, 0.04)
    assert ((middle > 0.016) & (middle < 0.048)).float().mean() > 0.7
