"""Pretrain the Roost network that ships, on computed properties of formulas.

Usage: python benchmarks/pretrain_compositions.py [--data FOLDER] [--work FOLDER] [--epochs 4]

Repeat the command after an interruption: it goes on where it stopped. The encoder goes to
``src/matmill/assets/encoders/compositions.safetensors``, half precision, with a card beside it.

It learns from OQMD (one value a formula) and from the Materials Project (the polymorph of lowest
formation energy). Every formula of every measured task is left out first, so that a fold that is
tested on was never seen in any form. Of the metals of OQMD of which nothing else is known, only
three in ten are kept: their gap of zero teaches little.
"""

import argparse
import hashlib
from pathlib import Path

import torch

from matmill.cli.progress import show
from matmill.crystals.compositions import CompositionBatch
from matmill.data.compositions import LabelledCompositions, open_compositions
from matmill.errors import DataError
from matmill.predict.pretrain.encoder import save_encoder
from matmill.predict.train import TrainSettings, train_predictor

ROOT = Path(__file__).parents[1]
ASSET = ROOT / "src" / "matmill" / "assets" / "encoders" / "compositions"
POOLS = {  # tables of the same source as the pretraining data: no measured task
    "matbench_mp_e_form_composition",
    "matbench_mp_gap_is_metal_composition",
    "mp_magnetic_composition",
}
TARGETS = [
    "oqmd_band_gap_ev",
    "oqmd_is_metal",
    "oqmd_formation_energy_per_atom_ev",
    "oqmd_volume_per_atom_a3",
    "mp_formation_energy_per_atom_ev",
    "mp_band_gap_ev",
    "mp_is_metal",
    "mp_volume_per_atom_a3",
    "mp_magnetization_per_atom_mu_b",
]
ATTRIBUTION = [
    "OQMD: J. Saal et al., JOM 65, 1501 (2013), as collected in the CrabNet benchmark; CC BY 4.0.",
    "Materials Project: A. Jain et al., APL Materials 1, 011002 (2013); CC BY 4.0.",
]
LARGEST_ENERGY = 5.0  # eV/atom; what lies beyond is a failed calculation
SHARE_OF_DULL_METALS = 0.3


def measured_formulas(data):
    """Return the formulas of all tables that models are tested on."""
    formulas = set()
    for path in sorted((data / "properties").glob("*.parquet")):
        if path.stem in POOLS:
            continue
        try:
            formulas.update(open_compositions(path).compositions.formulas)
        except DataError as error:
            print(f"{path.name}: left alone, {error}")
    return formulas


def load(data):
    """Return one table with a row a formula, and how many formulas were left out."""
    oqmd = open_compositions(data / "oqmd_compositions.parquet")
    known = open_compositions(data / "mp_union.parquet")
    # The lowest polymorph comes last and so overwrites the others.
    energy = known.column("formation_energy_per_atom_ev")
    known = known.select(torch.argsort(energy.nan_to_num(nan=99.0), descending=True))
    formulas = dict.fromkeys((*oqmd.compositions.formulas, *known.compositions.formulas))
    place = {formula: row for row, formula in enumerate(formulas)}
    n = len(place)
    amounts = torch.zeros(n, 119, dtype=torch.float64)
    columns = {name: torch.full((n,), torch.nan, dtype=torch.float64) for name in TARGETS}
    for prefix, table in (("oqmd", oqmd), ("mp", known)):
        rows = torch.tensor([place[formula] for formula in table.compositions.formulas])
        # Indexed assignment does not promise an order among repeats: keep the last of each.
        last = torch.full((n,), -1).scatter_reduce(0, rows, torch.arange(len(rows)), "amax")
        target = torch.nonzero(last >= 0).flatten()
        row = last[target]
        amounts[target] = table.compositions.amounts[row]
        gap = table.column("band_gap_ev")[row]
        energy = table.column("formation_energy_per_atom_ev")[row]
        columns[f"{prefix}_band_gap_ev"][target] = gap
        columns[f"{prefix}_is_metal"][target] = torch.where(
            torch.isfinite(gap), (gap <= 0.0).double(), torch.nan
        )
        columns[f"{prefix}_formation_energy_per_atom_ev"][target] = torch.where(
            energy.abs() < LARGEST_ENERGY, energy, torch.nan
        )
        columns[f"{prefix}_volume_per_atom_a3"][target] = table.column("volume_per_atom_a3")[row]
        if prefix == "mp":
            moment = table.column("total_magnetization_mu_b") / table.column("n_atoms")
            columns["mp_magnetization_per_atom_mu_b"][target] = moment[row].abs()
    left_out = measured_formulas(data)
    keep = torch.tensor([formula not in left_out for formula in formulas])
    is_dull = (columns["oqmd_is_metal"] == 1.0) & torch.isnan(columns["mp_is_metal"])
    is_dull &= torch.isnan(columns["oqmd_formation_energy_per_atom_ev"])
    drawn = torch.rand(n, generator=torch.Generator().manual_seed(0)) < SHARE_OF_DULL_METALS
    n_left_out = int((~keep).sum())
    keep &= ~is_dull | drawn
    batch = CompositionBatch(
        amounts=amounts[keep], properties={name: values[keep] for name, values in columns.items()}
    )
    parts = torch.rand(len(batch), generator=torch.Generator().manual_seed(1))
    split = tuple("val" if x < 0.01 else "test" if x < 0.02 else "train" for x in parts.tolist())
    table = LabelledCompositions(
        compositions=batch, notes={"split": split}, source="oqmd_compositions+mp_union"
    )
    return table, n_left_out


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=ROOT.parent / "shared" / "data")
    parser.add_argument("--work", type=Path, default=ROOT / "runs" / "compositions")
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--out", type=Path, default=ASSET)
    given = parser.parse_args()
    torch.set_num_threads(1)
    table, n_left_out = load(given.data)
    settings = TrainSettings(
        network="roost",
        n_members=1,
        width=64,
        hidden=128,
        n_layers=3,
        batch_crystals=256,
        learning_rate=2e-3,
        epochs=given.epochs,
        precision="fp32",
        accelerator="cpu",
    )
    with show() as on_event:
        model = train_predictor(
            table, TARGETS, settings=settings, folder=given.work, seed=0, on_event=on_event
        )
    files = ("oqmd_compositions.parquet", "mp_union.parquet")
    card = {
        "name": "compositions",
        "what": "Roost, pretrained on computed properties of formulas.",
        "network": "roost",
        "network_settings": model.card["network_settings"],
        "n_neighbors": 0,
        "cutoff_angstrom": 0.0,
        "command": f"python benchmarks/pretrain_compositions.py --epochs {given.epochs}",
        "data": {
            name: hashlib.sha256((given.data / name).read_bytes()).hexdigest() for name in files
        },
        "n_formulas": len(table),
        "left_out": f"{n_left_out} formulas that occur in a measured task",
        "targets": model.card["data"]["labels"],
        "test_mae": {name: scores["mae"] for name, scores in model.card["scores"].items()},
        "training": model.card["training"],
        "settings": model.card["settings"],
        "attribution": ATTRIBUTION,
        "licence": "CC BY 4.0",
        "limits": [
            "Values computed with PBE, one polymorph a formula.",
            "Its features know nothing of the structure.",
        ],
    }
    network = model.members[0].half()
    given.out.parent.mkdir(parents=True, exist_ok=True)
    print(save_encoder(given.out, network, card))


if __name__ == "__main__":
    main()
