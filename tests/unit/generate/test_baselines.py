"""Random crystals: baseline of everything."""

import pytest
import torch

from matmill.crystals.facts import density
from matmill.errors import InputError
from matmill.generate.baselines import RandomGenerator
from matmill.generate.protocol import GenerationRequest


def test_volumes_are_those_of_solids():
    out = RandomGenerator().sample(GenerationRequest(n=50), torch.Generator().manual_seed(0))
    per_atom = out.volume / out.n_atoms
    assert ((per_atom > 1) & (per_atom < 150)).all()  # caesium is the largest
    assert ((density(out) > 0.05) & (density(out) < 30)).all()


def test_properties_cannot_be_asked_of_chance():
    with pytest.raises(InputError, match="not trained on"):
        RandomGenerator().check(GenerationRequest(n=1, conditions={"band_gap_ev": 1.0}))


def test_symmetry_is_ignored_with_a_warning():
    (warning,) = RandomGenerator().check(GenerationRequest(n=1, space_group=225))
    assert "ignores symmetry" in warning
