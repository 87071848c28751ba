"""Symmetries of the denoiser, exact in float64."""

import math
from dataclasses import replace

import pytest
import torch

from matmill.crystals.lattice import minimum_image_distances, shortest_vector
from matmill.crystals.periodic import wrap
from matmill.errors import InputError
from matmill.generate.conditions import Conditions
from matmill.generate.network import pair_geometry
from matmill.generate.process import add_noise
from matmill.generate.state import DenseCrystals


@pytest.fixture
def state(training_set):
    crystals = training_set.groups[5].crystals
    rng = torch.Generator().manual_seed(0)
    many = DenseCrystals(
        z=crystals.z.repeat(7, 1), f=torch.rand(7, 5, 3, generator=rng), y=crystals.y.repeat(7, 1)
    )
    return add_noise(many, rng)[0]


def doubled(state):
    c = state.crystals
    return replace(
        state,
        crystals=DenseCrystals(z=c.z, f=c.f.double(), y=c.y.double()),
        type_clock=state.type_clock.double(),
        site_clock=state.site_clock.double(),
        lattice_clock=state.lattice_clock.double(),
    )


def run(denoiser, state):
    denoiser = denoiser.double()
    none = Conditions.none(len(state.crystals))
    none = replace(none, scalars=none.scalars.double(), elements=none.elements.double())
    with torch.no_grad():
        return denoiser(doubled(state), none)


def test_a_common_shift_changes_nothing(denoiser, state):
    moved = replace(
        state,
        crystals=replace(
            state.crystals, f=wrap(state.crystals.f.double() + torch.rand(3).double())
        ),
    )
    before, after = run(denoiser, state), run(denoiser, moved)
    for name in ("sites", "lattice", "logits"):
        torch.testing.assert_close(
            getattr(after, name), getattr(before, name), atol=1e-9, rtol=1e-9
        )


def test_atoms_can_be_listed_in_any_order(denoiser, state):
    order = torch.tensor([3, 0, 4, 1, 2])
    c = state.crystals
    shuffled = replace(
        state,
        crystals=replace(c, z=c.z[:, order], f=c.f[:, order]),
        type_clock=state.type_clock[:, order],
        site_clock=state.site_clock[:, order],
    )
    before, after = run(denoiser, state), run(denoiser, shuffled)
    torch.testing.assert_close(after.sites, before.sites[:, order], atol=1e-9, rtol=1e-9)
    torch.testing.assert_close(after.logits, before.logits[:, order], atol=1e-9, rtol=1e-9)
    torch.testing.assert_close(after.lattice, before.lattice, atol=1e-6, rtol=1e-6)


def test_batch_mates_do_not_matter(denoiser, state):
    together = run(denoiser, state)
    c = state.crystals
    alone = replace(
        state,
        crystals=DenseCrystals(z=c.z[2:3], f=c.f[2:3], y=c.y[2:3]),
        type_clock=state.type_clock[2:3],
        site_clock=state.site_clock[2:3],
        lattice_clock=state.lattice_clock[2:3],
    )
    single = run(denoiser, alone)
    torch.testing.assert_close(single.sites[0], together.sites[2], atol=1e-6, rtol=1e-6)


def test_velocity_has_no_drift_unless_an_atom_is_fixed(denoiser, state):
    velocity = run(denoiser, state)
    drift = velocity.sites.mean(1).abs().amax(1)
    assert (drift[~state.is_anchored] < 1e-7).all()


def test_conditions_reach_the_output(denoiser, state):
    b = len(state.crystals)
    none = Conditions.none(b)
    asked = replace(none, space_group=torch.full((b,), 225))
    with torch.no_grad():
        a, c = denoiser.float()(state, none), denoiser(state, asked)
    assert (a.sites - c.sites).abs().max() > 1e-4


def test_pair_distances_are_minimum_images(crystals):
    lattice = crystals.lattice[4:5]
    f = crystals.frac_coords[crystals.atoms_of(4)][None]
    gram = lattice @ lattice.transpose(1, 2)
    features = pair_geometry(f, torch.zeros(1, 6).double(), gram)[0, :, :, 48:64]
    n = f.shape[1]
    size = float(torch.linalg.det(lattice[0]).abs() / n) ** (1 / 3)
    centres = torch.linspace(0, 3, 16).double()
    for i in range(n):
        for j in range(n):
            if i == j:
                distance = shortest_vector(lattice)
            else:
                distance = minimum_image_distances(f[:, i] - f[:, j], lattice)
            expected = torch.exp(-0.5 * ((distance / size - centres) / 0.2) ** 2)
            torch.testing.assert_close(features[i, j], expected, atol=1e-6, rtol=1e-6)


