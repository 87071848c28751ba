"""FIRE for many crystals at once: each with its own velocity, time step and mixing.

Source:
    Bitzek et al., Structural Relaxation Made Simple (2006); parameters as in ASE's FIRE, except for
    longer time steps: with one step limit per atom instead of one per crystal they need fewer steps
    and are as safe.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from matmill.verify.moving import Geometry, Gradient, Move, dot

_N_MIN, _GROW, _SHRINK, _ALPHA, _ALPHA_DECAY = 5, 1.1, 0.5, 0.1, 0.99


@dataclass
class Fire:
    """State of FIRE for the crystals that move; a molecular dynamics that stops going uphill.

    Attributes:
        velocity: Of the atoms, ``(n_atoms_total, 3)``.
        cell_velocity: Of the cell's coordinates, ``(n_crystals, 3, 3)``.
        time_step: ``(n_crystals,)``.
        alpha: How much velocity turns towards the force, ``(n_crystals,)``.
        n_downhill: Steps on end that went downhill; -1 before the first, ``(n_crystals,)``.
        longest_time_step: Bound on ``time_step``.
    """

    velocity: Tensor
    cell_velocity: Tensor
    time_step: Tensor
    alpha: Tensor
    n_downhill: Tensor
    longest_time_step: float

    per_atom = ("velocity",)

    @classmethod
    def start(cls, geometry: Geometry, time_step: float, longest_time_step: float) -> "Fire":
        """Return crystals at rest."""
        n = len(geometry.lattice)
        return cls(
            velocity=torch.zeros_like(geometry.frac_coords),
            cell_velocity=torch.zeros_like(geometry.lattice),
            time_step=torch.full((n,), time_step, dtype=torch.float64),
            alpha=torch.full((n,), _ALPHA, dtype=torch.float64),
            n_downhill=torch.full((n,), -1, dtype=torch.int64),
            longest_time_step=longest_time_step,
        )

    def move(self, geometry: Geometry, gradient: Gradient) -> Move:
        """Return the next step of every crystal."""
        owner, force, cell_force = geometry.owner, gradient.force, gradient.cell_force
        power = dot(owner, (force, cell_force), (self.velocity, self.cell_velocity))
        speed = dot(owner, (self.velocity, self.cell_velocity)).sqrt()
        strength = dot(owner, (force, cell_force)).sqrt().clamp_min(1e-12)
        downhill = power > 0
        uphill = ~downhill & (self.n_downhill >= 0)
        zero = torch.zeros_like(speed)
        turn = torch.where(downhill, self.alpha * speed / strength, zero)
        keep = torch.where(downhill, 1.0 - self.alpha, zero)
        faster = downhill & (self.n_downhill > _N_MIN)
        grown = (self.time_step * _GROW).clamp_max(self.longest_time_step)
        self.time_step = torch.where(faster, grown, self.time_step)
        self.time_step = torch.where(uphill, self.time_step * _SHRINK, self.time_step)
        self.alpha = torch.where(faster, self.alpha * _ALPHA_DECAY, self.alpha)
        self.alpha = torch.where(downhill, self.alpha, torch.full_like(self.alpha, _ALPHA))
        begun = self.n_downhill.clamp_min(0)
        self.n_downhill = torch.where(downhill, begun + 1, torch.zeros_like(begun))

        pull = turn + self.time_step
        self.velocity = keep[owner, None] * self.velocity + pull[owner, None] * force
        self.cell_velocity = (
            keep[:, None, None] * self.cell_velocity + pull[:, None, None] * cell_force
        )
        return Move(
            geometry=geometry,
            atoms=self.time_step[owner, None] * self.velocity,
            cell=self.time_step[:, None, None] * self.cell_velocity,
        )
