"""Pretrain the shipped Con-CDVAE on Materials Project crystals of at most 20 atoms.

    python benchmarks/cdvae_train.py --minutes 40 --out work/cdvae

Rows of ``mp_union`` whose split is train and that no benchmark tests or validates on; formation
energy and band gap are conditions where known. The decoder begins with the layers of the shipped
flow. Time is CPU time; the same command continues after a kill. Needs the given crystals.
"""

import argparse
import sys
from dataclasses import replace
from pathlib import Path

import torch
from safetensors.torch import load_file

from generator_common import DATA, keep, packed, unpacked
from matmill.data.table import open_table
from matmill.generate.cdvae.settings import CdvaeSettings
from matmill.generate.cdvae.train import train_cdvae
from matmill.generate.dataset import usable
from matmill.progress import Event

COLUMNS = ("formation_energy_per_atom_ev", "band_gap_ev")
SIZE = {
    "encoder_width": 96,
    "encoder_heads": 4,
    "encoder_blocks": 2,
    "decoder_width": 192,
    "decoder_heads": 6,
    "decoder_blocks": 6,
    "latent": 128,
    "condition": 64,
    "prior": [256, 128, 64],
}


def crystals(data, cache):
    """Return the training crystals in Niggli cells, and the hash of the table they are of."""
    table = open_table(data / "mp_union.parquet")
    file = cache / f"crystals-{table.hash[:12]}.safetensors"
    if not file.exists():
        notes = zip(table.notes["split"], table.notes["benchmark"], strict=True)
        rows = [
            i
            for i, (split, benchmark) in enumerate(notes)
            if split == "train" and not any(part in (benchmark or "") for part in ("val", "test"))
        ]
        batch = table.crystals.select(rows)
        names = (*COLUMNS, "spacegroup")
        batch = batch.select(batch.n_atoms <= 20)
        kept = usable(batch, max_atoms=20)
        kept = replace(kept, properties={name: kept.properties[name] for name in names})
        keep(packed(kept), file)
    return unpacked(load_file(file)), table.hash


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=40, help="CPU minutes of the autoencoder")
    parser.add_argument("--prior-steps", type=int, default=3000)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--data", type=Path, default=DATA)
    parser.add_argument("--out", type=Path, default=Path("work/cdvae"))
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    batch, data_hash = crystals(arguments.data, arguments.out)
    settings = CdvaeSettings(
        size=SIZE,
        flow_trunk=True,
        batch_size=arguments.batch,
        fit={
            "max_seconds": 60 * arguments.minutes,
            "clock": "cpu",
            "learning_rate": 7e-4,
            "warmup_steps": 100,
            "decay": "linear-tail",
            "decay_tail": 0.3,
            "ema_decay": 0.998,
            "log_every_steps": 20,
            "checkpoint_every_seconds": 120.0,
        },
        prior_fit={"max_steps": arguments.prior_steps, "learning_rate": 1e-3, "decay": "cosine"},
    )

    def say(event: Event) -> None:
        if event.done % 100 == 0:
            print(event.done, event.values, flush=True)

    facts = {
        "sources": {
            "mp_union.parquet": {
                "sha256": data_hash,
                "rows": "split train, in no benchmark's val or test, at most 20 atoms",
            }
        },
        "attribution": "Materials Project (CC BY 4.0), through the given table mp_union",
        "command": " ".join(["python", *sys.argv]),
    }
    made = train_cdvae(
        batch,
        COLUMNS,
        settings=settings,
        folder=arguments.out,
        seed=arguments.seed,
        facts=facts,
        on_event=say,
    )
    print(made.card["training"], made.card["n_parameters"])


if __name__ == "__main__":
    main()
