"""Another value for each crystal: the flow's side of the seam, with and without adapters."""

import pytest
import torch

from matmill.errors import InputError
from matmill.generate.adapters import Adapter, AdapterStack, AddedProperty
from matmill.generate.flow import FlowGenerator
from matmill.generate.network import SIZES
from matmill.generate.protocol import ConditionalGenerator, GenerationRequest

GAP = "band_gap_ev"


@pytest.fixture
def adapted(generator):
    learnt = AddedProperty.fit("hardness", torch.linspace(1, 9, 20))
    with torch.random.fork_rng():
        torch.manual_seed(1)
        adapter = Adapter(learnt, SIZES["tiny"])
        for parameter in adapter.parameters():
            parameter.data += 0.2 * torch.randn_like(parameter)
    return FlowGenerator(
        generator.denoiser,
        generator.card,
        precision="fp32",
        adapters=AdapterStack([adapter]),
        # One crystal at a time: products of another shape round otherwise.
        tokens_per_batch=1,
    )


def made(generator, values, **wishes):
    n = len(next(iter(values.values())))
    request = GenerationRequest(n=n, n_steps=4, screen=False, **wishes)
    return generator.sample_conditions(values, torch.Generator().manual_seed(0), request)


@pytest.mark.parametrize("column", [GAP, "hardness"])
def test_each_crystal_follows_its_own_value(adapted, column):
    assert isinstance(adapted, ConditionalGenerator)
    first = made(adapted, {column: torch.tensor([1.0, 2.0, 5.0])})
    other = made(adapted, {column: torch.tensor([1.0, 4.0, 5.0])})
    same = [a == b for a, b in zip(first.hashes, other.hashes, strict=True)]
    assert same == [True, False, True]
    request = GenerationRequest(n=3, n_steps=4, screen=False, conditions={column: 2.0})
    whole = adapted.sample(request, torch.Generator().manual_seed(0))
    each = made(adapted, {column: torch.full((3,), 2.0)})
    assert whole.hashes == each.hashes


def test_values_and_wishes_for_all_go_together(adapted):
    batch = made(adapted, {GAP: torch.tensor([1.0, 2.0])}, elements=("Na", "Cl"))
    assert set(batch.atomic_numbers.tolist()) <= {11, 17}
    with pytest.raises(InputError, match="asked for twice"):
        made(adapted, {GAP: torch.tensor([1.0])}, conditions={GAP: 1.0})
    with pytest.raises(InputError, match="not trained on 'softness'"):
        made(adapted, {"softness": torch.tensor([1.0])})
