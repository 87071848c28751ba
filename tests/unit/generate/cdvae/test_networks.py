"""What encoder and decoder must not see: origin, order of atoms, rotation, empty places."""

import pytest
import torch

from matmill.crystals.batch import CrystalBatch, concatenate
from matmill.crystals.periodic import shortest_step, wrap
from matmill.generate.cdvae.decoder import Decoder
from matmill.generate.cdvae.geometry import cells, nearest_image
from matmill.generate.cdvae.model import Autoencoder
from matmill.generate.cdvae.noise import (
    levels,
    lost_share,
    noisy_sites,
    noisy_types,
    reach,
    site_levels,
)
from matmill.generate.cdvae.padded import PaddedCrystals, pad
from matmill.generate.cdvae.settings import CdvaeSize, NoiseSettings
from matmill.generate.conditions import Conditions
from matmill.generate.flow import FlowGenerator
from matmill.generate.state import DenseCrystals, LatticeScale, NoisyState

SIZE = CdvaeSize(
    encoder_width=32,
    encoder_heads=2,
    encoder_blocks=2,
    decoder_width=32,
    decoder_heads=2,
    decoder_blocks=2,
    latent=16,
    condition=16,
    prior=(16, 16, 16),
)


@pytest.fixture(scope="module")
def model(crystals):
    torch.manual_seed(0)
    made = Autoencoder(
        (), size=SIZE, noise=NoiseSettings(), max_atoms=8, scale=LatticeScale.fit(crystals)
    )
    # Zero-initialised gates would hide whatever the blocks see.
    for parameter in made.parameters():
        parameter.data += 0.1 * torch.randn(parameter.shape)
    return made.eval()


def answers(model, crystals, level=0.5):
    """Return latent means, ways to the clean sites in Å, and logits of the same crystals."""
    lattice = cells(model.scale, crystals.y, crystals.n_atoms)
    mean, _ = model.encode(crystals)
    latent = torch.linspace(-1, 1, 16).expand(len(crystals), -1)
    sigma = torch.full((len(crystals),), level)
    steps, logits = model.decoder(
        latent, crystals.z, crystals.f, crystals.y, lattice, crystals.is_atom, sigma
    )
    return mean, model.decoder.displacement(steps, sigma, lattice), logits


def changed(crystals, **fields):
    return PaddedCrystals(**{**vars(crystals), **fields})


@torch.no_grad()
def test_a_common_shift_of_all_sites_changes_nothing(model, crystals):
    one = pad(crystals, model.scale)
    moved = changed(one, f=wrap(one.f + torch.tensor([0.31, 0.77, 0.12])))
    for a, b in zip(answers(model, one), answers(model, moved), strict=True):
        mask = one.is_atom if a.ndim == 3 else slice(None)
        torch.testing.assert_close(a[mask], b[mask], atol=2e-4, rtol=1e-3)


@torch.no_grad()
def test_the_order_of_atoms_is_only_the_order_of_answers(model, crystals):
    one = pad(crystals.select([4, 5]), model.scale)
    order = torch.tensor([3, 0, 4, 2, 1, 5])  # of the perovskite's five atoms, rutile's last stays
    swapped = changed(one, z=one.z[:, order], f=one.f[:, order])
    mean, way, logits = answers(model, one)
    mean_s, way_s, logits_s = answers(model, swapped)
    torch.testing.assert_close(mean, mean_s, atol=1e-4, rtol=1e-3)
    torch.testing.assert_close(way[:, order], way_s, atol=1e-4, rtol=1e-3)
    torch.testing.assert_close(logits[:, order], logits_s, atol=1e-4, rtol=1e-3)


@torch.no_grad()
def test_a_rotated_cell_gives_the_same_latent(model, crystals):
    rotation, _ = torch.linalg.qr(torch.randn(3, 3, dtype=torch.float64))
    turned = CrystalBatch(
        lattice=crystals.lattice @ rotation,
        frac_coords=crystals.frac_coords,
        atomic_numbers=crystals.atomic_numbers,
        n_atoms=crystals.n_atoms,
    )
    a, b = (model.encode(pad(batch, model.scale))[0] for batch in (crystals, turned))
    torch.testing.assert_close(a, b, atol=1e-4, rtol=1e-3)


@torch.no_grad()
def test_empty_places_are_not_seen(model, crystals):
    alone = answers(model, pad(crystals.select([1]), model.scale))
    beside = answers(
        model, pad(concatenate([crystals.select([1]), crystals.select([5])]), model.scale)
    )
    for a, b in zip(alone, beside, strict=True):
        own = b[:1, : a.shape[1]] if a.ndim == 3 else b[:1]
        torch.testing.assert_close(a, own, atol=1e-4, rtol=1e-3)


