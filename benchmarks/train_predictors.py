"""Train the predictors that ship, from the given Materials Project table.

Usage: python benchmarks/train_predictors.py [--data FOLDER] [--work FOLDER]
           [--stem-seconds 1600] [--seconds 620]

Repeat the command after an interruption: it goes on where it stopped. The weights go to
``src/matmill/assets/predictors`` when training has ended, with a card beside them.

One ensemble learns all properties: formation energy and gap have 10 times more labels than the
moduli, and what they teach the first layers serves all.

Labels:
- Formation energies of the 2021/2022 releases (one correction scheme) are the target. Those of the
  2019/2020 releases have other corrections; they are learned as a separate, auxiliary output.
- Moduli: matbench's ``log_kvrh``/``log_gvrh`` (10,987 rows) come as formula, space group and number
  of atoms. A row is given to the crystal where exactly one of the table has this key. On the
  binaries that also carry moduli of another source the two agree to 0.008 in the median of log10.
  Binaries that matbench lacks keep the values of the table.
"""

import argparse
import json
import os
import sys
from pathlib import Path

import numpy as np
import torch

from matmill.cli.progress import show
from matmill.crystals.batch import CrystalBatch
from matmill.data.table import LabelledCrystals
from matmill.predict.baselines import boosted_trees_mae, median_mae
from matmill.predict.protocol import ASSETS
from matmill.predict.train import TrainSettings, train_predictor
from matmill.training import checkpoint

ROOT = Path(__file__).parents[1]
MAX_ATOMS = 40
TARGETS = [
    "formation_energy_per_atom_ev",
    "band_gap_ev",
    "bulk_modulus_vrh_gpa",
    "shear_modulus_vrh_gpa",
]
AUXILIARY = ["formation_energy_legacy_ev"]
ATTRIBUTION = [
    "Materials Project: A. Jain et al., APL Materials 1, 011002 (2013); CC BY 4.0.",
    "matbench log_kvrh and log_gvrh: A. Dunn et al., npj Comput. Mater. 6, 138 (2020); MIT.",
    "Elastic tensors: M. de Jong et al., Scientific Data 2, 150009 (2015); binaries also from "
    "matcalc (BSD-3).",
]
LIMITS = [
    "PBE quantities: band gaps are underestimated against experiment.",
    "Formation energies follow the corrections of the 2021/2022 Materials Project; do not mix "
    "them with other releases.",
    "Trained on relaxed crystals of at most 40 atoms: on unrelaxed or strained structures errors "
    "grow and no interval is promised.",
    "Part of the geometries are of the 2025 release, some relaxed with another functional.",
    "Moduli were matched by formula, space group and number of atoms; a few labels may sit on "
    "another polymorph. Values below 0.1 GPa count as 0.1.",
    "Intervals hold for crystals like the test rows; generated crystals are a shifted population.",
]


def load_table(data: Path) -> LabelledCrystals:
    import pyarrow.parquet as pq

    sheet = pq.read_table(data / "mp_union.parquet")
    frame = sheet.drop(["atomic_numbers", "frac_coords", "lattice"]).to_pandas()

    def flat(name, dtype):
        return torch.from_numpy(
            sheet[name].combine_chunks().flatten().to_numpy(zero_copy_only=False).astype(dtype)
        )

    release = frame["formation_energy_release"].fillna("").str
    is_new = release.startswith("mp_2021") | release.startswith("mp_2022")
    energy = frame["formation_energy_per_atom_ev"]
    bulk, shear = _moduli(frame, data)
    labels = {
        "formation_energy_per_atom_ev": energy.where(is_new),
        "formation_energy_legacy_ev": energy.where(~is_new),
        "band_gap_ev": frame["band_gap_ev"],
        "bulk_modulus_vrh_gpa": bulk,
        "shear_modulus_vrh_gpa": shear,
    }
    crystals = CrystalBatch(
        lattice=flat("lattice", np.float64).view(-1, 3, 3),
        frac_coords=flat("frac_coords", np.float64).view(-1, 3),
        atomic_numbers=flat("atomic_numbers", np.int64),
        n_atoms=torch.from_numpy(frame["n_atoms"].to_numpy().astype(np.int64)),
        ids=tuple(frame["material_id"]),
        properties={
            name: torch.from_numpy(np.array(column, dtype=np.float64))
            for name, column in labels.items()
        },
    )
    notes = {"split": tuple(frame["split"])}
    table = LabelledCrystals(crystals=crystals, notes=notes, source="mp_union.parquet")
    labelled = torch.stack([torch.isfinite(v) for v in crystals.properties.values()]).any(0)
    return table.select(labelled & (crystals.n_atoms <= MAX_ATOMS))


