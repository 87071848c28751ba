"""Several CGCNN of equal size trained side by side on the same batches, for paired comparisons.

Replicas share crystals and batches and nothing else: own weights, own statistics, own target, own
learning rates. One step of the stack is one step of each; it only saves the overhead of doing them
one after the other. ``check`` compares a stack with `matmill.predict.cgcnn.Cgcnn`.
"""

import math
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional

from matmill.graphs.graph import Graph
from matmill.graphs.radial import DistanceTable
from matmill.predict.cgcnn import Cgcnn, element_features, pool
from matmill.predict.gate import gated_sum, weighted_norm

HEAD = ("hidden", "out")


class Stack(nn.Module):
    """Replicas of one CGCNN, made from their state dictionaries."""

    def __init__(self, states):
        super().__init__()
        self.n = len(states)
        self.register_buffer("element_table", element_features(), persistent=False)
        self.n_layers = 1 + max(
            int(name.split(".")[1]) for name in states[0] if name.startswith("layers.")
        )
        self.width = states[0]["embed.weight"].shape[0]

        def own(name):
            return nn.Parameter(torch.stack([state[name] for state in states]).clone())

        self.embed_weight, self.embed_bias = own("embed.weight"), own("embed.bias")
        self.offset = own("offset.weight")
        self.after_weight, self.after_bias = own("after.weight"), own("after.bias")
        self.hidden_weight, self.hidden_bias = own("hidden.weight"), own("hidden.bias")
        self.out_weight, self.out_bias = own("out.weight"), own("out.bias")
        self.table = DistanceTable(1)
        self.table.weight.requires_grad_(False)
        layers = []
        for i in range(self.n_layers):
            start = f"layers.{i}."
            layer = nn.Module()
            layer.atoms = nn.Parameter(
                torch.stack(
                    [
                        torch.cat([s[f"{start}own.weight"], s[f"{start}other.weight"]])
                        for s in states
                    ]
                )
            )
            layer.bias = own(f"{start}own.bias")
            layer.edge = own(f"{start}edge.weight")
            layer.edge_norm = self._norm(states, f"{start}edge_norm", halves=2)
            layer.norm = self._norm(states, f"{start}norm", halves=1)
            layers.append(layer)
        self.layers = nn.ModuleList(layers)

    def _norm(self, states, name, *, halves):
        norm = nn.BatchNorm1d(self.n * states[0][f"{name}.weight"].shape[0])
        for part in ("weight", "bias", "running_mean", "running_var"):
            values = torch.stack([state[f"{name}.{part}"] for state in states])
            values = values.view(self.n, halves, -1).transpose(0, 1).flatten()
            getattr(norm, part).data.copy_(values)
        return norm

    def forward(self, graph):
        """Return the mean output of every replica, ``(n_crystals, n_replicas)``."""
        n, s, w = len(graph.atomic_numbers), self.n, self.width
        kinds = torch.baddbmm(
            self.embed_bias[:, None],
            self.element_table.expand(s, -1, -1),
            self.embed_weight.transpose(1, 2),
        )
        kinds = (kinds + self.offset).transpose(0, 1).reshape(-1, s * w)
        atoms = functional.embedding(graph.atomic_numbers.long(), kinds)
        edges = Cgcnn.edges(self, graph)
        for layer in self.layers:
            parts = torch.bmm(atoms.view(n, s, w).transpose(0, 1), layer.atoms.transpose(1, 2))
            bias = functional.pad(layer.bias, (0, 2 * w))
            parts = (parts + bias[:, None]).view(s, n, 2, 2, w).permute(1, 2, 3, 0, 4)
            weight = layer.edge.view(s, 2, w, -1).transpose(0, 1).reshape(2 * s * w, -1)
            table = self.table.grid @ weight.T
            messages = gated_sum(parts.reshape(n, 4 * s * w), table, layer.edge_norm, edges)
            atoms = functional.softplus(atoms + weighted_norm(messages, layer.norm, graph.weight))
        mean, std = pool(atoms, graph.crystal_index, len(graph), graph.weight)
        pooled = torch.cat([mean.view(-1, s, w), std.view(-1, s, w)], dim=2).transpose(0, 1)
        after = torch.baddbmm(
            self.after_bias[:, None], functional.softplus(pooled), self.after_weight.transpose(1, 2)
        )
        features = torch.baddbmm(
            self.hidden_bias[:, None],
            functional.softplus(after),
            self.hidden_weight.transpose(1, 2),
        )
        features = functional.softplus(features)
        out = torch.baddbmm(self.out_bias[:, None], features, self.out_weight.transpose(1, 2))
        return out[:, :, 0].T

    # What `Cgcnn.edges` asks for.
    cutoff = 8.0

    def rates(self, encoder_rates, head_rates):
        """Return for every trained parameter the learning rate of each of its numbers."""
        encoder, head = torch.tensor(encoder_rates), torch.tensor(head_rates)
        found = {}
        for name, value in self.named_parameters():
            if not value.requires_grad:
                continue
            own = head if name.startswith(HEAD) else encoder
            if "norm" in name:
                halves = 2 if "edge_norm" in name else 1
                rate = own[None, :, None].expand(halves, -1, value.numel() // halves // self.n)
                found[name] = rate.reshape(-1).clone()
            else:
                rate = own.view(-1, *[1] * (value.ndim - 1))
                found[name] = rate.expand_as(value).clone()
        return found


class Adam:
    """AdamW whose learning rate is a number for each weight."""

    def __init__(self, stack, rates, *, decay=0.01, betas=(0.9, 0.99)):
        names = [name for name, p in stack.named_parameters() if p.requires_grad]
        parameters = dict(stack.named_parameters())
        self.parameters = [parameters[name] for name in names]
        self.rates = [rates[name] for name in names]
        # As the fit loop does: only matrices decay. Stacked vectors have one dimension more.
        is_matrix = [
            parameters[name].ndim >= 2 and not name.endswith("bias") and "norm" not in name
            for name in names
        ]
        self.decays = [
            r * (decay if m else 0.0) for r, m in zip(self.rates, is_matrix, strict=True)
        ]
        self.first = [torch.zeros_like(p) for p in self.parameters]
        self.second = [torch.zeros_like(p) for p in self.parameters]
        self.betas, self.t = betas, 0

    @torch.no_grad()
    def step(self, factor):
        """Move by the rates times ``factor``, and forget the gradients."""
        self.t += 1
        one, two = self.betas
        grads = [p.grad for p in self.parameters]
        torch._foreach_lerp_(self.first, grads, 1.0 - one)
        torch._foreach_mul_(self.second, two)
        torch._foreach_addcmul_(self.second, grads, grads, 1.0 - two)
        below = torch._foreach_sqrt(self.second)
        torch._foreach_mul_(below, 1.0 / math.sqrt(1.0 - two**self.t))
        torch._foreach_add_(below, 1e-8)
        change = torch._foreach_div(self.first, below)
        torch._foreach_mul_(change, 1.0 / (1.0 - one**self.t))
        torch._foreach_mul_(change, self.rates)
        torch._foreach_addcmul_(change, self.decays, self.parameters)
        torch._foreach_add_(self.parameters, change, alpha=-factor)
        for parameter in self.parameters:
            parameter.grad = None


@dataclass(frozen=True)
class Schedule:
    """Length and rates of a fine-tuning."""

    epochs: int
    batch: int = 64
    rate: float = 2e-3
    warmup_steps: int = 20


def train(stack, graph: Graph, labels, schedule, rates, rng):
    """Train all replicas on absolute errors; labels ``(n, n_replicas)`` on the learned scale."""
    stack.train()
    optimizer = Adam(stack, rates)
    per_epoch = max(1, len(graph) // schedule.batch)
    n_steps, step = schedule.epochs * per_epoch, 0
    for _ in range(schedule.epochs):
        # The few rows that do not fill a batch sit out; they are others in each epoch.
        order = torch.randperm(len(graph), generator=rng)
        for rows in order[: per_epoch * schedule.batch].view(per_epoch, -1):
            found = stack(graph.select(rows))
            loss = (found - labels[rows]).abs().mean(0).sum()
            loss.backward()
            warm = min(1.0, (step + 1) / schedule.warmup_steps)
            optimizer.step(warm * 0.5 * (1.0 + math.cos(math.pi * step / n_steps)))
            step += 1
    return n_steps


@torch.no_grad()
def predict(stack, graph, chunk=500):
    """Return the outputs of all replicas, in evaluation mode."""
    stack.eval()
    rows = torch.arange(len(graph)).split(chunk)
    return torch.cat([stack(graph.select(part)) for part in rows])


def fresh(seed):
    """Return the state of an untrained network."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return Cgcnn(1).state_dict()


def check(graph):
    """Return the largest relative difference between a stack and single networks."""
    worst = 0.0
    for is_training in (True, False):
        networks = []
        for seed in range(3):
            network = Cgcnn(1)
            network.load_state_dict(fresh(seed))
            networks.append(network)
        stack = Stack([network.state_dict() for network in networks])
        stack.train(is_training)
        stack(graph).sum().backward()
        for i, network in enumerate(networks):
            network.train(is_training)
            mean, _ = network(graph)
            mean.sum().backward()
            with torch.no_grad():
                pairs = [
                    (stack(graph)[:, i], network(graph)[0][:, 0]),
                    (stack.embed_weight.grad[i], network.embed.weight.grad),
                    (stack.layers[1].edge.grad[i], network.layers[1].edge.weight.grad),
                ]
            for a, b in pairs:
                worst = max(worst, float((a - b).abs().max() / b.abs().max().clamp_min(1e-9)))
    return worst