def test_a_rotated_lattice_is_the_same_state(denoiser, crystals):
    lattice = crystals.lattice.double()
    rng = torch.Generator().manual_seed(3)
    rotation = torch.linalg.qr(torch.randn(3, 3, generator=rng, dtype=torch.float64))[0]
    scale = denoiser.scale
    before = scale.encode(lattice, crystals.n_atoms)
    after = scale.encode(lattice @ rotation.t(), crystals.n_atoms)
    torch.testing.assert_close(after, before, atol=1e-9, rtol=1e-9)


def test_the_metric_is_that_of_the_lattice(denoiser, crystals):
    lattice = crystals.lattice[4:5].double()
    y = denoiser.scale.encode(lattice, crystals.n_atoms[4:5])
    gram = denoiser.gram(y, int(crystals.n_atoms[4]))
    torch.testing.assert_close(gram, lattice @ lattice.transpose(1, 2), atol=1e-6, rtol=1e-6)


def attended_by_hand(block, x, pairs, bias, shared):
    """The block of the specification for one crystal, token by token and head by head."""
    n_tokens, width = x.shape
    n, size = n_tokens - 1, width // block.n_heads
    scale_a, shift_a, gate_a, scale_m, shift_m, gate_m = shared + block.modulation

    def normed(row):
        return (row - row.mean()) / (row.var(correction=0) + 1e-5).sqrt()

    h = torch.stack([normed(row) * (1 + scale_a) + shift_a for row in x])
    q, k, v = (h @ block.qkv.weight.t() + block.qkv.bias).split(width, dim=1)
    gate = 1 + h @ block.pair_gate.weight.t() + block.pair_gate.bias
    mixed = torch.zeros_like(x)
    for i in range(n_tokens):
        heard, seen = [], []
        for head in range(block.n_heads):
            own = slice(head * size, (head + 1) * size)
            scores = torch.stack(
                [
                    q[i, own] @ k[j, own] / math.sqrt(size) + bias[head, i, j]
                    for j in range(n_tokens)
                ]
            )
            a = scores.exp() / scores.exp().sum()
            heard.append(sum(a[j] * v[j, own] for j in range(n_tokens)))
            if i < n:
                seen.append(sum(a[j] * pairs[i, j] * gate[j] for j in range(n)))
        mixed[i] = torch.cat(heard)
        if i < n:
            mixed[i] += block.pair_out.weight @ torch.cat(seen)
    x = x + gate_a * (mixed @ block.out.weight.t() + block.out.bias)
    h = torch.stack([normed(row) * (1 + scale_m) + shift_m for row in x])
    up = h @ block.up.weight.t() + block.up.bias
    return x + gate_m * ((up / (1 + (-up).exp())) @ block.down.weight.t() + block.down.bias)


@torch.no_grad()
def test_a_block_is_the_specified_attention(denoiser):
    block = denoiser.double().blocks[1]
    rng = torch.Generator().manual_seed(4)

    def draw(*shape):
        return torch.randn(*shape, generator=rng, dtype=torch.float64)

    n, width = 4, block.qkv.in_features
    x, pairs, shared = draw(2, n + 1, width), draw(2, n, n, 64), draw(2, 6, width)
    bias = torch.zeros(2, block.n_heads, n + 1, n + 1).double()
    bias[:, :, :n, :n] = draw(2, block.n_heads, n, n)
    together = block(x, pairs, bias, shared)
    for i in range(2):
        expected = attended_by_hand(block, x[i], pairs[i], bias[i], shared[i])
        torch.testing.assert_close(together[i], expected, atol=1e-9, rtol=1e-9)


def test_compiled_blocks_answer_the_same_under_the_same_names(denoiser, state):
    names, before = list(denoiser.state_dict()), run(denoiser, state)
    denoiser.compile_blocks(backend="eager")  # traced alike, without the slow C++ compiler
    after = run(denoiser, state)
    assert list(denoiser.state_dict()) == names
    torch.testing.assert_close(after.sites, before.sites, atol=1e-12, rtol=1e-12)
    torch.testing.assert_close(after.logits, before.logits, atol=1e-12, rtol=1e-12)


def test_compiling_without_a_compiler_says_so(denoiser, monkeypatch):
    monkeypatch.setenv("PATH", "")
    monkeypatch.delenv("CXX", raising=False)
    with pytest.raises(InputError, match="C\\+\\+"):
        denoiser.compile_blocks()
