"""Predictions with a gradient, against the plain predictions and finite differences."""

from types import SimpleNamespace

import pytest
import torch

from matmill.crystals.batch import CrystalBatch
from matmill.errors import InputError
from matmill.predict.exact import ExactPredictor
from matmill.predict.gradients import differentiable
from matmill.predict.protocol import load_predictor


def geometry():
    rng = torch.Generator().manual_seed(0)
    lattice = 4.2 * torch.eye(3) + 0.3 * torch.randn(2, 3, 3, generator=rng)
    frac = torch.rand(2, 4, 3, generator=rng)
    z = torch.tensor([[31, 7, 31, 7], [12, 8, 8, 22]])
    return lattice.double(), frac.double(), z


def batch_of(lattice, frac, z):
    return CrystalBatch(
        lattice=lattice,
        frac_coords=frac.reshape(-1, 3),
        atomic_numbers=z.reshape(-1),
        n_atoms=torch.tensor([4, 4]),
    )


@pytest.mark.parametrize("name", ["formation_energy_per_atom", "bulk_modulus", "density"])
def test_values_are_the_predictors_and_slopes_are_finite_differences(name):
    lattice, frac, z = geometry()
    predictor = load_predictor(name)
    value = differentiable(predictor)
    lattice.requires_grad_(True)
    frac.requires_grad_(True)
    found = value(lattice, frac, z)
    plain = predictor.predict(batch_of(lattice.detach(), frac.detach(), z)).mean
    torch.testing.assert_close(found.detach(), plain, rtol=1e-5, atol=1e-5)
    slope, along = torch.autograd.grad(found.sum(), (lattice, frac), allow_unused=True)

    def change(d_lattice, d_frac):
        up = value(lattice.detach() + d_lattice, frac.detach() + d_frac, z)
        down = value(lattice.detach() - d_lattice, frac.detach() - d_frac, z)
        return (up - down).sum() / 4e-3

    # Distances are looked up in steps of 0.01 Å, so slopes are those of short straight pieces.
    step = torch.zeros_like(lattice)
    step[0, 0, 0] = 2e-3
    near = {"rtol": 0.05, "atol": 0.02 * float(slope.abs().max())}
    torch.testing.assert_close(slope[0, 0, 0], change(step, 0.0), **near)
    if along is None:
        assert name == "density"
        return
    step = torch.zeros_like(frac)
    step[1, 2, 1] = 2e-3
    near = {"rtol": 0.05, "atol": 0.05 * float(along.abs().max())}
    torch.testing.assert_close(along[1, 2, 1], change(0.0, step), **near)


def test_crystals_too_dense_to_have_neighbours_listed_are_unknown():
    lattice, frac, z = geometry()
    lattice[1] *= 0.3
    found = differentiable(load_predictor("band_gap"))(lattice, frac, z)
    assert torch.isfinite(found).tolist() == [True, False]


def test_what_has_no_gradient_says_so_and_what_to_do():
    with pytest.raises(InputError, match="--best-of 4 --judge"):
        differentiable(ExactPredictor("n_elements"))
    with pytest.raises(InputError, match="only networks and formulas"):
        differentiable(SimpleNamespace(column="band_gap_ev"))
