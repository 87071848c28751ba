"""CHGNet in a batch: the package's weights, our graphs and an algebraically reduced forward pass.

The numbers are those of the package (tests compare energies, forces and stresses). What is saved:

- one flat graph for all crystals of a chunk, built with arrays (no object per bond or angle);
- the first linear map of every gated perceptron is split, so that its atom, bond and angle parts
  are multiplied once per atom, bond and angle instead of once per directed edge;
- both directions of a bond, and both orders of an angle, share their basis and projections;
- the last angle update, whose result the model never reads, is left out;
- forces and stress come from one backward pass to the bond vectors.

Source:
    Deng et al., CHGNet (2023), Nature Machine Intelligence 5; weights 0.3.0 of the chgnet package.
"""

import math
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from matmill.crystals.batch import CrystalBatch

ATOM_CUTOFF = 6.0
BOND_CUTOFF = 3.0
MAX_ATOMIC_NUMBER = 94


@dataclass(frozen=True)
class BondGraph:
    """Bonds and angles of a chunk of crystals, flat, in the order the network wants.

    Attributes:
        first: Atom at the start of each undirected bond, ``(n_bonds,)``; bonds shorter than
            `BOND_CUTOFF` come first.
        second: Atom at its end, ``(n_bonds,)``.
        vector: From ``first`` to the image of ``second``, Å, float64, ``(n_bonds, 3)``.
        n_short: Number of bonds shorter than `BOND_CUTOFF`. Directed short bond ``d`` is bond
            ``d % n_short``, reversed when ``d >= n_short``.
        left: Directed short bond on one side of each unordered angle, ``(n_angles,)``.
        right: Directed short bond on its other side, with the same centre, ``(n_angles,)``.
    """

    first: Int[Tensor, " n_bonds"]
    second: Int[Tensor, " n_bonds"]
    vector: Float[Tensor, "n_bonds 3"]
    n_short: int
    left: Int[Tensor, " n_angles"]
    right: Int[Tensor, " n_angles"]


def bond_graph(batch: CrystalBatch) -> BondGraph:
    """Return all bonds within 6 Å, each once, and all angles between bonds within 3 Å."""
    from vesin import NeighborList

    neighbours = NeighborList(cutoff=ATOM_CUTOFF, full_list=False)
    cart = batch.cart_coords.double().numpy()
    lattice = batch.lattice.double().numpy()
    starts, ends, vectors = [], [], []
    begin = 0
    for crystal, n in enumerate(batch.n_atoms.tolist()):
        i, j, step = neighbours.compute(
            points=cart[begin : begin + n], box=lattice[crystal], periodic=True, quantities="ijD"
        )
        starts.append(i.astype(np.int64) + begin)
        ends.append(j.astype(np.int64) + begin)
        vectors.append(step)
        begin += n
    first = np.concatenate(starts) if starts else np.zeros(0, np.int64)
    second = np.concatenate(ends) if ends else np.zeros(0, np.int64)
    vector = np.concatenate(vectors).reshape(-1, 3) if vectors else np.zeros((0, 3))
    short = (vector * vector).sum(1) < BOND_CUTOFF**2
    order = np.concatenate([np.nonzero(short)[0], np.nonzero(~short)[0]])
    first, second, vector = first[order], second[order], vector[order]
    n_short = int(short.sum())
    left, right = _angles(np.concatenate([first[:n_short], second[:n_short]]), begin)
    return BondGraph(
        first=torch.from_numpy(first),
        second=torch.from_numpy(second),
        vector=torch.from_numpy(vector),
        n_short=n_short,
        left=torch.from_numpy(left),
        right=torch.from_numpy(right),
    )


def _angles(centre: np.ndarray, n_atoms: int) -> tuple[np.ndarray, np.ndarray]:
    """Return all unordered pairs of directed short bonds that leave the same atom."""
    by_centre = np.argsort(centre, kind="stable")
    count = np.bincount(centre, minlength=n_atoms)
    last = np.repeat(np.cumsum(count), count)
    position = np.arange(len(centre))
    n_partners = last - position - 1
    left = np.repeat(position, n_partners)
    before = np.repeat(np.cumsum(n_partners) - n_partners, n_partners)
    right = left + 1 + np.arange(len(left)) - before
    return by_centre[left], by_centre[right]


