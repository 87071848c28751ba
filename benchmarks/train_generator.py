"""Train the shipped generator: MP-20 train and the near-hull part of the Materials Project.

    python benchmarks/train_generator.py --data ../shared/data --out work/generator --hours 2

Interrupt it at any time; the same command continues. Used rows: all of MP-20 train, and crystals
of mp_union with at most 20 atoms and at most 0.1 eV/atom above the hull. Left out: every row that
the val or test part of MP-20 or MPTS-52 holds, and, outside MP-20 train, every reduced formula
that occurs there, so that structure prediction on those parts is not a lookup.
"""

import argparse
from pathlib import Path

import torch

from matmill.cli.progress import show
from matmill.crystals.batch import concatenate
from matmill.crystals.facts import density
from matmill.data.table import open_table
from matmill.generate.conditions import SCALARS
from matmill.generate.train import GeneratorSettings, train
from matmill.training.fit import FitSettings

NEAR_HULL_EV_PER_ATOM = 0.1


def read(path):
    """Return a table with the hull distance completed by its estimate."""
    table = open_table(path)
    properties = table.crystals.properties
    own, estimate = properties["energy_above_hull_ev"], properties["energy_above_hull_est_ev"]
    properties["energy_above_hull_ev"] = torch.where(torch.isfinite(own), own, estimate)
    return table


def is_tested(cells):
    """Return which split cells name a val or test part, e.g. ``"mp_20:test,mpts_52:val"``."""
    return [bool(cell) and ("val" in cell or "test" in cell) for cell in cells]


def training_crystals(data):
    """Return the training crystals, their space groups, and how many are from MP-20."""
    mp20, union = read(data / "mp_20.parquet"), read(data / "mp_union.parquet")
    mpts = open_table(data / "mpts_52.parquet")
    held_ids, held_formulas = set(), set()
    for table, column in ((mp20, "split"), (union, "benchmark"), (mpts, "split")):
        tested = is_tested(table.notes[column])
        held_ids |= {i for i, held in zip(table.ids, tested, strict=True) if held}
        held_formulas |= {f for f, held in zip(table.crystals.formula, tested, strict=True) if held}

    chosen = mp20.select(
        [
            k
            for k, s in enumerate(mp20.notes["split"])
            if s == "train" and mp20.ids[k] not in held_ids
        ]
    ).crystals
    # MP-20 rows take what the union knows of them (moduli, newer gaps) where they lack it.
    row = {i: k for k, i in enumerate(union.ids)}
    at = torch.tensor([row.get(i, -1) for i in chosen.ids])
    nan = torch.tensor(torch.nan, dtype=torch.float64)
    for name in SCALARS:
        theirs = torch.where(at < 0, nan, union.crystals.properties[name][at.clamp_min(0)])
        ours = chosen.properties.get(name, theirs)
        chosen.properties[name] = torch.where(torch.isfinite(ours), ours, theirs)

    mine = set(chosen.ids)
    near = union.column("energy_above_hull_ev") <= NEAR_HULL_EV_PER_ATOM
    near &= union.crystals.n_atoms <= 20
    fresh = [
        k
        for k in torch.nonzero(near).flatten().tolist()
        if union.ids[k] not in mine
        and union.ids[k] not in held_ids
        and union.crystals.formula[k] not in held_formulas
    ]
    batch = concatenate([chosen, union.crystals.select(fresh)])
    space_group = batch.properties["spacegroup"].nan_to_num(0.0).long()
    return batch.with_properties(density_g_cm3=density(batch)), space_group, len(chosen)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--out", type=Path, default=Path("work/generator"))
    parser.add_argument("--size", default="S")
    parser.add_argument("--hours", type=float, default=2.0)
    parser.add_argument("--n-tokens", type=int, default=1660)
    parser.add_argument("--learning-rate", type=float, default=1e-3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    batch, groups, n_mp20 = training_crystals(arguments.data)
    settings = GeneratorSettings(
        size=arguments.size,
        n_tokens=arguments.n_tokens,
        fit=FitSettings(
            max_seconds=arguments.hours * 3600,
            learning_rate=arguments.learning_rate,
            warmup_steps=500,
            ema_decay=0.9995,
            log_every_steps=100,
        ),
    )
    facts = {
        "name": "flow",
        "command": "python benchmarks/train_generator.py",
        "sources": {
            "mp_20 train": n_mp20,
            "mp_union, at most 20 atoms, at most 0.1 eV/atom above hull": len(batch) - n_mp20,
        },
        "attribution": "Materials Project (Jain et al., Commentary: The Materials Project, 2013), "
        "CC BY 4.0; MP-20 split by Xie et al., Crystal Diffusion Variational Autoencoder, 2021.",
        "licence": "MIT (weights)",
    }
    with show() as bars:
        train(
            batch,
            groups,
            settings=settings,
            folder=arguments.out,
            seed=arguments.seed,
            facts=facts,
            on_event=bars,
        )


if __name__ == "__main__":
    main()
