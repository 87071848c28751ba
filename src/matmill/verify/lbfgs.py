"""L-BFGS for many crystals at once: each with its own memory, none ever going uphill for long.

There is no line search, which would cost passes through the potential: a full step is taken, and
one that raised the energy is taken back, shortened and its crystal's memory forgotten.

Source:
    Nocedal, Updating Quasi-Newton Matrices With Limited Storage (1980), the two loops; Barzilai and
    Borwein (1988) for the curvature that they start from.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from matmill.verify.moving import Geometry, Gradient, Move, Vector, dot, largest

_MEMORY = 10  # pairs of steps and changes of force that are kept
_FIRST_CURVATURE = 30.0  # eV/Å², before anything is known: stiff, so a cautious first step
_CURVATURES = (2.0, 500.0)  # eV/Å², what is believed
_UPHILL_EV_PER_ATOM = 5e-5  # above the rounding of potentials in single precision
_RADIUS_GROWS, _RADIUS_SHRINKS, _SMALLEST_RADIUS_A = 1.5, 0.25, 1e-3


@dataclass
class Lbfgs:
    """State of L-BFGS for the crystals that move.

    Attributes:
        steps: The last steps, oldest first, ``(memory, n_atoms_total, 3)``.
        cell_steps: ``(memory, n_crystals, 3, 3)``.
        changes: How the forces fell along each, ``(memory, n_atoms_total, 3)``.
        cell_changes: ``(memory, n_crystals, 3, 3)``.
        weight: One over their scalar product; 0 where there is no pair, ``(memory, n_crystals)``.
        curvature: Of the last pair, eV/Å², ``(n_crystals,)``.
        radius: Longest step of a coordinate, Å, ``(n_crystals,)``.
        best_energy: At the last geometry that was not uphill, infinite at first, ``(n_crystals,)``.
        best_lattice: There, and so on.
    """

    steps: Tensor
    cell_steps: Tensor
    changes: Tensor
    cell_changes: Tensor
    weight: Tensor
    curvature: Tensor
    radius: Tensor
    best_energy: Tensor
    best_lattice: Tensor
    best_frac: Tensor
    best_force: Tensor
    best_cell_force: Tensor
    last_atoms: Tensor
    last_cell: Tensor
    max_step_a: float

    per_atom = ("best_frac", "best_force", "last_atoms")
    per_pair_atom = ("steps", "changes")
    per_pair = ("cell_steps", "cell_changes", "weight")

    @classmethod
    def start(cls, geometry: Geometry, max_step_a: float) -> "Lbfgs":
        """Return crystals without a past."""
        lattice, frac = geometry.lattice, geometry.frac_coords
        n = len(lattice)
        atoms, cells = torch.zeros_like(frac), torch.zeros_like(lattice)
        return cls(
            steps=atoms.expand(_MEMORY, *frac.shape),
            cell_steps=cells.expand(_MEMORY, n, 3, 3),
            changes=atoms.expand(_MEMORY, *frac.shape),
            cell_changes=cells.expand(_MEMORY, n, 3, 3),
            weight=torch.zeros(_MEMORY, n, dtype=torch.float64),
            curvature=torch.full((n,), _FIRST_CURVATURE, dtype=torch.float64),
            radius=torch.full((n,), max_step_a, dtype=torch.float64),
            best_energy=torch.full((n,), torch.inf, dtype=torch.float64),
            best_lattice=lattice,
            best_frac=frac,
            best_force=atoms,
            best_cell_force=cells,
            last_atoms=atoms,
            last_cell=cells,
            max_step_a=max_step_a,
        )

    def move(self, geometry: Geometry, gradient: Gradient) -> Move:
        """Return the next step of every crystal, from the last geometry that was not uphill."""
        owner = geometry.owner
        first = torch.isinf(self.best_energy)
        slack = _UPHILL_EV_PER_ATOM * geometry.n_atoms
        good = first | (gradient.energy_ev <= self.best_energy + slack)
        self._remember(owner, gradient, good & ~first)
        self._forget(~good)
        good_atom = good[owner]
        self.best_energy = torch.where(good, gradient.energy_ev, self.best_energy)
        self.best_lattice = _where(good, geometry.lattice, self.best_lattice)
        self.best_frac = _where(good_atom, geometry.frac_coords, self.best_frac)
        self.best_force = _where(good_atom, gradient.force, self.best_force)
        self.best_cell_force = _where(good, gradient.cell_force, self.best_cell_force)
        self.radius = torch.where(
            good,
            (self.radius * _RADIUS_GROWS).clamp_max(self.max_step_a),
            (self.radius * _RADIUS_SHRINKS).clamp_min(_SMALLEST_RADIUS_A),
        )
        atoms, cell = self._direction(owner)
        shrink = (self.radius / largest(owner, (atoms, cell)).clamp_min(1e-12)).clamp_max(1.0)
        self.last_atoms = atoms * shrink[owner, None]
        self.last_cell = cell * shrink[:, None, None]
        start = Geometry(self.best_lattice, self.best_frac, owner, geometry.n_atoms)
        return Move(geometry=start, atoms=self.last_atoms, cell=self.last_cell)

    def _remember(self, owner: Tensor, gradient: Gradient, who: Tensor) -> None:
        """Add the last step of some crystals to their memory, if the energy curves upwards."""
        step: Vector = (self.last_atoms, self.last_cell)
        change: Vector = (
            self.best_force - gradient.force,
            self.best_cell_force - gradient.cell_force,
        )
        along, across, length = dot(owner, step, change), dot(owner, change), dot(owner, step)
        curves = who & (along > 1e-2 * length) & (length > 1e-16)
        weight = torch.where(curves, 1.0 / along.clamp_min(1e-16), torch.zeros_like(along))
        measured = (across / along.clamp_min(1e-16)).clamp(*_CURVATURES)
        self.curvature = torch.where(curves, measured, self.curvature)
        # A pair of weight 0 changes nothing, so all memories can move on together.
        self.steps = torch.cat([self.steps[1:], step[0][None]])
        self.cell_steps = torch.cat([self.cell_steps[1:], step[1][None]])
        self.changes = torch.cat([self.changes[1:], change[0][None]])
        self.cell_changes = torch.cat([self.cell_changes[1:], change[1][None]])
        self.weight = torch.cat([self.weight[1:], weight[None]])

    def _forget(self, who: Tensor) -> None:
        self.weight = torch.where(who, torch.zeros_like(self.weight), self.weight)

    def _direction(self, owner: Tensor) -> Vector:
        """Return the quasi-Newton step of every crystal by the two loops."""
        atoms, cell = self.best_force, self.best_cell_force
        shares = []
        for i in range(_MEMORY - 1, -1, -1):
            pair = self.steps[i], self.cell_steps[i]
            share = self.weight[i] * dot(owner, pair, (atoms, cell))
            atoms = atoms - share[owner, None] * self.changes[i]
            cell = cell - share[:, None, None] * self.cell_changes[i]
            shares.append(share)
        atoms = atoms / self.curvature[owner, None]
        cell = cell / self.curvature[:, None, None]
        for i, share in enumerate(reversed(shares)):
            pair = self.changes[i], self.cell_changes[i]
            rest = share - self.weight[i] * dot(owner, pair, (atoms, cell))
            atoms = atoms + rest[owner, None] * self.steps[i]
            cell = cell + rest[:, None, None] * self.cell_steps[i]
        return atoms, cell


def _where(condition: Tensor, yes: Tensor, no: Tensor) -> Tensor:
    return torch.where(condition.view(-1, *[1] * (yes.dim() - 1)), yes, no)
