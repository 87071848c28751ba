"""The optimiser of a training: which parameters decay, and which learn slower than the rest."""

import torch
from torch import Tensor, nn

from matmill.errors import InputError
from matmill.training.settings import FitSettings


def make_optimizer(task: nn.Module, settings: FitSettings) -> torch.optim.Optimizer:
    """Return the optimiser over the trainable parameters; vectors and scales do not decay.

    Where the task has ``rate_factors``, a dictionary of factors by name of the parameter, these
    parameters learn at the rate times their factor: the ``factor`` of each group.

    Raises:
        InputError: If nothing is trainable.
    """
    factors: dict[str, float] = getattr(task, "rate_factors", {})
    groups: dict[tuple[float, bool], list[Tensor]] = {}
    for name, parameter in task.named_parameters():
        if parameter.requires_grad:
            key = (factors.get(name, 1.0), parameter.ndim >= 2)
            groups.setdefault(key, []).append(parameter)
    if not groups:
        raise InputError("The model has no trainable parameters.")
    # Fresh layers first, matrices before vectors: the order in which a checkpoint counts them.
    entries = [
        {
            "params": groups[factor, is_matrix],
            "weight_decay": settings.weight_decay if is_matrix else 0.0,
            "factor": factor,
        }
        for factor, is_matrix in sorted(groups, reverse=True)
    ]
    if settings.optimizer == "sgd":
        return torch.optim.SGD(entries, lr=settings.learning_rate, momentum=settings.momentum)
    device = entries[0]["params"][0].device.type
    return torch.optim.AdamW(
        entries,
        lr=settings.learning_rate,
        betas=settings.betas,
        fused=device in ("cpu", "cuda"),
    )


def load_state(optimizer: torch.optim.Optimizer, tensors: dict[str, Tensor]) -> None:
    """Put back a state that was stored as ``NUMBER.KEY`` by parameter."""
    state: dict[int, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        index, key = name.split(".", 1)
        state.setdefault(int(index), {})[key] = tensor
    optimizer.load_state_dict({**optimizer.state_dict(), "state": state})