def _weights(linear: nn.Linear) -> tuple[Tensor, Tensor]:
    return linear.weight.detach().clone(), linear.bias.detach().clone()


class _Gate:
    """One half (core or gate) of a gated perceptron, with its first map split by input."""

    def __init__(self, mlp: nn.Module, norm: nn.Module, n_inputs: int) -> None:
        linears = [layer for layer in mlp.layers if isinstance(layer, nn.Linear)]  # type: ignore[attr-defined]
        weight, self.bias = _weights(linears[0])
        self.parts = [part.contiguous() for part in weight.split(64, dim=1)]
        assert len(self.parts) == n_inputs
        self.hidden = _weights(linears[1]) if len(linears) == 2 else None
        self.norm = (norm.weight.detach().clone(), norm.bias.detach().clone())  # type: ignore[union-attr]

    def finish(self, x: Tensor) -> Tensor:
        """Apply what follows the first map."""
        if self.hidden is not None:
            x = F.linear(F.silu(x), *self.hidden)
        return F.layer_norm(x, (64,), *self.norm)


class _GatedMLP:
    """The package's GatedMLP as a function of separately projected inputs."""

    def __init__(self, module: nn.Module, n_inputs: int) -> None:
        self.core = _Gate(module.mlp_core, module.bn1, n_inputs)  # type: ignore[arg-type]
        self.gate = _Gate(module.mlp_gate, module.bn2, n_inputs)  # type: ignore[arg-type]


