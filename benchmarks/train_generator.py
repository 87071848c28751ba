"""Train the shipped generator: MP-20 train and parts of the Materials Project.

    python benchmarks/train_generator.py --data ../shared/data --out work/generator --hours 2
    python benchmarks/train_generator.py --from OLD.safetensors --wide --hours 1.5

Interrupt it at any time; the same command continues. Used rows: all of MP-20 train, and crystals
of mp_union with at most 20 atoms and at most 0.1 eV/atom above the hull. Left out: every row that
the val or test part of MP-20 or MPTS-52 holds, and, outside MP-20 train, every reduced formula
that occurs there, so that structure prediction on those parts is not a lookup.

``--wide`` adds rows of the union that only MPTS-52 tests, and 7,000 random ones up to 1 eV/atom
above the hull, so that the condition on the hull distance is learnt from both sides; formulas of
MP-20 val and test stay out. The symmetric mode sees what lies near the hull.
"""

import argparse
from dataclasses import replace
from pathlib import Path

import torch

from matmill.cli.progress import show
from matmill.crystals.batch import concatenate
from matmill.crystals.facts import density
from matmill.data.table import open_table
from matmill.generate.conditions import SCALARS
from matmill.generate.train import GeneratorSettings, train
from matmill.randomness import child
from matmill.training.fit import FitSettings

NEAR_HULL_EV_PER_ATOM = 0.1
MOST_EV_PER_ATOM = 1.0
N_FAR = 7000


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


def wider_crystals(data, known):
    """Return further crystals near the hull, and 7,000 above it, without MP-20 val and test."""
    mp20, union = read(data / "mp_20.parquet"), read(data / "mp_union.parquet")
    tested = [part != "train" for part in mp20.notes["split"]]
    held_ids = {i for i, held in zip(mp20.ids, tested, strict=True) if held} | set(known)
    held_formulas = {f for f, held in zip(mp20.crystals.formula, tested, strict=True) if held}
    distance = union.column("energy_above_hull_ev")
    small = (union.crystals.n_atoms <= 20) & (distance <= MOST_EV_PER_ATOM)
    fresh = [
        k
        for k in torch.nonzero(small).flatten().tolist()
        if union.ids[k] not in held_ids and union.crystals.formula[k] not in held_formulas
    ]
    near = [k for k in fresh if distance[k] <= NEAR_HULL_EV_PER_ATOM]
    far = [k for k in fresh if distance[k] > NEAR_HULL_EV_PER_ATOM]
    order = torch.randperm(len(far), generator=child(0, "far from the hull"))[:N_FAR]
    found = (union.crystals.select(near), union.crystals.select([far[i] for i in order.tolist()]))
    return tuple(part.with_properties(density_g_cm3=density(part)) for part in found)


def sharing(*batches):
    """Return the batches as one, with the properties that all of them have."""
    names = set.intersection(*(set(b.properties) for b in batches))
    return concatenate(
        [replace(b, properties={n: b.properties[n] for n in sorted(names)}) for b in batches]
    )


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--out", type=Path, default=Path("work/generator"))
    parser.add_argument("--size", default="S")
    parser.add_argument("--hours", type=float, default=2.0)
    parser.add_argument("--n-tokens", type=int, default=1660)
    parser.add_argument("--learning-rate", type=float, default=1e-3)
    parser.add_argument("--from", dest="start", type=Path, help="weights to start from")
    parser.add_argument("--wide", action="store_true", help="more of the union, see above")
    parser.add_argument("--symmetric-passes", type=int, default=2)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    batch, groups, n_mp20 = training_crystals(arguments.data)
    symmetric = batch
    if arguments.wide:
        near, far = wider_crystals(arguments.data, batch.ids)
        symmetric = sharing(batch, near)
        batch = sharing(batch, near, far)
        groups = batch.properties["spacegroup"].nan_to_num(0.0).long()
    settings = GeneratorSettings(
        size=arguments.size,
        n_tokens=arguments.n_tokens,
        symmetric_passes=arguments.symmetric_passes,
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
            "mp_union, at most 20 atoms, at most 0.1 eV/atom above hull": len(symmetric) - n_mp20,
            "mp_union, at most 20 atoms, 0.1 to 1 eV/atom above hull": len(batch) - len(symmetric),
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
            symmetric=symmetric,
            start_from=arguments.start,
            facts=facts,
            on_event=bars,
        )


if __name__ == "__main__":
    main()
