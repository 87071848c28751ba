"""A small labelled table of many formulas, and settings under which a study takes seconds."""

import json

import torch

from matmill.crystals.batch import CrystalBatch
from matmill.data.table import LabelledCrystals
from matmill.steer.flywheel.settings import FilterSettings, FlywheelSettings, PredictorChoice

NUMBERS = torch.tensor([3, 8, 9, 11, 12, 17, 19, 20, 26, 30, 35, 37, 38, 53])
COLUMN = "stiffness_gpa"


def salts(n=120, seed=0):
    """Rock-salt cells; the label follows from the volume."""
    rng = torch.Generator().manual_seed(seed)
    edge = 3.6 + 1.5 * torch.rand(n, generator=rng).double()
    numbers = torch.stack([torch.randperm(len(NUMBERS), generator=rng)[:2] for _ in range(n)])
    cubic = torch.tensor([[0.0, 1, 1], [1, 0, 1], [1, 1, 0]]).double()
    label = 3000.0 / edge**3 + 0.5 * torch.randn(n, generator=rng)
    batch = CrystalBatch(
        lattice=0.5 * edge[:, None, None] * cubic * 2**0.5,
        frac_coords=torch.tensor([[0.0, 0, 0], [0.5, 0.5, 0.5]]).double().repeat(n, 1),
        atomic_numbers=NUMBERS[numbers].flatten(),
        n_atoms=torch.full((n,), 2),
        ids=tuple(f"salt-{i}" for i in range(n)),
        properties={COLUMN: label},
    )
    return LabelledCrystals(crystals=batch, source="salts.csv")


def quick(**changes):
    """A study that trains tiny networks on augmented crystals."""
    tiny = {
        "n_members": 1,
        "width": 8,
        "hidden": 8,
        "n_layers": 1,
        "epochs": 2,
        "calibration": "held-out",
        "precision": "fp32",
    }
    values = {
        "data": "salts.csv",
        "target": COLUMN,
        "predictors": ("tiny",),
        "more_predictors": {"tiny": PredictorChoice(model="cgcnn", settings=tiny)},
        "generator": {"family": "augment"},
        # Salts of one prototype are so alike that augmented ones are far from them.
        "filters": FilterSettings(copies=False, near=False),
        "labeller": "own",
        "label": "condition",
        "mixing": "plain",
        "n_runs": 2,
        "labelled_share": 0.3,
        "control_members": 2,
    }
    return FlywheelSettings(**{**values, **changes})


def what_was_found(study):
    """Scores and sets of a study's plain values as text, without what they took."""

    def bare(each):
        return {name: value for name, value in each.items() if not name.endswith("cpu_s")}

    parts = [[bare(each) for each in study[name]] for name in ("scores", "syntheses")]
    return json.dumps([*parts, study["table"]])
