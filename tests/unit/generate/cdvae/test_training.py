"""Training a CDVAE: it learns, resumes to equal weights, and passes on what it knows."""

from itertools import pairwise

import pytest
import torch

from matmill.errors import DataError, InputError
from matmill.generate.cdvae.dataset import CdvaeSet
from matmill.generate.cdvae.train import train_cdvae
from matmill.generate.state import LatticeScale
from matmill.training import checkpoint

from .conftest import COLUMN, settings


def column(folder, name):
    rows = (folder / "log.csv").read_text().splitlines()
    place = rows[0].split(",").index(name)
    return [float(row.split(",")[place]) for row in rows[1:]]


def test_every_part_of_the_loss_falls_on_a_handful_of_crystals(trained):
    _, folder = trained
    for name in ("loss", "n_atoms", "lattice", "composition", "types", "property"):
        values = column(folder / "autoencoder", name)
        assert sum(values[-10:]) < 0.8 * sum(values[:10]), name
    values = column(folder / "prior", "loss")
    assert sum(values[-10:]) < 0.95 * sum(values[:10])


def test_an_interrupted_training_ends_with_equal_weights(crystals, space_groups, tmp_path):
    def run(folder, steps):
        return train_cdvae(
            crystals,
            [COLUMN],
            settings=settings(steps),
            folder=tmp_path / folder,
            space_group=space_groups,
        )

    whole = run("a", 9)
    (tmp_path / "b").mkdir()
    # Stopped in the middle of the autoencoder: its checkpoint is there, no prior yet.
    from matmill.generate.cdvae import train

    def stop(model, data, rows):
        del model, data, rows
        raise KeyboardInterrupt

    kept, train.encoded = train.encoded, stop
    try:
        with pytest.raises(KeyboardInterrupt):
            run("b", 4)
    finally:
        train.encoded = kept
    again = run("b", 9)
    for name, tensor in whole.model.state_dict().items():
        assert torch.equal(tensor, again.model.state_dict()[name]), name
    for name, tensor in whole.prior.state_dict().items():
        assert torch.equal(tensor, again.prior.state_dict()[name]), name


def test_a_start_lends_its_weights_and_takes_a_new_condition(
    trained, crystals, space_groups, tmp_path
):
    old, _ = trained
    labelled = crystals.with_properties(hardness=torch.linspace(1, 9, len(crystals)).double())
    made = train_cdvae(
        labelled,
        ["hardness"],
        settings=settings(0),
        folder=tmp_path,
        space_group=space_groups,
        start=old,
    )
    assert list(made.trained.ranges) == [COLUMN, "hardness"]
    before, after = old.model.state_dict(), made.model.state_dict()
    assert all(torch.equal(tensor, after[name]) for name, tensor in before.items())
    assert any("numbers.1" in name for name in after)
    assert made.card["training"]["start_sha256"] == old.hash
    assert set(made.card["elements"]) >= set(old.card["elements"])
    assert torch.allclose(made.model.scale.mean, old.model.scale.mean)


def test_without_columns_it_is_the_plain_cdvae(crystals, space_groups, tmp_path):
    made = train_cdvae(crystals, settings=settings(2), folder=tmp_path, space_group=space_groups)
    assert made.name == "cdvae"
    assert made.prior is None
    tensors, card = checkpoint.load(tmp_path / "generator")
    assert not any(name.startswith("prior.") for name in tensors)
    assert card["conditions"] == {}


def test_bad_columns_are_refused_in_one_line(crystals, space_groups, tmp_path):
    def run(columns, batch=crystals):
        train_cdvae(batch, columns, settings=settings(1), folder=tmp_path, space_group=space_groups)

    with pytest.raises(InputError, match="no column 'gap' to condition on"):
        run(["gap"])
    with pytest.raises(InputError, match="given twice"):
        run([COLUMN, COLUMN])
    empty = crystals.with_properties(label=torch.full((len(crystals),), torch.nan).double())
    with pytest.raises(DataError, match="known for 0 crystals"):
        run(["label"], empty)
    alike = crystals.with_properties(label=torch.ones(len(crystals)).double())
    with pytest.raises(DataError, match="all alike"):
        run(["label"], alike)


def test_an_epoch_shows_all_crystals_equally_often_in_runs_of_like_size(
    crystals, space_groups, rng
):
    data = CdvaeSet(
        crystals, space_groups, [COLUMN], scale=LatticeScale.fit(crystals), batch_size=40
    )
    seen = []
    for views in data.epoch(0, rng):
        sizes = [view.crystals.n_atoms for view in views]
        assert all(a.max() <= b.min() for a, b in pairwise(sizes))
        for view in views:
            assert view.crystals.z.shape[1] == int(view.crystals.n_atoms.max())
            seen += [tuple(row[row > 0].tolist()) for row in view.crystals.z]
    counts = {kind: seen.count(kind) for kind in set(seen)}
    assert len(counts) == len(crystals)
    assert len(set(counts.values())) == 1
