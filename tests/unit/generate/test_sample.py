"""The Euler loop with known velocity fields, and every mode of the generator."""

import pytest
import torch

from matmill.crystals.batch import CrystalBatch
from matmill.crystals.periodic import shortest_step
from matmill.errors import InputError, UnknownNameError
from matmill.generate.process import Velocity
from matmill.generate.protocol import GenerationRequest
from matmill.generate.sample import Start, sample
from matmill.generate.state import LatticeScale

ALL = torch.ones(100, dtype=torch.bool)


def oracle(target_z, target_f, target_y):
    """Return the field whose flow ends at the given crystals, whatever the start."""

    def field(state, time):
        left = max(1 - time, 1e-6)
        logits = torch.full((*target_z.shape, 100), -30.0)
        logits.scatter_(2, target_z[..., None] - 1, 30.0)
        return Velocity(
            sites=shortest_step(state.crystals.f, target_f) / left,
            lattice=(target_y - state.crystals.y) / left,
            logits=logits,
        )

    return field


@pytest.mark.parametrize("n_steps", [1, 7, 50])
def test_a_known_flow_lands_on_its_target(n_steps):
    rng = torch.Generator().manual_seed(0)
    z = torch.randint(1, 90, (8, 4), generator=rng)
    f, y = torch.rand(8, 4, 3, generator=rng), torch.randn(8, 6, generator=rng)
    out = sample(oracle(z, f, y), Start.nothing(8, 4), n_steps=n_steps, allowed=ALL, rng=rng)
    assert torch.equal(out.z, z)
    assert shortest_step(out.f, f).abs().max() < 1e-4
    torch.testing.assert_close(out.y, y, atol=1e-4, rtol=0)


def test_seed_decides_everything(generator):
    request = GenerationRequest(n=6, n_steps=4)
    first = generator.sample(request, torch.Generator().manual_seed(3))
    again = generator.sample(request, torch.Generator().manual_seed(3))
    other = generator.sample(request, torch.Generator().manual_seed(4))
    assert first.hashes == again.hashes
    assert first.hashes != other.hashes


def test_every_crystal_is_streamed_once_and_returned_in_order(generator):
    seen = []
    out = generator.sample(
        GenerationRequest(n=9, n_steps=2), torch.Generator().manual_seed(0), seen.append
    )
    assert sorted(i for part in seen for i in part.ids) == sorted(out.ids)
    assert list(out.ids) == sorted(out.ids)
    assert len(out) == 9


def test_nothing_can_be_asked_for(generator):
    out = generator.sample(GenerationRequest(n=0), torch.Generator().manual_seed(0))
    assert len(out) == 0


def test_elements_are_a_hard_limit(generator):
    request = GenerationRequest(
        n=8, n_steps=5, elements=("Sr", "Ti", "O"), exclude=("Ti",), guidance=2.0
    )
    with pytest.raises(InputError, match="Ti is asked for and excluded"):
        generator.sample(request, torch.Generator().manual_seed(0))
    request = GenerationRequest(n=8, n_steps=5, elements=("Sr", "O"), guidance=2.0)
    out = generator.sample(request, torch.Generator().manual_seed(0))
    assert set(out.atomic_numbers.tolist()) <= {38, 8}


def test_a_formula_is_kept_exactly(generator):
    request = GenerationRequest(n=12, n_steps=3, formula={"Ti": 1, "O": 2}, n_atoms=(3, 9))
    out = generator.sample(request, torch.Generator().manual_seed(0))
    assert set(out.formula) == {"TiO2"}
    assert set(out.n_atoms.tolist()) <= {3, 6, 9}


def test_fixed_atoms_stay_bit_for_bit(generator, crystals):
    seed = crystals.select([4])
    free = torch.tensor([False, False, True, True, False])
    request = GenerationRequest(n=3, n_steps=5, seeds=seed, free_atoms=free)
    out = generator.sample(request, torch.Generator().manual_seed(0))
    z = out.atomic_numbers.view(3, 5)
    f = out.frac_coords.view(3, 5, 3)
    assert (z[:, ~free] == seed.atomic_numbers[~free]).all()
    assert (f[:, ~free].float() == seed.frac_coords[~free].float()).all()
    torch.testing.assert_close(out.volume, seed.volume.expand(3), rtol=1e-5, atol=0)
    assert not (f[:, free].float() == seed.frac_coords[free].float()).all()


def test_strength_zero_keeps_the_seed(generator, crystals):
    request = GenerationRequest(n=2, n_steps=50, seeds=crystals.select([5]), strength=0.0)
    out = generator.sample(request, torch.Generator().manual_seed(0))
    step = shortest_step(
        out.frac_coords.view(2, 6, 3), crystals.frac_coords[crystals.atoms_of(5)].expand(2, 6, 3)
    )
    assert step.abs().max() < 1e-5
    assert set(out.formula) == {"TiO2"}


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        (GenerationRequest(n=1, conditions={"bulk_modulus_vrh_gpa": 3.0}), "not trained on"),
        (GenerationRequest(n=1, n_atoms=(30, 40)), "at most 20"),
        (GenerationRequest(n=1, elements=("U",)), "has not been trained on U"),
        (GenerationRequest(n=1, space_group=231), "does not exist"),
        (GenerationRequest(n=1, crystal_system="round"), "No crystal system called"),
        (GenerationRequest(n=1, formula={"O": 21}), "no multiple of it fits"),
    ],
)
def test_impossible_requests_are_refused_with_the_reason(generator, request_, message):
    with pytest.raises(InputError, match=message):
        generator.check(request_)


