"""Train the shipped generator: MP-20 train and the near-hull part of the Materials Project.

    python benchmarks/train_generator.py --data ../shared/data --out work/generator --hours 2

Interrupt it at any time; the same command continues. Used rows: all of MP-20 train, and crystals
of mp_union with at most 20 atoms and at most 0.1 eV/atom above the hull. Left out: every row that
the val or test part of MP-20 or MPTS-52 holds, and, outside MP-20 train, every reduced formula
that occurs there, so that structure prediction on those parts is not a lookup.
"""

import argparse
from pathlib import Path

import numpy as np
import pyarrow.compute as pc
import pyarrow.parquet as pq
import torch

from matmill.cli.progress import show
from matmill.crystals.batch import CrystalBatch
from matmill.generate.conditions import SCALARS
from matmill.generate.train import GeneratorSettings, train
from matmill.training.fit import FitSettings

NEAR_HULL_EV_PER_ATOM = 0.1


def read(path, keep):
    """Return crystals and space groups of the rows where ``keep(table)`` holds."""
    table = pq.read_table(path)
    table = table.filter(keep(table))
    n = table["n_atoms"].to_numpy().astype(np.int64)
    flat = {
        name: np.concatenate([c.flatten().to_numpy() for c in table[name].chunks])
        for name in ("atomic_numbers", "frac_coords", "lattice")
    }
    properties = {}
    for name in SCALARS:
        if name in table.column_names:
            properties[name] = torch.from_numpy(
                table[name].to_numpy(zero_copy_only=False).astype(np.float64)
            )
    if "energy_above_hull_est_ev" in table.column_names:
        estimate = table["energy_above_hull_est_ev"].to_numpy(zero_copy_only=False)
        own = properties["energy_above_hull_ev"]
        properties["energy_above_hull_ev"] = torch.where(
            torch.isfinite(own), own, torch.from_numpy(estimate.astype(np.float64))
        )
    batch = CrystalBatch(
        lattice=torch.from_numpy(flat["lattice"].astype(np.float64)).view(-1, 3, 3),
        frac_coords=torch.from_numpy(flat["frac_coords"].astype(np.float64)).view(-1, 3),
        atomic_numbers=torch.from_numpy(flat["atomic_numbers"].astype(np.int64)),
        n_atoms=torch.from_numpy(n),
        properties=properties,
        ids=tuple(table["material_id"].to_pylist()),
    )
    groups = table["spacegroup"].to_numpy(zero_copy_only=False)
    return batch, torch.from_numpy(np.nan_to_num(groups.astype(np.float64))).long()


def training_crystals(data):
    """Return the training crystals with every property that either file knows."""
    from matmill.crystals.batch import concatenate

    held = pq.read_table(data / "mp_union.parquet", columns=["material_id", "formula", "benchmark"])
    tested = pc.fill_null(pc.match_substring_regex(held["benchmark"], ":(val|test)"), False)
    held_formulas = set(held.filter(tested)["formula"].to_pylist())
    for name in ("mp_20", "mpts_52"):
        table = pq.read_table(data / f"{name}.parquet", columns=["formula", "split"])
        part = pc.or_(
            pc.fill_null(pc.equal(table["split"], "val"), False),
            pc.fill_null(pc.equal(table["split"], "test"), False),
        )
        held_formulas |= set(table.filter(part)["formula"].to_pylist())

    tested_ids = set(held.filter(tested)["material_id"].to_pylist())
    mp20, mp20_groups = read(
        data / "mp_20.parquet", lambda t: pc.fill_null(pc.equal(t["split"], "train"), False)
    )
    clean = torch.tensor([i not in tested_ids for i in mp20.ids])
    mp20, mp20_groups = mp20.select(clean), mp20_groups[clean]
    union, union_groups = read(data / "mp_union.parquet", lambda t: pc.less_equal(t["n_atoms"], 20))

    # MP-20 rows take what the union knows of them (moduli, newer gaps) where they lack it.
    row = {i: k for k, i in enumerate(union.ids)}
    at = torch.tensor([row.get(i, -1) for i in mp20.ids])
    merged = {}
    for name in SCALARS:
        ours = mp20.properties.get(name, torch.full((len(mp20),), torch.nan, dtype=torch.float64))
        theirs = union.properties[name][at.clamp_min(0)]
        theirs[at < 0] = torch.nan
        merged[name] = torch.where(torch.isfinite(ours), ours, theirs)
    mp20 = mp20.with_properties(**merged)

    table = pq.read_table(data / "mp_union.parquet", columns=["n_atoms", "formula"])
    table = table.filter(pc.less_equal(table["n_atoms"], 20))
    mine = set(mp20.ids)
    fresh = torch.tensor(
        [
            i not in mine and i not in tested_ids and f not in held_formulas
            for i, f in zip(union.ids, table["formula"].to_pylist(), strict=True)
        ]
    )
    fresh &= union.properties["energy_above_hull_ev"] <= NEAR_HULL_EV_PER_ATOM
    batch = concatenate([mp20, union.select(fresh)])
    groups = torch.cat([mp20_groups, union_groups[fresh]])
    mass = _masses()[batch.atomic_numbers]
    total = torch.zeros(len(batch), dtype=torch.float64).index_add_(0, batch.crystal_index, mass)
    density = total / batch.volume * 1.66053906660  # amu/Å³ to g/cm³
    return batch.with_properties(density_g_cm3=density), groups, len(mp20)


def _masses():
    from matmill.crystals.elements import table

    return table("mass").nan_to_num(0.0)


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
