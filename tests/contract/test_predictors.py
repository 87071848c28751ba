"""Every registered predictor, trained for a moment, and every shipped one keeps the contract."""

import pytest
import torch

from matmill import registry
from matmill.crystals.batch import CrystalBatch
from matmill.data.table import LabelledCrystals
from matmill.predict.exact import ExactPredictor
from matmill.predict.protocol import Prediction, load_predictor, shipped
from matmill.testing.contracts import ContractError, check_predictor


def _table(n=40):
    rng = torch.Generator().manual_seed(0)
    numbers = torch.tensor([3, 8, 11, 17, 26, 30])
    batch = CrystalBatch(
        lattice=torch.eye(3).double() * (3.5 + torch.rand(n, 1, 1, generator=rng)),
        frac_coords=torch.tensor([[0.0, 0, 0], [0.5, 0.5, 0.5]]).double().repeat(n, 1),
        atomic_numbers=numbers[torch.randint(6, (2 * n,), generator=rng)],
        n_atoms=torch.full((n,), 2),
        ids=tuple(f"c{i}" for i in range(n)),
    )
    label = batch.volume / 20 + torch.rand(n, generator=rng)
    notes = {"split": tuple(["train"] * 24 + ["val"] * 8 + ["test"] * 8)}
    return LabelledCrystals(
        crystals=batch.with_properties(band_gap_ev=label), notes=notes, source="made up"
    )


TINY = {"n_members": 2, "width": 8, "hidden": 8, "epochs": 2}
SETTINGS = {
    "boosted": {"n_folds": 2},
    "cgcnn": TINY,
    "cgcnn-reference": {"width": 8, "hidden": 8, "epochs": 2},
    "composition": TINY,
    "median": {},
    "roost": {**TINY, "start_from": None},
    "tabular": {"preset": "fast", "n_folds": 2},
    "transformer": TINY,
}
"""What makes each model quick to fit; "auto" returns one of the others."""


@pytest.mark.parametrize("name", sorted({*registry.predictors.targets} - {"auto"}))
def test_registered_predictors_keep_the_contract(name, tmp_path):
    kind = registry.predictors.load(name)
    predictor = kind.fit(_table(), "band_gap", folder=tmp_path / "work", **SETTINGS[name])

    def reload(predictor):
        return load_predictor(predictor.save(tmp_path / "saved.safetensors"))

    check_predictor(predictor, reload=reload)


@pytest.mark.parametrize("name", [*shipped(), "density", "volume_per_atom", "n_elements"])
def test_shipped_predictors_keep_the_contract(name):
    check_predictor(load_predictor(name))


class _Broken(ExactPredictor):
    def __init__(self, change):
        super().__init__("density_g_cm3")
        object.__setattr__(self, "change", change)

    def predict(self, batch, *, coverage=0.9):
        good = super().predict(batch, coverage=coverage)
        fields = {name: getattr(good, name) for name in Prediction.__dataclass_fields__}
        return Prediction(**{**fields, **self.change(good)})


@pytest.mark.parametrize(
    ("change", "clause"),
    [
        (lambda p: {"mean": p.mean.float()}, "mean is float64"),
        (lambda p: {"mean": p.mean[None]}, "mean has shape"),
        (lambda p: {"low": p.high + 1}, "low <= mean"),
        (lambda p: {"std": p.std - 1}, "std is not negative"),
        (lambda _: {"column": "other"}, "names its column"),
        (lambda p: {"mean": p.mean + torch.rand(len(p)).double(), "high": p.high + 9}, "repeats"),
        (
            lambda p: (
                {"mean": p.mean + p.mean.sum(), "high": p.high + 2 * p.mean.sum()}
                if len(p) == 3 and p.mean[0] > p.mean[2]
                else {}
            ),
            "do not see each other",
        ),
    ],
)
def test_broken_contracts_are_noticed(change, clause):
    with pytest.raises(ContractError, match=clause):
        check_predictor(_Broken(change))