class BatchedCHGNet:
    """CHGNet's energy as a function of the bond vectors of many crystals at once.

    Args:
        model: A loaded ``chgnet.model.CHGNet`` of version 0.3.0.
        dtype: What the network computes in; float64 serves as a judge of rounding.
    """

    def __init__(self, model: nn.Module, dtype: torch.dtype = torch.float32) -> None:
        self.dtype = dtype
        model = model.to(dtype)
        state = {name: value.detach() for name, value in model.state_dict().items()}
        self.embedding = state["atom_embedding.embedding.weight"]
        self.reference = state["composition_model.fc.weight"][0].double()
        self.frequencies = (
            state["bond_basis_expansion.rbf_expansion_ag.frequencies"],
            state["bond_basis_expansion.rbf_expansion_bg.frequencies"],
        )
        self.bond_embedding = state["bond_embedding.weight"]
        self.bond_weights = (state["bond_weights_ag.weight"], state["bond_weights_bg.weight"])
        self.angle_frequencies = state["angle_basis_expansion.fourier_expansion.frequencies"]
        angle = state["angle_embedding.weight"] / math.sqrt(math.pi)
        self.angle_embedding = (angle[:, 1:].contiguous(), angle[:, 0] / math.sqrt(2.0))
        self.atom_layers = [_GatedMLP(x.twoBody_atom, 3) for x in model.atom_conv_layers]  # type: ignore[union-attr]
        self.bond_layers = [_GatedMLP(x.twoBody_bond, 4) for x in model.bond_conv_layers]  # type: ignore[union-attr]
        self.angle_layers = [_GatedMLP(x.twoBody_bond, 4) for x in model.angle_layers]  # type: ignore[union-attr]
        self.atom_out = [
            x.mlp_out.layers[1].weight.detach()
            for x in model.atom_conv_layers  # type: ignore[union-attr]
        ]
        self.bond_out = [
            x.mlp_out.layers[1].weight.detach()
            for x in model.bond_conv_layers  # type: ignore[union-attr]
        ]
        self.moment = (state["site_wise.weight"], state["site_wise.bias"])
        self.readout_norm = (state["readout_norm.weight"], state["readout_norm.bias"])
        self.readout = [
            (state[f"mlp.layers.{i}.weight"], state[f"mlp.layers.{i}.bias"]) for i in (0, 2, 4, 7)
        ]

    def site_energies(
        self, numbers: Int[Tensor, " n_atoms"], graph: BondGraph, vector: Float[Tensor, "n_bonds 3"]
    ) -> Float[Tensor, " n_atoms"]:
        """Return the energy of each atom in eV, without the composition part.

        Args:
            numbers: Z of each atom, 1 to 94.
            graph: Who is bonded to whom.
            vector: Bond vectors in Å, float64; the energy can be differentiated by it.
        """
        return self.read_out(self.convolve(numbers, graph, vector)[1])

    def read_out(self, atoms: Float[Tensor, "n_atoms 64"]) -> Float[Tensor, " n_atoms"]:
        """Return the energy of each atom in eV, without the composition part, from its features."""
        x = F.layer_norm(atoms, (64,), *self.readout_norm)
        for weight, bias in self.readout[:-1]:
            x = F.silu(F.linear(x, weight, bias))
        return F.linear(x, *self.readout[-1])[:, 0]

    def magnetic_moments(self, atoms: Float[Tensor, "n_atoms 64"]) -> Float[Tensor, " n_atoms"]:
        """Return the size of each atom's moment in µB, from its features before the last layer."""
        return F.linear(atoms, *self.moment)[:, 0].abs()

    def convolve(
        self, numbers: Int[Tensor, " n_atoms"], graph: BondGraph, vector: Float[Tensor, "n_bonds 3"]
    ) -> tuple[Float[Tensor, "n_atoms 64"], Float[Tensor, "n_atoms 64"]]:
        """Return the features of each atom before and after the last layer.

        Args:
            numbers: Z of each atom, 1 to 94.
            graph: Who is bonded to whom.
            vector: Bond vectors in Å, float64.
        """
        first, second = graph.first, graph.second
        length = vector.norm(dim=1).to(self.dtype)
        basis = _bessel(length, self.frequencies[0], ATOM_CUTOFF)
        bonds = F.linear(basis, self.bond_embedding)
        weights = F.linear(basis, self.bond_weights[0])
        atoms = self.embedding[numbers - 1]
        ends = torch.cat([first, second])
        angles = self._start_angles(vector, length, bonds, graph) if len(graph.left) else None
        before = atoms
        for layer, block in enumerate(self.atom_layers):
            before = atoms
            current = bonds
            if angles is not None and layer > 0:
                current = torch.cat([angles.short, bonds[graph.n_short :]])
            message = _atom_message(block, atoms, current, first, second)
            message = (message.view(2, len(first), 64) * weights).view(-1, 64)
            summed = torch.zeros_like(atoms).index_add(0, ends, message)
            atoms = atoms + F.linear(summed, self.atom_out[layer])
            if angles is not None and layer < 3:
                self._update_angles(angles, atoms, layer)
        return before, atoms

    def composition_energy(self, numbers: Int[Tensor, " n_atoms"]) -> Float[Tensor, " n_atoms"]:
        """Return the reference energy of each atom's element in eV, float64."""
        return self.reference[numbers - 1]

    def _start_angles(
        self, vector: Tensor, length: Tensor, bonds: Tensor, graph: BondGraph
    ) -> "_Angles":
        n_short, left, right = graph.n_short, graph.left, graph.right
        # float64 here: near 180° the slope of arccos magnifies the rounding of float32.
        unit = vector[:n_short] / vector[:n_short].norm(dim=1, keepdim=True)
        directed = torch.cat([unit, -unit])
        cosine = directed.index_select(0, left) * directed.index_select(0, right)
        theta = torch.acos(cosine.sum(1) * (1.0 - 1e-6)).to(self.dtype)
        phase = torch.outer(theta, self.angle_frequencies)
        basis = torch.cat([phase.sin(), phase.cos()], dim=1)
        ordered = (torch.cat([left, right]), torch.cat([right, left]))
        short_basis = _bessel(length[:n_short], self.frequencies[1], BOND_CUTOFF)
        short_weights = F.linear(short_basis, self.bond_weights[1])
        return _Angles(
            ordered=ordered,
            centre=torch.cat([graph.first[:n_short], graph.second[:n_short]]),
            owner=torch.remainder(ordered[0], n_short),
            short=bonds[:n_short],
            short_weights=short_weights,
            weights=short_weights.index_select(0, torch.remainder(ordered[1], n_short)),
            shared=F.linear(basis, *self.angle_embedding),
        )

    def _update_angles(self, angles: "_Angles", atoms: Tensor, layer: int) -> None:
        """Update short bonds from angles, then angles from short bonds, in place of the fields."""
        message = _angle_message(self.bond_layers[layer], atoms, angles) * angles.weights
        summed = torch.zeros_like(angles.short).index_add(0, angles.owner, message)
        change = F.linear(summed * angles.short_weights, self.bond_out[layer])
        angles.short = angles.short + change
        if layer == 2:  # nobody reads the angles after this
            return
        change = _angle_message(self.angle_layers[layer], atoms, angles)
        before = angles.own
        if before is None:
            before = torch.cat([angles.shared, angles.shared])
        angles.own = before + change


