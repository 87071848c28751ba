"""Cheap stand-ins for the models of a campaign, importable in worker processes.

The potential is a Lennard-Jones-like pair sum with known minimum; the generator draws rock-salt
and caesium-chloride cells with noise; the hull and the predictor are closed formulas.
"""

import os
import signal
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from matmill.campaign.parts import Parts
from matmill.crystals.batch import CrystalBatch, concatenate
from matmill.crystals.composition import chemical_systems
from matmill.crystals.elements import number
from matmill.predict.exact import ExactPredictor
from matmill.predict.protocol import Prediction
from matmill.verify.potentials import PotentialOutput

IDEAL_A3 = 18.0  # volume per atom that the potential likes


class FakePotential:
    """Energy ``(ln(v / v0))**2 - 3`` eV per atom: only the volume matters, no forces on atoms."""

    name = "fake"
    hash = "fake-potential-1"

    def __init__(self, delay_s: float = 0.0) -> None:
        self.delay_s = delay_s

    def compute(self, batch: CrystalBatch, *, forces: bool = True) -> PotentialOutput:
        time.sleep(self.delay_s)
        strain = torch.log(batch.volume / batch.n_atoms / IDEAL_A3)
        energy = batch.n_atoms * (strain**2 - 3.0)
        if not forces:
            return PotentialOutput(energy_ev=energy)
        pressure = 2.0 * strain * batch.n_atoms / batch.volume
        return PotentialOutput(
            energy_ev=energy,
            forces_ev_per_a=torch.zeros_like(batch.frac_coords),
            stress_ev_per_a3=pressure[:, None, None] * torch.eye(3, dtype=torch.float64),
        )


def make_potential() -> FakePotential:
    return FakePotential()


def make_slow_potential() -> FakePotential:
    return FakePotential(delay_s=0.02)


def make_deadly_potential() -> "DeadlyPotential":
    return DeadlyPotential()


class DeadlyPotential(FakePotential):
    """Kills its process when it meets a crystal with polonium."""

    def compute(self, batch: CrystalBatch, *, forces: bool = True) -> PotentialOutput:
        if forces and bool((batch.atomic_numbers == number("Po")).any()):
            os.kill(os.getpid(), signal.SIGKILL)
        return super().compute(batch, forces=forces)


@dataclass
class FakeGenerator:
    """Binary cells of 2 atoms; one in eight is invalid, and copies occur."""

    elements: tuple[str, ...] = ("Ga", "In", "Al", "N", "O", "S", "Se", "Te", "P", "As")
    name: str = "fake"
    hash: str = "fake-generator-1"
    card: dict[str, Any] = field(
        default_factory=lambda: {"conditions": {"band_gap_ev": {"low": 0.0, "high": 8.0}}}
    )
    asked: list = field(default_factory=list)

    def check(self, request):
        return [] if request.n else ["nothing is asked for"]

    def sample(self, request, rng, on_batch=None):
        self.asked.append(request)
        allowed = [s for s in request.elements or self.elements if s not in request.exclude]
        batches = []
        for _ in range(request.n):
            pick = torch.randint(len(allowed), (2,), generator=rng).tolist()
            u = torch.rand(3, generator=rng).tolist()
            length = 3.2 * (0.8 + 0.1 * round(4 * u[0])) if u[1] > 0.125 else 0.3
            place = 0.5 if u[2] < 0.5 else 0.25
            batches.append(
                CrystalBatch.from_lists(
                    [(length * torch.eye(3)).tolist()],
                    [[[0.0, 0.0, 0.0], [place] * 3]],
                    [[number(allowed[i]) for i in pick]],
                )
            )
            if on_batch is not None:
                on_batch(batches[-1])
        return concatenate(batches)


@dataclass(frozen=True)
class FakePredictor:
    """Band gap by mean atomic number: the lighter, the wider."""

    column: str = "band_gap_ev"
    card: dict[str, Any] = field(
        default_factory=lambda: {
            "weights_sha256": "fake-gap-1",
            "scales": [{"column": "band_gap_ev", "low": 0.0, "high": 8.0}],
        }
    )

    def predict(self, batch, *, coverage=0.9):
        total = torch.zeros(len(batch), dtype=torch.float64)
        total.index_add_(0, batch.crystal_index, batch.atomic_numbers.double())
        mean = 60.0 / (total / batch.n_atoms)
        std = torch.full_like(mean, 0.3)
        return Prediction(
            mean=mean,
            std=std,
            low=mean - 0.5,
            high=mean + 0.5,
            column=self.column,
            coverage=coverage,
            in_domain=mean < 100,
        )


class FakeHull:
    """Oxides are stable; the heavier the anion, the higher above the hull."""

    name = "fake-hull"
    hash = "fake-hull-1"
    elements = ("Ga", "In", "Al", "N", "O", "S", "Se", "Te", "P", "As", "Po")

    def energy_above(self, energy_ev, batch):
        height = torch.zeros(len(batch), dtype=torch.float64)
        height.scatter_reduce_(0, batch.crystal_index, batch.atomic_numbers.double(), "amax")
        return energy_ev / batch.n_atoms + 3.0 + (height - 31.0).clamp_min(0.0) / 200.0

    def n_competitors(self, batch):
        return torch.tensor([len(s) for s in chemical_systems(batch)])


def first_of_each(batch):
    seen, first = {}, []
    for i, formula in enumerate(batch.formula):
        atoms = batch.frac_coords[batch.atoms_of(i)]
        key = (formula, round(float((atoms[0] - atoms[-1]).abs().sum()), 3), len(atoms))
        key = (*key, round(float(batch.volume[i]) / 16.0))
        first.append(seen.setdefault(key, i))
    return first


def find_known(batch):
    return [("known-1", True) if formula == "GaN" else None for formula in batch.formula]


def parts(**changes) -> Parts:
    given = {
        "generator": FakeGenerator(),
        "make_potential": make_potential,
        "potential_name": "fake",
        "potential_hash": FakePotential.hash,
        "predictors": {
            "band_gap_ev": FakePredictor(),
            "density_g_cm3": ExactPredictor("density_g_cm3"),
        },
        "hull": FakeHull(),
        "find_known": find_known,
        "known_name": "fake-index",
        "known_hash": "fake-index-1",
        "first_of_each": first_of_each,
    }
    return Parts(**{**given, **changes})


def wait_for(path: Path) -> None:
    """Wait until a file exists."""
    while not path.exists():
        time.sleep(0.01)
