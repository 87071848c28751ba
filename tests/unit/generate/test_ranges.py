"""Ranges of scalars as conditions: optional, silent until learnt, and faithful to the request."""

from dataclasses import replace

import pytest
import torch

from matmill.generate.conditions import (
    RANGE_HALF_WIDTHS,
    RANGE_WEIGHTS,
    SCALARS,
    ConditionEncoder,
    Conditions,
    ScalarSchema,
)
from matmill.generate.flow import FlowGenerator
from matmill.generate.network import SIZES
from matmill.generate.plan import make_plan
from matmill.generate.protocol import GenerationRequest
from matmill.generate.train import GeneratorSettings, train
from matmill.training import checkpoint
from matmill.training.fit import FitSettings

GAP = list(SCALARS).index("band_gap_ev")
SCHEMA = {name: ScalarSchema(mean=0.8, std=0.6, low=0.0, high=6.0, count=100) for name in SCALARS}


def encoder(*, reads_ranges):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return ConditionEncoder(24, SCHEMA, reads_ranges=reads_ranges)


def asked(low, high=None):
    conditions = Conditions.none(len(low))
    conditions.scalars[:, GAP] = torch.tensor(low)
    if high is not None:
        conditions.upper[:, GAP] = torch.tensor(high)
    return conditions


def test_values_mean_the_same_to_networks_with_and_without_ranges():
    old, new = encoder(reads_ranges=False), encoder(reads_ranges=True)
    assert set(new.state_dict()) - set(old.state_dict()) == {"scalar_range"}
    conditions = asked([0.0, 1.5, 4.0])
    with torch.no_grad():
        assert torch.equal(old(conditions), new(conditions))
        new.scalar_range += torch.randn(new.scalar_range.shape)
        assert torch.equal(old(conditions), new(conditions))
        narrow, wide = new(asked([1.0], [1.2])), new(asked([0.3], [3.5]))
    assert (narrow - wide).abs().max() > 1e-3


def test_shown_ranges_hold_the_known_value_and_nothing_is_made_up():
    reader = encoder(reads_ranges=True)
    values = torch.rand(4000, generator=torch.Generator().manual_seed(0)) * 5 + 0.5
    shown = reader.widened(asked(values.tolist()), torch.Generator().manual_seed(1))
    low, high = shown.scalars[:, GAP], shown.upper[:, GAP]
    is_range = torch.isfinite(high)
    assert 0.35 < is_range.float().mean() < 0.45
    assert torch.equal(low[~is_range], values[~is_range])
    inner = is_range & (reader.standard(shown.scalars)[:, GAP] > -1.3)  # below, zero is a wall
    assert (low[inner] <= values[inner] + 1e-4).all()
    assert (high[inner] >= values[inner] - 1e-4).all()
    half = (torch.log1p(high[inner]) - torch.log1p(low[inner])) / 2 / 0.6
    assert float(half.min()) > RANGE_HALF_WIDTHS[0] - 1e-3
    assert float(half.max()) < RANGE_HALF_WIDTHS[1] + 1e-3
    others = [i for i in range(len(SCALARS)) if i != GAP]
    assert torch.isnan(shown.scalars[:, others]).all()
    assert torch.isnan(shown.upper[:, others]).all()
    plain = asked([1.0, 2.0])
    assert encoder(reads_ranges=False).widened(plain, torch.Generator()) is plain


def test_a_window_is_told_as_a_range_only_to_networks_that_know_ranges(generator):
    request = GenerationRequest(n=6, conditions={"band_gap_ev": (1.0, 3.0)})
    plan = make_plan(request, generator.trained, torch.Generator().manual_seed(0))
    drawn = plan.asked.scalars[:, GAP]
    assert ((drawn >= 1.0) & (drawn <= 3.0)).all()
    assert len(set(drawn.tolist())) == 6
    assert torch.isnan(plan.asked.upper).all()

    knows = replace(generator.trained, reads_ranges=True)
    plan = make_plan(request, knows, torch.Generator().manual_seed(0))
    assert set(plan.asked.scalars[:, GAP].tolist()) == {1.0}
    assert set(plan.asked.upper[:, GAP].tolist()) == {3.0}
    assert set(plan.parts["band_gap_ev"].upper[:, GAP].tolist()) == {3.0}
    point = GenerationRequest(n=6, conditions={"band_gap_ev": 2.0})
    plan = make_plan(point, knows, torch.Generator().manual_seed(0))
    assert torch.isnan(plan.asked.upper).all()


@pytest.mark.parametrize("ranges", [False, True])
def test_training_with_ranges_starts_from_weights_that_know_none(
    crystals, space_groups, tmp_path, ranges
):
    known = GeneratorSettings(
        size="tiny",
        n_tokens=60,
        fit=FitSettings(max_steps=4, warmup_steps=1, precision="fp32", ema_decay=0.5),
    )
    train(crystals, space_groups, settings=known, folder=tmp_path / "plain", seed=0)
    first = tmp_path / "plain" / "generator.safetensors"
    train(
        crystals,
        space_groups,
        settings=known.model_copy(update={"ranges": ranges}),
        folder=tmp_path / "more",
        seed=0,
        start_from=first,
    )
    tensors, _ = checkpoint.load(tmp_path / "more" / "generator")
    assert (RANGE_WEIGHTS in tensors) == ranges
    loaded = FlowGenerator.load(tmp_path / "more" / "generator.safetensors")
    assert loaded.trained.reads_ranges == ranges
    assert not FlowGenerator.load(first).trained.reads_ranges
    if ranges:
        assert bool(tensors[RANGE_WEIGHTS].any())
    assert loaded.denoiser.size == SIZES["tiny"]