@dataclass
class _Angles:
    """State of the angle part during one pass.

    Attributes:
        ordered: Directed short bonds (own, other) of every ordered angle.
        centre: Atom that each directed short bond leaves.
        owner: Short bond that each ordered angle's message goes to.
        short: Features of the short bonds.
        short_weights: Their smooth weights.
        weights: The weight of the other bond of each ordered angle.
        shared: Angle features before any update: one value for both orders.
        own: Angle features of each ordered angle after the first update.
    """

    ordered: tuple[Tensor, Tensor]
    centre: Tensor
    owner: Tensor
    short: Tensor
    short_weights: Tensor
    weights: Tensor
    shared: Tensor
    own: Tensor | None = None


def _bessel(length: Tensor, frequencies: Tensor, cutoff: float, power: int = 8) -> Tensor:
    """Return the Bessel basis times a polynomial that ends smoothly at ``cutoff``, (n, 31)."""
    scaled = length / cutoff
    p = power
    envelope = (
        1.0
        - (p + 1) * (p + 2) / 2 * scaled**p
        + p * (p + 2) * scaled ** (p + 1)
        - p * (p + 1) / 2 * scaled ** (p + 2)
    )
    envelope = torch.where(scaled < 1.0, envelope, torch.zeros_like(envelope))
    factor = envelope * math.sqrt(2.0 / cutoff) / length
    return torch.sin(torch.outer(scaled, frequencies)) * factor[:, None]


def _atom_message(
    block: _GatedMLP, atoms: Tensor, bonds: Tensor, first: Tensor, second: Tensor
) -> Tensor:
    """Return the message along both directions of every bond, (2 n_bonds, 64)."""
    halves = []
    for half in (block.core, block.gate):
        centre, bond, other = half.parts
        at_centre, at_other = F.linear(atoms, centre, half.bias), F.linear(atoms, other)
        along = F.linear(bonds, bond)
        forward = at_centre.index_select(0, first) + at_other.index_select(0, second) + along
        backward = at_centre.index_select(0, second) + at_other.index_select(0, first) + along
        halves.append(half.finish(torch.cat([forward, backward])))
    return F.silu(halves[0]) * torch.sigmoid(halves[1])


def _angle_message(block: _GatedMLP, atoms: Tensor, angles: _Angles) -> Tensor:
    """Return the gated message of every ordered angle, (2 n_angles, 64)."""
    halves = []
    for half in (block.core, block.gate):
        own, other, angle, middle = half.parts
        at_centre = F.linear(atoms, middle, half.bias).index_select(0, angles.centre)
        own_side, other_side = F.linear(angles.short, own), F.linear(angles.short, other)
        left = torch.cat([own_side, own_side]) + at_centre
        right = torch.cat([other_side, other_side])
        x = left.index_select(0, angles.ordered[0]) + right.index_select(0, angles.ordered[1])
        if angles.own is None:
            shared = F.linear(angles.shared, angle)
            x = (x.view(2, len(shared), 64) + shared).view(-1, 64)
        else:
            x = x + F.linear(angles.own, angle)
        halves.append(half.finish(x))
    return F.silu(halves[0]) * torch.sigmoid(halves[1])