def test_unknown_element_is_named(generator):
    with pytest.raises(UnknownNameError, match="Xx"):
        generator.check(GenerationRequest(n=1, elements=("Xx",)))


def test_values_outside_the_trained_range_are_warned_about(generator):
    (warning,) = generator.check(GenerationRequest(n=1, conditions={"band_gap_ev": 50.0}))
    assert "outside the trained range" in warning


def test_guidance_one_follows_the_conditions_and_zero_ignores_them(generator):
    def run(guidance, **extra):
        request = GenerationRequest(n=5, n_steps=3, n_atoms=(2, 2), guidance=guidance, **extra)
        return generator.sample(request, torch.Generator().manual_seed(1))

    asked = {"conditions": {"band_gap_ev": 5.0}}
    assert isinstance(run(1.0, **asked), CrystalBatch)
    # Weight 0 must equal a run that never heard of the condition; the draws before it differ by
    # one uniform a crystal, which a window of zero width also takes.
    silent = run(0.0, **asked)
    other = run(0.0, conditions={"band_gap_ev": 0.0})
    assert silent.hashes == other.hashes
    assert run(2.0, **asked).hashes != silent.hashes


def test_overlapping_crystals_are_drawn_again_and_counted(generator):
    from matmill.generate.screen import MAX_REDRAWS, SCREEN
    from matmill.verify.validity import check

    def bad(batch):
        return sum(fate is not None for fate in check(batch, SCREEN))

    wishes = {"n": 24, "n_steps": 4, "n_atoms": (1, 6)}
    raw = generator.sample(
        GenerationRequest(**wishes, screen=False), torch.Generator().manual_seed(0)
    )
    screened = generator.sample(GenerationRequest(**wishes), torch.Generator().manual_seed(0))
    assert (raw.properties["attempts"] == 1).all()
    attempts = screened.properties["attempts"]
    assert 1 <= attempts.min() <= attempts.max() <= 1 + MAX_REDRAWS
    assert bad(raw) > 0
    assert bad(screened) < bad(raw)
    # What still fails has used up its draws.
    last = attempts == 1 + MAX_REDRAWS
    assert bad(screened) <= int(last.sum())


def test_a_long_list_of_elements_is_a_limit_and_not_a_wish(generator):
    from matmill.generate.plan import make_plan

    def plan(*symbols):
        request = GenerationRequest(n=40, elements=symbols)
        return make_plan(request, generator.trained, torch.Generator().manual_seed(0))

    short, long = plan("Ti", "O"), plan("Na", "Cl", "Cs", "Zn", "S", "Cu", "Ti", "O")
    assert short.is_guided
    assert (short.asked.elements.sum(1) == 2).all()
    assert 0 < short.asked.is_exact.sum() < 40
    assert not long.is_guided
    assert not long.asked.elements.any()
    assert long.allowed.sum() == 8


def _same(a, b):
    """Return whether the elements agree and all sites and cells do up to rounding."""
    step = shortest_step(a.frac_coords, b.frac_coords).abs().max()
    near = torch.allclose(a.lattice, b.lattice, atol=1e-3)
    return torch.equal(a.atomic_numbers, b.atomic_numbers) and near and float(step) < 1e-3


@pytest.mark.parametrize("tokens", [1, 40, 300])
def test_crystals_do_not_depend_on_the_batch_size(generator, tokens):
    # Products of another shape are summed in another order: equal up to rounding, in float32.
    request = GenerationRequest(
        n=16, n_steps=4, n_atoms=(1, 6), conditions={"band_gap_ev": (1.0, 4.0)}
    )
    whole = generator.sample(request, torch.Generator().manual_seed(2))
    assert whole.properties["attempts"].max() > 1
    generator.tokens_per_batch = tokens
    parts = generator.sample(request, torch.Generator().manual_seed(2))
    assert torch.equal(whole.properties["attempts"], parts.properties["attempts"])
    assert _same(whole, parts)


def test_the_first_crystals_are_those_of_a_shorter_run(generator):
    def run(n):
        request = GenerationRequest(n=n, n_steps=4, n_atoms=(1, 6))
        return generator.sample(request, torch.Generator().manual_seed(2))

    assert _same(run(5), run(30).select(torch.arange(5)))


def test_a_system_holds_all_of_its_elements_and_no_others(generator):
    request = GenerationRequest(n=12, n_steps=5, system=("Sr", "Ti", "O"), n_atoms=(3, 6))
    out = generator.sample(request, torch.Generator().manual_seed(0))
    for i in range(len(out)):
        assert set(out.atomic_numbers[out.atoms_of(i)].tolist()) == {38, 22, 8}


