"""Annealing, the latent diffusion and the composition, against answers that are known."""

import pytest
import torch

from matmill.crystals.periodic import shortest_step
from matmill.generate.cdvae.conditions import Wishes
from matmill.generate.cdvae.langevin import anneal
from matmill.generate.cdvae.noise import levels
from matmill.generate.cdvae.prior import N_STEPS, kept_share, sample_latents
from matmill.generate.cdvae.wishes import allowed_sizes, elements_of
from matmill.generate.protocol import GenerationRequest
from matmill.generate.streams import Streams


def oracle(home, lattice, seen=None):
    """Return a decoder that knows the sites, and says calcium everywhere."""

    def answer(z, f, level):
        if seen is not None:
            step = shortest_step(f, home) @ lattice
            seen.append((float(level[0]), float(step.square().mean().sqrt())))
        logits = torch.zeros(*z.shape, 100)
        logits[..., 19] = 5.0
        return shortest_step(f, home) @ lattice, logits

    return answer


def run(kept_noise, rng, seen=None, *, free_types=True, allowed=None):
    b, n, per_level = 300, 4, 2
    lattice = 40.0 * torch.eye(3).repeat(b, 1, 1)  # so large that no noise wraps around
    home = torch.rand(b, n, 3, generator=rng)
    sigma = levels(2.0, 0.05, 12)
    z, f = anneal(
        oracle(home, lattice, seen),
        torch.full((b, n), 11),
        lattice,
        levels=sigma,
        steps_per_level=per_level,
        start=home + 2.0 / 40.0 * torch.randn(b, n, 3, generator=rng),
        noise=torch.randn(b, 24, n, 3, generator=rng),
        allowed=torch.ones(100, dtype=torch.bool) if allowed is None else allowed,
        free_types=free_types,
        kept_noise=kept_noise,
    )
    return z, shortest_step(f, home) @ lattice


@pytest.mark.parametrize("kept_noise", [0.0, 0.6, 1.0])
def test_every_step_meets_its_noise_level_and_the_last_one_lands(rng, kept_noise):
    seen = []
    z, off = run(kept_noise, rng, seen)
    for level, measured in seen:
        assert measured == pytest.approx(level, rel=0.05)
    assert float(off.abs().max()) < 1e-4
    assert set(z.flatten().tolist()) == {20}


def test_elements_stay_when_they_are_given_and_follow_what_is_allowed(rng):
    z, _ = run(0.5, rng, free_types=False)
    assert set(z.flatten().tolist()) == {11}
    allowed = torch.zeros(100, dtype=torch.bool)
    allowed[7] = True
    z, _ = run(0.5, rng, allowed=allowed)
    assert set(z.flatten().tolist()) == {8}


class Gaussian(torch.nn.Module):
    """The exact answer for latents that are normal with mean 3 and deviation 1/2."""

    mean, deviation = 3.0, 0.5

    def __init__(self, n):
        super().__init__()
        self.latent_mean = torch.zeros(n)
        self.anchor = torch.nn.Parameter(torch.zeros(1))

    def told(self, wishes):
        return wishes.values

    def latent(self, x):
        return x

    def forward(self, x, step, told):
        del told
        kept = kept_share()[step][:, None]
        variance = kept * self.deviation**2 + 1 - kept
        return (1 - kept).sqrt() * (x - kept.sqrt() * self.mean) / variance


def test_the_latent_diffusion_draws_from_the_distribution_whose_noise_it_is_told():
    streams = Streams.of(torch.Generator().manual_seed(0), 200)
    zero = torch.zeros(200, dtype=torch.int64)
    wishes = Wishes(values=torch.zeros(200, 0), crystal_system=zero, space_group=zero, n_atoms=zero)
    drawn = sample_latents(Gaussian(10), wishes, streams)
    # The chain begins with pure noise, a fifth of the signal early: a small bias of the mean.
    assert float(drawn.mean()) == pytest.approx(3.0, abs=0.1)
    assert float(drawn.std()) == pytest.approx(0.5, rel=0.08)
    again = sample_latents(Gaussian(10), wishes, streams)
    assert torch.equal(drawn, again)
    assert not torch.equal(drawn, sample_latents(Gaussian(10), wishes, streams, draw=1))


def test_the_schedule_is_the_published_one():
    kept = kept_share()
    assert len(kept) == N_STEPS == 300
    assert float(kept[0]) == pytest.approx(0.999)
    assert float(kept[-1] / kept[-2]) == pytest.approx(0.98)


def test_compositions_are_rounded_to_whole_atoms_by_the_largest_remainder():
    share = torch.zeros(2, 100)
    share[0, [21, 7]] = torch.tensor([0.34, 0.66])  # TiO2 of three atoms
    share[1, [10, 16]] = torch.tensor([0.5, 0.5])
    every = torch.ones(100, dtype=torch.bool)
    z = elements_of(GenerationRequest(n=2), share.log(), 3, every)
    assert z[0].tolist() == [8, 8, 22]
    assert z[1].sort().values.tolist() in ([11, 11, 17], [11, 17, 17])
    no_oxygen = every.clone()
    no_oxygen[7] = False
    assert elements_of(GenerationRequest(n=2), share.log(), 3, no_oxygen)[0].tolist() == [22] * 3
    asked = GenerationRequest(n=2, system=("Ti", "O", "Sr"))
    three = torch.zeros(100, dtype=torch.bool)
    three[[21, 7, 37]] = True
    z = elements_of(asked, (share + 1e-9).log(), 5, three)
    assert all(set(row) == {22, 8, 38} for row in z.tolist())
    assert z[0].tolist().count(8) > z[0].tolist().count(38)


def test_sizes_follow_the_formula_and_the_range():
    sizes = allowed_sizes(GenerationRequest(n=1, formula={"Ti": 1, "O": 2}, n_atoms=(2, 7)), 20)
    assert torch.nonzero(sizes).flatten().tolist() == [3, 6]
    sizes = allowed_sizes(GenerationRequest(n=1, system=("Ti", "O")), 4)
    assert torch.nonzero(sizes).flatten().tolist() == [2, 3, 4]
