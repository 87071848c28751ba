"""Training the flow: what is used, that it learns, that it resumes, that weights come back."""

import pytest
import torch

from matmill.crystals.batch import CrystalBatch
from matmill.errors import DataError, InputError
from matmill.generate.conditions import SCALARS
from matmill.generate.dataset import TrainingSet, usable
from matmill.generate.flow import FlowGenerator
from matmill.generate.protocol import GenerationRequest
from matmill.generate.train import GeneratorSettings, train
from matmill.training import checkpoint
from matmill.training.fit import FitSettings


def settings(steps):
    return GeneratorSettings(
        size="tiny",
        n_tokens=60,
        fit=FitSettings(
            max_steps=steps,
            learning_rate=2e-3,
            warmup_steps=5,
            precision="fp32",
            ema_decay=0.9,
            checkpoint_every_seconds=0.0,
            log_every_steps=1,
        ),
    )


def test_noble_gases_and_large_cells_are_left_out(crystals):
    neon = CrystalBatch.from_lists(
        [torch.eye(3) * 4.4], [[[0, 0, 0]]], [[10]], ids=["Ne"], properties={"band_gap_ev": [11.0]}
    )
    from matmill.crystals.batch import concatenate

    kept = usable(concatenate([crystals, neon]), max_atoms=5)
    assert "Ne" not in kept.ids
    assert "TiO2" not in kept.ids
    with pytest.raises(DataError, match="None of 1 crystals"):
        usable(neon, max_atoms=5)


def test_an_epoch_serves_every_crystal_once(training_set):
    seen = []
    for batch in training_set.epoch(0, torch.Generator().manual_seed(0)):
        assert len(set(batch.crystals.z.shape)) >= 1
        seen += [tuple(sorted(row.tolist())) for row in batch.crystals.z]
    assert len(seen) == len(training_set) == 6
    assert len(set(seen)) == 6
    count = sum(1 for _ in training_set.epoch(0, torch.Generator().manual_seed(0)))
    assert count == training_set.n_batches()


def test_batches_hold_a_bounded_number_of_tokens(crystals, space_groups):
    many = crystals.select(torch.arange(6).repeat(20))
    dealt = TrainingSet(many, space_groups.repeat(20), n_tokens=21)
    for batch in dealt.epoch(0, torch.Generator().manual_seed(0)):
        b, n = batch.crystals.z.shape
        assert b * (n + 1) <= 21


def test_training_learns_saves_and_resumes_to_the_same_weights(crystals, space_groups, tmp_path):
    whole = train(crystals, space_groups, settings=settings(30), folder=tmp_path / "a", seed=0)
    train(crystals, space_groups, settings=settings(12), folder=tmp_path / "b", seed=0)
    part = train(crystals, space_groups, settings=settings(30), folder=tmp_path / "b", seed=0)
    assert part.step == whole.step == 30
    rows = (tmp_path / "a" / "log.csv").read_text().splitlines()
    column = rows[0].split(",").index("loss")
    losses = [float(row.split(",")[column]) for row in rows[1:]]
    assert sum(losses[-5:]) < sum(losses[:5])

    loaded = FlowGenerator.load(tmp_path / "a" / "generator.safetensors")
    tensors, card = checkpoint.load(tmp_path / "a" / "generator")
    assert torch.equal(loaded.denoiser.state_dict()["element.weight"], tensors["element.weight"])
    assert card["training"]["steps"] == 30
    assert set(card["conditions"]) == set(SCALARS)
    assert sum(count for *_, count in card["shapes"]) == 6
    out = loaded.sample(GenerationRequest(n=3, n_steps=3), torch.Generator().manual_seed(0))
    assert set(out.atomic_numbers.tolist()) <= set(card["elements"])


def test_rounded_weights_load_and_change_little(crystals, space_groups, tmp_path):
    train(crystals, space_groups, settings=settings(3), folder=tmp_path, seed=0)
    tensors, card = checkpoint.load(tmp_path / "generator")
    card.pop("weights_sha256")
    rounded = {
        name: t if name.startswith("scale") else t.to(torch.bfloat16) for name, t in tensors.items()
    }
    checkpoint.save(tmp_path / "small", rounded, card)
    exact = FlowGenerator.load(tmp_path / "generator.safetensors", precision="fp32")
    small = FlowGenerator.load(tmp_path / "small.safetensors", precision="fp32")
    request = GenerationRequest(
        n=2, n_steps=2, formula={"Na": 1, "Cl": 1}, n_atoms=(2, 2), screen=False
    )
    a, b = (g.sample(request, torch.Generator().manual_seed(0)) for g in (exact, small))
    torch.testing.assert_close(a.volume, b.volume, rtol=0.02, atol=0)


def test_unknown_sizes_and_foreign_files_are_refused(crystals, space_groups, tmp_path):
    with pytest.raises(InputError, match="No size called 'XS'"):
        train(
            crystals,
            space_groups,
            settings=settings(1).model_copy(update={"size": "XS"}),
            folder=tmp_path,
            seed=0,
        )
    checkpoint.save(tmp_path / "other", {"x": torch.zeros(1)}, {"kind": "cgcnn"})
    with pytest.raises(DataError, match="not a flow generator"):
        FlowGenerator.load(tmp_path / "other.safetensors")
    with pytest.raises(DataError, match="no checkpoint"):
        FlowGenerator.load(tmp_path / "missing.safetensors")
