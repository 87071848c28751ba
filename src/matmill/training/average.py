"""Exponential moving average of a model's weights, the set that is shipped and used."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn


class MovingAverage:
    """Average over the training steps, weighted to the recent ones.

    Floating-point buffers (batch statistics) are averaged as well, so that they fit the weights;
    integer buffers are copied.

    Args:
        module: The model to follow; its present weights are the start.
        decay: Weight of the old average; reached gradually, so early weights are forgotten fast.
    """

    def __init__(self, module: nn.Module, decay: float) -> None:
        self.decay = decay
        self.tensors = {name: t.detach().clone() for name, t in module.state_dict().items()}

    @torch.no_grad()
    def update(self, module: nn.Module, step: int) -> None:
        """Move the average towards the weights after ``step`` earlier steps."""
        weight = 1.0 - min(self.decay, (1.0 + step) / (10.0 + step))
        mine: list[Tensor] = []
        theirs: list[Tensor] = []
        for name, value in module.state_dict().items():
            if value.is_floating_point():
                mine.append(self.tensors[name])
                theirs.append(value)
            else:
                self.tensors[name].copy_(value)
        torch._foreach_lerp_(mine, theirs, weight)

    @contextmanager
    def applied(self, module: nn.Module) -> Iterator[nn.Module]:
        """Put the average into the module, in evaluation mode, for the time of a block."""
        was_training = module.training
        own = {name: t.detach().clone() for name, t in module.state_dict().items()}
        module.load_state_dict(self.tensors)
        module.eval()
        try:
            yield module
        finally:
            module.load_state_dict(own)
            module.train(was_training)
