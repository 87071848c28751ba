"""A generator that learns from its own output: what is new, what is learned, what is kept."""

import json

import pytest
import torch

from matmill.campaign.workers import InlineWorkers
from matmill.crystals.batch import CrystalBatch, concatenate
from matmill.errors import DataError, InputError, MatmillError
from matmill.generate.train import GeneratorSettings, train
from matmill.steer.flywheel.looking import Settle
from matmill.steer.flywheel.making import to_plain
from matmill.steer.selfteach.judging import Judgement, element_number, judge, lesson
from matmill.steer.selfteach.loop import run_selfteach
from matmill.steer.selfteach.settings import SelfteachSettings
from matmill.steer.selfteach.tasks import Draw, Teach, weights_of
from matmill.training.fit import FitSettings
from matmill.verify.novelty import KnownIndex


def rock_salt(*pairs, edge=4.5):
    cubic = torch.tensor([[0.0, 1, 1], [1, 0, 1], [1, 1, 0]]).double()
    n = len(pairs)
    return CrystalBatch(
        lattice=(0.5 * edge * 2**0.5 * cubic)[None].repeat(n, 1, 1),
        frac_coords=torch.tensor([[0.0, 0, 0], [0.5, 0.5, 0.5]]).double().repeat(n, 1),
        atomic_numbers=torch.tensor(pairs).flatten(),
        n_atoms=torch.full((n,), 2),
    )


@pytest.fixture(scope="module")
def nothing_known():
    """An index that knows nothing."""
    import numpy as np

    return KnownIndex(
        name="none",
        hash="0",
        keys=np.zeros(0, np.int64),
        ids=[],
        prints=np.zeros((0, 30), np.float16),
        likely=0.01,
        never=0.5,
    )


LA, CE, N, P, AS, SB = 57, 58, 7, 15, 33, 51


@pytest.fixture(scope="module")
def judged(nothing_known):
    """In order: trained on; taught; lanthanide swap; new; the same again; too high; not relaxed."""
    batch = rock_salt([LA, N], [LA, P], [CE, N], [LA, AS], [LA, AS], [LA, SB], [CE, SB])
    above = torch.tensor([0.0, 0.01, 0.02, -0.01, 0.0, 0.5, torch.nan], dtype=torch.float64)
    return judge(
        batch,
        batch,
        above,
        trained_on=rock_salt([LA, N]),
        taught=[rock_salt([LA, P])],
        known=nothing_known,
    )


def test_replays_and_swaps_are_told_from_what_is_new(judged):
    counts = judged.counts(0.1)
    assert counts["drawn"] == counts["valid"] == 7
    assert counts["relaxed"] == 6
    assert counts["unique"] == 5
    assert counts["metastable"] == 5
    assert counts["stable"] == 3
    # LaP, CeN and LaAs are new and low; LaP was taught; CeN is LaN with another lanthanide.
    assert counts["msun"] == 3
    assert counts["msun_train"] == 2
    assert counts["msun_framework"] == 1
    assert counts["replayed"] == 1
    assert counts["sun"] == 1
    assert counts["with a lanthanide"] == 7


def test_the_effective_number_of_elements_is_that_of_equal_shares():
    assert element_number(rock_salt([LA, N], [CE, P])) == pytest.approx(4.0)
    assert element_number(rock_salt([LA, N], [LA, N])) == pytest.approx(2.0)
    assert element_number(CrystalBatch.empty()) == 0.0


def test_each_arm_learns_what_it_should(judged):
    def rows(arm, n=None, most=3):
        rng = torch.Generator().manual_seed(0)
        return lesson(judged, arm, threshold=0.1, most_of_a_formula=most, n=n, rng=rng).tolist()

    assert rows("verified") == [2, 3]
    assert rows("deduplicated") == [0, 1, 2, 3, 5]
    assert rows("raw") == list(range(7))
    assert len(rows("raw", n=2)) == 2


def test_few_of_a_formula_are_learned(nothing_known):
    batch = concatenate([rock_salt([LA, N]), rock_salt([LA, N])])
    batch.frac_coords[-1] = torch.tensor([0.25, 0.25, 0.25])  # zinc blende: another crystal
    found = judge(
        batch,
        batch,
        torch.zeros(2, dtype=torch.float64),
        trained_on=rock_salt([CE, SB]),
        taught=[],
        known=nothing_known,
    )
    rng = torch.Generator().manual_seed(0)
    options = {"threshold": 0.1, "n": None, "rng": rng}
    assert len(lesson(found, "verified", most_of_a_formula=2, **options)) == 2
    assert len(lesson(found, "verified", most_of_a_formula=1, **options)) == 1


@pytest.fixture(scope="module")
def start(tmp_path_factory):
    """A tiny flow that has seen a few salts for a moment, and the table that it saw."""
    folder = tmp_path_factory.mktemp("start")
    pairs = [[a, b] for a in (3, 11, 19, 37) for b in (9, 17, 35)]
    salts = rock_salt(*pairs).with_properties(
        energy_above_hull_ev=torch.zeros(12).double(), density_g_cm3=torch.ones(12).double()
    )
    train(
        salts,
        torch.full((12,), 225),
        settings=GeneratorSettings(
            size="tiny", symmetric_passes=0, fit=FitSettings(max_steps=4, warmup_steps=1)
        ),
        folder=folder,
        seed=0,
    )
    from matmill.crystals.files import write

    write(salts, folder / "salts.parquet")
    return folder


