"""Con-CDVAE on the flywheel's small set: 445 exfoliation energies, from scratch and fine-tuned.

    python benchmarks/cdvae_small.py --out work/cdvae_small

Matbench's jdft2d, 70 % of the rows by formula. Each model is trained on them; then crystals are
asked for energies drawn from the training labels, one each, nothing drawn again. They are judged by
a tabular predictor of all labels that shares nothing with the generators. Its own error, the error
with targets shuffled and that of a constant are printed beside. Crystals are not relaxed. Every
step is kept in ``--out``. Needs the given data.
"""

import argparse
import sys
import time
from pathlib import Path

import torch

from generator_common import DATA, cached, markdown, save
from matmill.data.parts import divided
from matmill.data.splits import split
from matmill.data.table import open_table
from matmill.generate.cdvae.generator import CdvaeGenerator
from matmill.generate.cdvae.settings import CdvaeSettings
from matmill.generate.cdvae.train import train_cdvae
from matmill.generate.protocol import GenerationRequest
from matmill.predict.protocol import load_file
from matmill.predict.tabular.predictor import TabularPredictor
from matmill.randomness import child
from matmill.verify import metrics

COLUMN = "exfoliation_energy_mev_atom"


def judge_of(table, out):
    """Return the predictor that judges, trained on all labels, and its scores."""
    path = out / "judge.safetensors"
    if path.exists():
        return load_file(path)
    judge = TabularPredictor.fit(
        divided(table, seed=0),
        COLUMN,
        folder=out / "judge.training",
        preset="fast",
        learners=("extra-trees",),
    )
    judge.save(path)
    return judge


def settings_for(arguments, *, is_transfer):
    """Return the settings of one arm; both get the same CPU time."""
    fit = {
        "max_seconds": 60 * arguments.minutes,
        "clock": "cpu",
        "learning_rate": 3e-4 if is_transfer else 1e-3,
        "warmup_steps": 30,
        "decay": "linear-tail",
        "decay_tail": 0.3,
        "ema_decay": 0.99,
        "log_every_steps": 10,
    }
    prior = {"max_steps": arguments.prior_steps, "warmup_steps": 30, "decay": "cosine"}
    return CdvaeSettings(batch_size=32, fit=fit, prior_fit={**prior, "learning_rate": 1e-3})


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("-n", type=int, default=200, help="samples of each model")
    parser.add_argument("--minutes", type=float, default=2.0, help="CPU minutes of each training")
    parser.add_argument("--prior-steps", type=int, default=800)
    parser.add_argument("--arms", default="scratch,transfer")
    parser.add_argument("--start", type=Path, help="pretrained; the shipped one by default")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--data", type=Path, default=DATA)
    parser.add_argument("--out", type=Path, default=Path("work/cdvae_small"))
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    table = open_table(arguments.data / "properties" / "matbench_jdft2d.parquet", target=COLUMN)
    rows = split(table, "formula", seed=arguments.seed, fractions=(0.7, 0.15, 0.15)).train
    train = table.crystals.select(rows)
    judge = judge_of(table, arguments.out)
    labels = train.properties[COLUMN]
    pick = torch.randint(len(labels), (arguments.n,), generator=child(arguments.seed, "targets"))
    targets = labels[pick].double()
    constant = float((targets - targets.median()).abs().mean())
    report = {
        "command": " ".join(sys.argv),
        "rows": len(train),
        "judge": judge.card["scores"][COLUMN],
        "constant_mae_mev_atom": constant,
        "arms": {},
    }
    for arm in arguments.arms.split(","):
        begin = time.process_time()
        start = CdvaeGenerator.load(arguments.start) if arm == "transfer" else None
        generator = train_cdvae(
            train,
            [COLUMN],
            settings=settings_for(arguments, is_transfer=start is not None),
            folder=arguments.out / arm,
            seed=arguments.seed,
            start=start,
        )
        trained = time.process_time() - begin
        for k in (1, 4):
            generator.best_of = k
            made = cached(
                arguments.out / f"{arm}-{k}-{arguments.n}.safetensors",
                lambda generator=generator: generator.sample_conditions(
                    {COLUMN: targets},
                    child(arguments.seed, "samples"),
                    GenerationRequest(n=arguments.n, screen=False),
                ),
            )
            said = judge.predict(made).mean
            mixed = targets[torch.randperm(len(targets), generator=child(0, "shuffled"))]
            report["arms"][f"{arm}, best of {k}"] = {
                "geometric_validity": metrics.geometric_validity(made).value,
                "roomy": metrics.roomy(made).value,
                "charge": metrics.compositional_validity(made)[0].value,
                "conditioned_mae": float((said - targets).abs().mean()),
                "conditioned_median": float((said - targets).abs().median()),
                "shuffled_mae": float((said - mixed).abs().mean()),
                "correlation": float(torch.corrcoef(torch.stack([said, targets]))[0, 1]),
                "known_formulas": len(set(made.formula) & set(train.formula)),
                "formulas": len(set(made.formula)),
                "train_cpu_s": trained,
                "steps": generator.card["training"]["autoencoder"]["steps"],
                "sample_cpu_s_per_crystal": float(made.properties["cpu_s"].mean()),
            }
            save(report, arguments.out / "report.json")
    names = dict.fromkeys(name for arm in report["arms"].values() for name in arm)
    cells = [[name, *(f"{arm[name]:.4g}" for arm in report["arms"].values())] for name in names]
    print(markdown(["", *report["arms"]], cells))
    print(f"\nJudge: {report['judge']}. A constant: {constant:.1f} meV/atom.")


if __name__ == "__main__":
    main()