def test_missing_elements_take_the_atoms_they_fit_best():
    def field(state, time):  # noqa: ARG001
        b, n = state.crystals.z.shape
        logits = torch.full((b, n, 100), -30.0)
        logits[..., 7] = 20.0  # every atom wants to be oxygen
        logits[:, 2, 21] = 10.0  # titanium fits the third best
        return Velocity(sites=torch.zeros(b, n, 3), lattice=torch.zeros(b, 6), logits=logits)

    required = torch.zeros(100, dtype=torch.bool)
    required[[7, 21]] = True
    out = sample(
        field,
        Start.nothing(4, 4),
        n_steps=10,
        allowed=required,
        required=required,
        rng=torch.Generator().manual_seed(0),
    )
    assert out.z.tolist() == [[8, 8, 22, 8]] * 4


def test_decoration_keeps_sites_and_cells_exactly(generator, crystals):
    seeds = crystals.select([0, 5])
    request = GenerationRequest(n=4, n_steps=5, seeds=seeds, decorate=True, elements=("Sr", "O"))
    out = generator.sample(request, torch.Generator().manual_seed(0))
    given = seeds.select([0, 1, 0, 1])
    assert torch.equal(out.lattice, given.lattice)
    assert torch.equal(out.frac_coords, given.frac_coords)
    assert set(out.atomic_numbers.tolist()) <= {38, 8}


def test_free_sites_can_keep_their_species_and_free_the_cell(generator, crystals):
    seed = crystals.select([4])
    free = torch.tensor([False, False, True, True, False])
    request = GenerationRequest(
        n=3,
        n_steps=5,
        seeds=seed,
        free_atoms=free,
        free_types=torch.zeros(5, dtype=torch.bool),
        free_lattice=True,
    )
    out = generator.sample(request, torch.Generator().manual_seed(0))
    assert torch.equal(out.atomic_numbers.view(3, 5), seed.atomic_numbers.expand(3, 5))
    f = out.frac_coords.view(3, 5, 3)
    assert torch.equal(f[:, ~free], seed.frac_coords[~free].expand(3, 3, 3))
    assert not torch.isclose(f[:, free], seed.frac_coords[free]).all()
    assert not torch.isclose(out.volume, seed.volume.expand(3)).any()


def test_what_is_kept_of_a_seed_must_be_allowed(generator, crystals):
    request = GenerationRequest(
        n=6,
        n_steps=6,
        seeds=crystals.select([5]),
        keep_elements=False,
        strength=0.3,
        elements=("Sr", "O"),
    )
    out = generator.sample(request, torch.Generator().manual_seed(0))
    assert set(out.atomic_numbers.tolist()) <= {38, 8}


def test_orbits_are_asked_for_the_start_and_at_every_step():
    class Line:
        """Keeps all atoms on x and all lattice numbers equal."""

        steps = 0

        def start(self, rng):
            f = torch.zeros(2, 3, 3)
            f[..., 0] = torch.rand(2, 3, generator=rng)
            return f

        def project_velocity(self, velocity):
            self.steps += 1
            return velocity * torch.tensor([1.0, 0.0, 0.0])

        def project_lattice(self, y, scale):  # noqa: ARG002
            return y.mean(1, keepdim=True).expand_as(y)

    rng = torch.Generator().manual_seed(1)
    z = torch.full((2, 3), 26)
    f, y = torch.rand(2, 3, 3, generator=rng), torch.randn(2, 6, generator=rng)
    line, seen = Line(), []

    def field(state, time):
        seen.append(state.keeps_symmetry)
        return oracle(z, f, y)(state, time)

    out = sample(
        field,
        Start.nothing(2, 3),
        n_steps=9,
        allowed=ALL,
        rng=rng,
        orbits=line,
        scale=LatticeScale(mean=torch.zeros(6), std=torch.ones(6)),
    )
    assert line.steps == 9
    assert all(seen)
    assert (out.f[..., 1:] == 0).all()
    assert shortest_step(out.f, f)[..., 0].abs().max() < 1e-4
    torch.testing.assert_close(out.y, y.mean(1, keepdim=True).expand(2, 6), atol=1e-4, rtol=0)


def test_scales_and_schedules_change_the_crystals(generator):
    def run(**extra):
        request = GenerationRequest(
            n=4,
            n_steps=4,
            n_atoms=(2, 2),
            conditions={"band_gap_ev": 5.0},
            space_group=225,
            screen=False,
            **extra,
        )
        return generator.sample(request, torch.Generator().manual_seed(1))

    joint = run()
    separate = run(scales={"band_gap_ev": 1.5})
    gap_only = run(scales={"symmetry": 0.0})
    dynamic = run(schedule="dynamic")
    crystals = [joint, separate, gap_only, dynamic]
    assert len({batch.hashes for batch in crystals}) == 4