def settings_of(start, **changes):
    values = {
        "data": start / "salts.parquet",
        "generator": str(start / "generator.safetensors"),
        "rounds": 2,
        "n_samples": 12,
        "crystals_a_task": 5,
        "steps": 3,
        "n_steps": 4,
        "fewest_alike": 0.0,
    }
    return SelfteachSettings(**{**values, **changes})


@pytest.fixture
def settled(monkeypatch):
    """Relaxation that moves nothing, with energies that follow from the crystal."""

    def answer(_self, given):
        above = [0.01 * (z % 20) for z in given.crystals.atomic_numbers[given.crystals.offsets]]
        return {
            "above_hull_ev_per_atom": [float(x) for x in above],
            "hull": "test",
            "crystals": to_plain(given.crystals),
            "cpu_s": 0.5,
        }

    monkeypatch.setattr(Settle, "__call__", answer)


def run(start, folder, known, **changes):
    return run_selfteach(
        settings_of(start, **changes), folder=folder, workers=InlineWorkers(), known=known
    )


@pytest.mark.usefixtures("settled")
def test_all_arms_run_all_rounds_and_a_second_call_finds_the_same(
    start, nothing_known, tmp_path, monkeypatch
):
    facts = run(start, tmp_path, nothing_known)
    assert [(f.arm, f.round) for f in facts] == [
        (arm, number) for number in range(3) for arm in ("verified", "deduplicated", "raw", "none")
    ]
    first = [f.counts for f in facts if f.round == 0]
    assert all(counts == first[0] for counts in first)  # all start from the same generator
    taught = {(f.arm, f.round): f.n_taught for f in facts}
    assert taught["none", 2] == 0
    assert taught["raw", 1] == taught["verified", 1] <= 12
    written = json.loads((tmp_path / "rounds.json").read_text())
    assert len(written["rounds"]) == len(facts)

    def refuse(_self, _given):
        raise AssertionError("nothing is left to do")

    for kind in (Draw, Teach, Settle):
        monkeypatch.setattr(kind, "__call__", refuse)
    again = run(start, tmp_path, nothing_known)
    assert json.dumps([vars(f) for f in again]) == json.dumps([vars(f) for f in facts])


@pytest.mark.usefixtures("settled")
def test_an_arm_that_narrows_stops(start, nothing_known, tmp_path, monkeypatch):
    numbers = iter([10.0, 7.1, 6.9])
    original = Judgement.counts
    monkeypatch.setattr(
        Judgement,
        "counts",
        lambda self, limit: {**original(self, limit), "effective_elements": next(numbers)},
    )
    facts = run(start, tmp_path, nothing_known, arms=("raw",), fewest_alike=0.7, rounds=3)
    assert [(f.round, bool(f.stopped)) for f in facts] == [(0, False), (1, False), (2, True)]


@pytest.mark.usefixtures("settled")
def test_every_arm_learns_from_the_same_share_of_training_crystals(
    start, nothing_known, tmp_path, monkeypatch
):
    """Also in later rounds, when there are more lessons than that share has room for."""
    taught = []
    original = Teach.__call__

    def noting(self, given):
        taught.append(given.crystals)
        return original(self, given)

    monkeypatch.setattr(Teach, "__call__", noting)
    run(start, tmp_path, nothing_known, arms=("raw", "none"), replay=0.6)
    assert [len(batch) for batch in taught] == [12 + 8] * 4  # two arms, two rounds
    known = {tuple(pair) for pair in ([a, b] for a in (3, 11, 19, 37) for b in (9, 17, 35))}
    for batch in taught[1::2]:  # the arm "none" has nothing but training crystals
        assert {tuple(pair) for pair in batch.atomic_numbers.reshape(-1, 2).tolist()} <= known


@pytest.mark.usefixtures("settled")
def test_a_small_share_of_own_crystals_is_one_at_least(start, nothing_known, tmp_path, monkeypatch):
    sizes = []
    original = Teach.__call__
    monkeypatch.setattr(
        Teach, "__call__", lambda self, g: sizes.append(len(g.crystals)) or original(self, g)
    )
    run(start, tmp_path, nothing_known, arms=("raw",), rounds=1, replay=0.99)
    assert sizes == [12 + 1]


@pytest.mark.usefixtures("settled")
def test_fine_tuning_keeps_what_the_start_can_make(start, nothing_known, tmp_path):
    run(start, tmp_path, nothing_known, arms=("raw",), rounds=1)
    files = [f for f in tmp_path.glob("*.json") if f.name != "rounds.json"]
    card = json.loads(files[0].read_text())
    before = json.loads((start / "generator.json").read_text())
    assert set(before["elements"]) <= set(card["elements"])
    assert card["shapes"] == before["shapes"]


def test_a_failed_task_stops_with_its_reason(start, nothing_known, tmp_path, monkeypatch):
    def crash(_self, _given):
        raise RuntimeError("no forces")

    monkeypatch.setattr(Settle, "__call__", crash)
    with pytest.raises(MatmillError, match="no forces"):
        run(start, tmp_path, nothing_known, arms=("raw",))


def test_bad_input_is_told(start, nothing_known, tmp_path):
    with pytest.raises(InputError, match=r"There are no weights 'rivers'"):
        run(start, tmp_path, nothing_known, generator="rivers")
    assert weights_of("flow", tmp_path).name == "flow.safetensors"
    with pytest.raises((DataError, InputError)):
        run(start, tmp_path, nothing_known, data=tmp_path / "none.parquet")
