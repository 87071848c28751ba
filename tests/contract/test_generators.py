"""Every registered generator keeps the contract."""

import pytest
import torch

from matmill.generate.protocol import ASSETS, load_generator
from matmill.registry import generators
from matmill.testing.contracts import ContractError, check_generator


@pytest.mark.parametrize("name", generators.names())
def test_registered_generators_keep_the_contract(name):
    if name == "flow" and not (ASSETS / "flow.safetensors").exists():
        pytest.fail("the shipped generator is missing from the package")
    check_generator(load_generator(name))


def test_a_generator_that_delivers_too_few_is_caught():
    class Lazy:
        def __init__(self):
            self.real = load_generator("random")
            self.name, self.hash, self.card = "lazy", "0", self.real.card
            self.check = self.real.check

        def sample(self, request, rng, on_batch=None):
            out = self.real.sample(request, rng, on_batch)
            return out.select(torch.arange(max(0, len(out) - 1)))

    with pytest.raises(ContractError, match="as many as were asked for"):
        check_generator(Lazy())