def _moduli(frame, data):
    import pandas as pd

    key = ["formula", "spacegroup", "n_atoms"]
    elastic = pd.read_parquet(data / "properties" / "matbench_elastic_composition.parquet")
    elastic = elastic[~elastic.duplicated(key, keep=False)].set_index(key)
    is_unique = ~frame.duplicated(key, keep=False)
    keys = pd.MultiIndex.from_frame(frame[key])
    found = []
    for letter, own in (("k", "bulk_modulus_vrh_gpa"), ("g", "shear_modulus_vrh_gpa")):
        matched = 10.0 ** elastic[f"log10_{letter}_vrh_gpa"].reindex(keys).to_numpy()
        matched = pd.Series(matched, index=frame.index).where(is_unique)
        found.append(matched.fillna(frame[own]))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    shared = os.environ.get("MATMILL_DATA", ROOT.parent / "shared" / "data")
    parser.add_argument("--data", type=Path, default=Path(shared))
    parser.add_argument("--work", type=Path, default=ROOT / "runs" / "predictors")
    parser.add_argument("--stem-seconds", type=float, default=1600.0, help="of the common start")
    parser.add_argument("--seconds", type=float, default=620.0, help="of each member")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--members", type=int, default=3)
    args = parser.parse_args()
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    table = load_table(args.data)
    settings = TrainSettings(
        max_atoms=MAX_ATOMS,
        n_members=args.members,
        seconds_per_member=args.seconds,
        stem_seconds=args.stem_seconds,
    )
    with show() as on_event:
        model = train_predictor(
            table,
            TARGETS,
            auxiliary=AUXILIARY,
            settings=settings,
            folder=args.work,
            seed=args.seed,
            on_event=on_event,
            about={
                "name": "materials_project",
                "attribution": ATTRIBUTION,
                "licence": "Weights: MIT, like the code. Data: CC BY 4.0 and MIT, see attribution.",
                "limits": LIMITS,
                "command": "python benchmarks/train_predictors.py "
                f"--stem-seconds {args.stem_seconds:g} --seconds {args.seconds:g} "
                f"--members {args.members} --seed {args.seed}",
                "made_with": {"python": sys.version.split()[0], "torch": torch.__version__},
            },
        )
    kept = args.work / f"baselines-{table.hash}-{args.seed}.json"
    if not kept.exists():
        checkpoint.write_atomically(
            kept, json.dumps(_baselines(table, model.scales, args.seed)).encode()
        )
    model.card["baselines"] = json.loads(kept.read_text(encoding="utf-8"))
    path = model.save(ASSETS / "materials_project")
    print(
        json.dumps({"scores": model.card["scores"], "baselines": model.card["baselines"]}, indent=1)
    )
    print(path, path.stat().st_size, checkpoint.hash_of(path))


def _baselines(table, scales, seed):
    parts = {
        name: table.select(torch.tensor([note == name for note in table.notes["split"]]))
        for name in ("train", "test")
    }
    train, test = parts["train"], parts["test"]
    found = {}
    for scale in scales[: len(TARGETS)]:
        values = train.column(scale.column), test.column(scale.column)
        trees = boosted_trees_mae(
            train.crystals, values[0], test.crystals, values[1], is_log=scale.is_log, seed=seed
        )
        name = "composition_trees_mae_log10" if scale.is_log else "composition_trees_mae"
        found[scale.column] = {name: trees, "median_mae": median_mae(*values)}
    return found


if __name__ == "__main__":
    main()