@torch.no_grad()
def test_a_flow_lends_its_layers_and_the_decoder_answers_as_it_does():
    flow = FlowGenerator.load(precision="fp32").denoiser
    wide = CdvaeSize(decoder_width=192, decoder_heads=6, decoder_blocks=6, latent=8)
    decoder = Decoder(wide)
    decoder.take_from(flow)
    rng = torch.Generator().manual_seed(0)
    z = torch.tensor([[22, 8, 8], [11, 17, 8]])
    f = torch.rand(2, 3, 3, generator=rng)
    y = 0.3 * torch.randn(2, 6, generator=rng)
    lattice = cells(flow.scale, y, torch.tensor([3, 3]))
    level = torch.tensor([0.4, 2.0])
    time = 1 - lost_share(level, lattice)
    state = NoisyState(
        crystals=DenseCrystals(z=z, f=f, y=y),
        type_clock=torch.ones(2, 3),
        site_clock=time[:, None].repeat(1, 3),
        lattice_clock=time,
    )
    velocity = flow(state, Conditions.none(2))
    is_atom = torch.ones(2, 3, dtype=torch.bool)
    steps, logits = decoder(torch.randn(2, 8, generator=rng), z, f, y, lattice, is_atom, level)
    way = decoder.displacement(steps, level, lattice)
    torch.testing.assert_close(way, (1 - time)[:, None, None] * (velocity.sites @ lattice))
    torch.testing.assert_close(logits, velocity.logits, atol=1e-4, rtol=1e-4)


def test_noise_has_its_level_and_the_way_back_leads_home(crystals, rng):
    scale = LatticeScale.fit(crystals)
    many = pad(crystals.select(torch.full((400,), 5)), scale)
    lattice = cells(scale, many.y, many.n_atoms)
    level = torch.full((400,), 0.05)
    f, back = noisy_sites(many, lattice, level, rng)
    landed = f + back @ torch.linalg.inv(lattice)
    step = shortest_step(landed, many.f)
    # Up to the common shift, which is not to be told.
    assert float((step - step.mean(1, keepdim=True)).abs().max()) < 1e-5
    assert float(back.mean(1).abs().max()) < 1e-5
    # Six atoms lose one of six degrees of freedom to the common shift.
    assert float(back.std() / (5 / 6) ** 0.5) == pytest.approx(0.05, rel=0.03)


def test_the_nearest_image_is_the_shortest_of_all(crystals, rng):
    lattice = crystals.lattice.float()
    step = 2 * torch.rand(len(crystals), 7, 3, generator=rng) - 1
    found = nearest_image(step, lattice).norm(dim=-1)
    shifts = torch.cartesian_prod(*3 * [torch.arange(-2.0, 3.0)])
    images = (step[:, :, None] + shifts) @ lattice[:, None]
    torch.testing.assert_close(found, images.norm(dim=-1).amin(-1), atol=1e-5, rtol=1e-5)


def test_corrupted_elements_come_from_the_composition_as_often_as_the_level_says(rng):
    b = 4000
    crystals = PaddedCrystals(
        z=torch.full((b, 2), 11),
        f=torch.zeros(b, 2, 3),
        y=torch.zeros(b, 6),
        n_atoms=torch.full((b,), 1),
    )
    chance = torch.full((b, 100), -torch.inf)
    chance[:, 16] = 0.0  # chlorine for sure
    crystals = PaddedCrystals(**{**vars(crystals), "z": torch.tensor([[11, 0]]).repeat(b, 1)})
    noisy = noisy_types(crystals, chance, torch.full((b,), 3.0), rng)
    assert set(noisy[:, 0].tolist()) == {11, 17}
    assert float((noisy[:, 0] == 17).float().mean()) == pytest.approx(3 / 4, abs=0.03)
    assert int(noisy[:, 1].sum()) == 0  # an empty place stays empty


def test_levels_fall_in_equal_ratios_from_10_to_a_hundredth_of_an_angstrom(crystals):
    sigma = site_levels(NoiseSettings())
    assert (len(sigma), float(sigma[0]), float(sigma[-1])) == (
        50,
        pytest.approx(10.0),
        pytest.approx(0.01),
    )
    ratio = sigma[1:] / sigma[:-1]
    assert float(ratio.max() - ratio.min()) < 1e-5
    assert len(levels(1.0, 0.1, 3)) == 3
    lattice = crystals.lattice.float()
    share = lost_share(torch.full((len(crystals),), 1e-3), lattice)
    torch.testing.assert_close(share * reach(lattice), torch.full_like(share, 1e-3))
    assert float(lost_share(torch.full((len(crystals),), 100.0), lattice).min()) > 0.99
