"""The score of samples: what it punishes, and that it chooses the weights."""

import pytest
import torch

from matmill.crystals.batch import concatenate
from matmill.generate.conditions import SCALARS
from matmill.generate.flow import FlowGenerator
from matmill.generate.protocol import GenerationRequest
from matmill.generate.train import GeneratorSettings, train, vars_of
from matmill.generate.validation import SampleScore, SampleSettings, composition_keys
from matmill.training import checkpoint
from matmill.training.fit import FitSettings


@pytest.fixture
def score(training_set):
    shapes = torch.cat([training_set.shapes, training_set.shape_counts[:, None]], dim=1)
    card = {
        "shapes": shapes.tolist(),
        "elements": training_set.elements.tolist(),
        "conditions": {name: vars_of(training_set.schema[name]) for name in SCALARS},
        "max_atoms": 20,
    }
    settings = SampleSettings(n_samples=12, n_steps=2)
    return SampleScore(training_set, card, settings=settings, seed=0)


def test_training_crystals_are_valid_and_unique_but_not_new(score, crystals):
    found = score.of(crystals)
    assert found["valid"] == found["unique"] == 1.0
    assert found["novel"] == found["validation"] == 0.0
    assert found["density_w1"] == pytest.approx(0.0, abs=1e-4)


def test_supercells_and_other_volumes_are_known_but_other_elements_are_new(score, crystals):
    salt = crystals.select([0])
    lattice = salt.lattice.clone() * 1.02
    wider = salt.with_ids(["a"]).__class__(
        lattice=lattice,
        frac_coords=salt.frac_coords,
        atomic_numbers=salt.atomic_numbers,
        n_atoms=salt.n_atoms,
    )
    double = wider.__class__(
        lattice=lattice * torch.tensor([[2.0], [1.0], [1.0]]).double(),
        frac_coords=torch.cat(
            [
                salt.frac_coords * torch.tensor([0.5, 1, 1]),
                salt.frac_coords * torch.tensor([0.5, 1, 1]) + torch.tensor([0.5, 0, 0]),
            ]
        ).double(),
        atomic_numbers=salt.atomic_numbers.repeat(2),
        n_atoms=salt.n_atoms * 2,
    )
    other = wider.__class__(
        lattice=lattice,
        frac_coords=salt.frac_coords,
        atomic_numbers=torch.tensor([19, 17]),
        n_atoms=salt.n_atoms,
    )
    assert score.of(wider)["novel"] == 0.0
    assert score.of(double)["novel"] == 0.0
    assert score.of(other)["novel"] == 1.0
    keys = composition_keys(concatenate([wider, double, other]))
    assert keys[0] == keys[1] != keys[2]


def test_overlaps_duplicates_and_wrong_densities_cost(score, crystals):
    salt = crystals.select([0])
    made = salt.__class__(
        lattice=salt.lattice.repeat(4, 1, 1) * torch.tensor([1.0, 1.0, 0.4, 1.8])[:, None, None],
        frac_coords=salt.frac_coords.repeat(4, 1),
        atomic_numbers=torch.tensor([19, 17]).repeat(4),
        n_atoms=salt.n_atoms.repeat(4),
    )
    found = score.of(made)
    assert found["valid"] == 0.75  # one overlaps
    assert found["unique"] == 0.25  # the others are one crystal at three volumes
    assert found["validation"] == pytest.approx(0.25 / (1 + found["density_w1"]))
    assert found["density_w1"] > 1.0


def test_the_same_weights_score_the_same_and_stay_as_they_are(score, denoiser):
    task = torch.nn.Module()
    task.denoiser = denoiser
    before = {name: t.clone() for name, t in denoiser.state_dict().items()}
    first = score(task)
    assert score(task) == first
    made = score.made_with(task)
    with torch.no_grad():
        denoiser.lattice_out.bias += 0.5
    assert not torch.equal(score.made_with(task).lattice, made.lattice)  # no stale weights
    with torch.no_grad():
        denoiser.lattice_out.bias.copy_(before["lattice_out.bias"])
    assert torch.equal(score.made_with(task).lattice, made.lattice)
    assert all(torch.equal(before[name], t) for name, t in denoiser.state_dict().items())


def test_the_best_scored_weights_are_shipped_and_the_best_few_kept(
    crystals, space_groups, tmp_path
):
    settings = GeneratorSettings(
        size="tiny",
        n_tokens=60,
        samples=SampleSettings(n_samples=8, n_steps=2),
        fit=FitSettings(
            max_steps=24,
            learning_rate=3e-3,
            warmup_steps=2,
            precision="fp32",
            ema_decay=0.5,
            validate_every_share=0.25,
            keep_best=2,
        ),
    )
    result = train(crystals, space_groups, settings=settings, folder=tmp_path, seed=0)
    rows = (tmp_path / "log.csv").read_text().splitlines()
    names = rows[0].split(",")
    scored = [dict(zip(names, row.split(","), strict=True)) for row in rows[1:]]
    scored = [row for row in scored if row["validation"]]
    assert [int(row["step"]) for row in scored] == [6, 12, 18, 24]
    best = max(scored, key=lambda row: float(row["validation"]))
    assert result.best_score == pytest.approx(float(best["validation"]), rel=1e-4)
    assert result.best_step == int(best["step"])
    kept = sorted((tmp_path / "best").glob("*.safetensors"))
    assert len(kept) == 2
    tensors, _ = checkpoint.load(tmp_path / "best" / f"step-{result.best_step:08d}")
    shipped, card = checkpoint.load(tmp_path / "generator")
    assert all(torch.equal(tensors[f"denoiser.{name}"], t) for name, t in shipped.items())
    assert card["training"]["sample_score_step"] == result.best_step
    made = FlowGenerator.load(tmp_path / "generator.safetensors").sample(
        GenerationRequest(n=2, n_steps=2), torch.Generator().manual_seed(0)
    )
    assert len(made) == 2
