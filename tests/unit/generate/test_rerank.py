"""Best of k with judges whose verdict is known."""

from types import SimpleNamespace

import pytest
import torch

from matmill.crystals.batch import CrystalBatch
from matmill.errors import InputError
from matmill.generate.deliver import generate
from matmill.generate.protocol import GenerationRequest
from matmill.generate.rerank import Wanted, best_of


def crystals(n):
    cell = torch.eye(3).tolist()
    return CrystalBatch.from_lists([cell] * n, [[[0.0, 0.0, 0.0]]] * n, [[26]] * n)


def judge(mean, std=None, column="band_gap_ev"):
    mean = torch.tensor(mean)
    std = torch.zeros_like(mean) if std is None else torch.tensor(std)
    return SimpleNamespace(column=column, predict=lambda _: SimpleNamespace(mean=mean, std=std))


def test_the_closest_draw_of_each_crystal_is_kept():
    # Crystals 0, 1, 2 in their first and in their second draw.
    wish = Wanted(judge=judge([5.0, 2.1, 9.0, 2.0, 4.0, 9.5]), low=1.9, high=2.2)
    best = best_of(crystals(6), [wish], k=2)
    assert best.chosen.tolist() == [3, 1, 2]
    assert best.raw[0]["hits"] == 1
    assert best.kept[0]["hits"] == 2
    assert best.kept[0]["n"] == 3


def test_of_two_equal_draws_the_surer_one_is_kept():
    wish = Wanted(judge=judge([2.0, 2.0], [0.9, 0.1]), low=1.5, high=2.5)
    assert best_of(crystals(2), [wish], k=2).chosen.tolist() == [1]
    assert best_of(crystals(2), [wish], k=2, kappa=0.0).chosen.tolist() == [0]


def test_a_sure_draw_near_the_target_beats_a_doubtful_one_on_it():
    wish = Wanted(judge=judge([2.0, 3.0], [2.0, 0.1]), low=2.0, high=2.0)
    assert best_of(crystals(2), [wish], k=2).chosen.tolist() == [1]
    assert best_of(crystals(2), [wish], k=2, kappa=0.2).chosen.tolist() == [0]


def test_draws_without_a_prediction_come_last():
    wish = Wanted(judge=judge([float("nan"), 50.0]), low=2.0, high=2.0)
    assert best_of(crystals(2), [wish], k=2).chosen.tolist() == [1]


def test_several_properties_are_weighed_by_their_units():
    first = Wanted(judge=judge([0.0, 1.0]), low=0.0, high=0.0, unit_step=10.0)
    second = Wanted(judge=judge([1.0, 0.0]), low=0.0, high=0.0, unit_step=1.0)
    assert best_of(crystals(2), [first, second], k=2).chosen.tolist() == [1]


def test_nothing_to_judge_by_is_an_error():
    with pytest.raises(InputError, match="nothing to judge by"):
        best_of(crystals(2), [], k=2)


def test_first_draws_are_those_of_a_run_without_it(generator, tmp_path):
    class Volume:
        column = "volume_per_atom_a3"

        def predict(self, batch):
            value = batch.volume / batch.n_atoms
            return SimpleNamespace(mean=value, std=torch.zeros_like(value))

    request = GenerationRequest(n=4, n_steps=2, n_atoms=(2, 5))
    plain = generate(generator, request, seed=5)
    wanted = [Wanted(judge=Volume(), low=0.0, high=0.0)]
    best = generate(generator, request, seed=5, k=3, wanted=wanted, out=tmp_path / "best.extxyz")
    assert best.reranked.k == 3
    assert best.crystals.ids == plain.crystals.ids
    draw = best.crystals.properties["draw"]
    first = draw == 1
    same = [a == b for a, b in zip(best.crystals.hashes, plain.crystals.hashes, strict=True)]
    assert torch.tensor(same)[first].all()
    volume = [c.crystals.volume / c.crystals.n_atoms for c in (best, plain)]
    assert (volume[0] <= volume[1]).all()
    assert (volume[0] < volume[1]).any()
    assert best.reranked.raw[0]["median"] == pytest.approx(float(volume[1].nanmedian()))
