"""The generator's sheet: what a set of crystals is worth, with the noise floor beside it.

    python benchmarks/generator_sheet.py --generator flow -n 10000 --relax 1000 --out sheet.json
    python benchmarks/generator_sheet.py --samples samples.parquet -n 1000

The reference of all distances is the test part of MP-20; the noise floor is as many crystals of its
training part (``--floor``), through the same protocol. The first ``--relax`` crystals of each set
are relaxed with the settings of `matmill design`. Samples, relaxations and fingerprints are kept in
``--work`` piece by piece: the same command continues after a kill. Needs the given crystals.

SUN is counted twice: with uniqueness and novelty judged as generated (protocol matmill-1), and
judged on the relaxed crystals, as MatterGen does. Coverage uses the fingerprints of CDVAE on
``--cov`` crystals of each side: they cost 0.1 CPU seconds a crystal.
"""

import argparse
import sys
import time
from dataclasses import asdict
from pathlib import Path

import torch

from generator_common import (
    DATA,
    covered,
    markdown,
    mp_20,
    relaxed,
    sampled,
    save,
    subset,
    symmetry_key,
)
from matmill.crystals.facts import n_elements
from matmill.crystals.files import read
from matmill.crystals.symmetry import find
from matmill.generate.protocol import GenerationRequest, load_generator
from matmill.predict.protocol import load_predictor
from matmill.verify import metrics, presets
from matmill.verify.hull import Hull
from matmill.verify.metrics import Metric, mean, share
from matmill.verify.novelty import STRUCTURE_FILES, KnownIndex, find_known, first_of_each
from matmill.verify.potentials import load_chgnet
from matmill.verify.relax import RelaxSettings
from matmill.verify.signatures import signatures


class Sheet:
    """Fills the columns, one set of crystals after another, and times each part."""

    def __init__(self, arguments, folder):
        self.arguments, self.folder = arguments, folder
        self.reference = mp_20("test", arguments.data)
        self.training = mp_20("train", arguments.data)
        self.energy = load_predictor("formation_energy_per_atom")
        self.reference_energy = self.energy.predict(self.reference).mean
        self.known = KnownIndex.load(structures=[arguments.data / f for f in STRUCTURE_FILES])
        self.seconds: dict[str, float] = {}

    def timed(self, name, work):
        """Return the work's answer and add its CPU seconds to the account."""
        begin = time.process_time()
        answer = work()
        self.seconds[name] = self.seconds.get(name, 0.0) + time.process_time() - begin
        return answer

    def column(self, name, batch, *, with_signatures):
        """Return every number of one set, and its failure signatures."""
        found = self.timed(f"{name}: validity and distances", lambda: self.plain(batch))
        first = self.timed(f"{name}: uniqueness", lambda: first_of_each(batch))
        is_first = torch.tensor(first) == torch.arange(len(batch))
        matches = self.timed(f"{name}: novelty", lambda: find_known(batch, self.known))
        is_new = torch.tensor([match is None for match in matches], dtype=torch.bool)
        found += [
            share("uniqueness (0.2/0.3/5)", is_first),
            share("novelty", is_new),
            share("unique and novel", is_first & is_new),
        ]
        if self.arguments.cov:
            found += self.timed(f"{name}: coverage", lambda: self.coverage(name, batch))
        if self.arguments.relax:
            chosen = torch.arange(min(self.arguments.relax, len(batch)))
            found += self.after_relaxation(name, batch.select(chosen), (is_first & is_new)[chosen])
        signs = []
        if with_signatures:
            signs = self.timed(
                f"{name}: signatures",
                lambda: signatures(batch, self.reference, self.training, first=first),
            )
        return found, signs

    def plain(self, batch):
        """Return what needs neither matching nor energies of a potential."""
        energy = metrics.wasserstein(self.energy.predict(batch).mean, self.reference_energy)
        strict = find(batch, symprec=0.01).number == 1
        return [
            metrics.geometric_validity(batch),
            metrics.roomy(batch),
            *metrics.compositional_validity(batch),
            metrics.mean("number of elements", n_elements(batch)),
            metrics.p1_share(batch),
            share("P1 at symprec 0.01 (moyopy)", strict),
            *metrics.distribution_distances(batch, self.reference),
            Metric(
                name="predicted formation energy Wasserstein-1 (eV/atom)",
                value=energy,
                numerator=energy,
                denominator=len(batch),
            ),
        ]

    def coverage(self, name, batch):
        """Return COV-R and COV-P of as many crystals as ``--cov`` says."""
        n, shared = self.arguments.cov, self.arguments.work / "prints"
        return covered(self.reference, batch, n, (shared, self.folder), name)

    def after_relaxation(self, name, batch, is_new):
        """Return what relaxation and the hull say; what cannot be relaxed counts as failed."""
        after = relaxed(batch, load_chgnet(), Hull.load(), RelaxSettings(), self.folder, name)
        facts = after.properties
        good = facts["converged"] > 0
        above = torch.where(good, facts["above_hull_ev"], torch.nan)
        moved = metrics.relaxation_rmsd(batch, after)
        first = torch.tensor(first_of_each(after)) == torch.arange(len(after))
        fresh = torch.tensor([match is None for match in find_known(after, self.known)])
        judged_after = first & fresh
        found = [
            share("relaxation converges", good),
            *(metrics.metastable_share(above, limit) for limit in (0.0, 0.05, 0.1, 0.2)),
            *metrics.sun_shares(above, is_new),
            *metrics.sun_shares(above, judged_after, judged="after relaxation"),
            share("unique and novel, after relaxation", judged_after),
            share("P1 at symprec 0.1 after relaxation", find(after, symprec=0.1).number == 1),
            mean("energy above hull of the converged (eV/atom)", above),
            mean("energy drop in relaxation (meV/atom)", 1000 * facts["drop_ev"][good]),
            mean("RMSD in relaxation (Å)", moved[good]),
            mean("relaxation steps", facts["steps"]),
            mean("CPU seconds of relaxation per crystal", facts["cpu_s"]),
        ]
        if "cpu_s" in batch.properties:
            found += costs(batch, facts["cpu_s"], above, is_new)
        return found


def costs(batch, relaxing, above, is_new):
    """Return CPU seconds of sampling and relaxing for each crystal that is worth something."""
    total = float((batch.properties["cpu_s"] + relaxing).sum())
    found = []
    for limit in (0.0, 0.1):
        n = int(((above <= limit) & is_new).sum())
        found.append(
            Metric(
                name=f"CPU seconds per SUN@{limit:g} crystal, sampling and relaxing",
                value=total / n if n else float("nan"),
                numerator=total,
                denominator=n,
            )
        )
    return found


def shown(metric):
    """Return a metric as one cell."""
    value, out_of = metric.shown()
    return f"{value} ({out_of})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--samples", type=Path)
    source.add_argument("--generator", help="name, or a .safetensors file")
    parser.add_argument("-n", type=int, default=1000)
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--symmetry", default="soft", help="soft or hard")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--relax", type=int, default=100)
    parser.add_argument("--cov", type=int, default=1500, help="crystals a side; 0 leaves it out")
    parser.add_argument("--floor", type=int, help="training crystals beside; as many as samples")
    parser.add_argument("--no-floor", action="store_true")
    parser.add_argument("--unscreened", type=int, default=1000, help="samples without redraws")
    parser.add_argument("--data", type=Path, default=DATA)
    parser.add_argument("--work", type=Path, default=Path("work/sheets"))
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    protocol = presets.find("matmill-1").model_dump(mode="json")
    report = {"command": " ".join(sys.argv), "protocol": protocol, "n": arguments.n}
    columns, signs = {}, {}
    if arguments.samples:
        folder = arguments.work / arguments.samples.stem
        sheet = Sheet(arguments, folder)
        batch = read(arguments.samples).crystals.to(dtype=torch.float64)
        batch = batch.select(torch.arange(min(arguments.n, len(batch))))
    else:
        generator = load_generator(arguments.generator)
        mode = symmetry_key(generator, arguments.symmetry)
        settings = f"{arguments.steps}-{mode}-{arguments.seed}"
        folder = arguments.work / f"{generator.hash[:10]}-{settings}"
        sheet = Sheet(arguments, folder)

        def request(screen):
            wish = {"symmetry": "hard"} if arguments.symmetry == "hard" else {}
            return lambda _, m: GenerationRequest(
                n=m, n_steps=arguments.steps, screen=screen, **wish
            )

        batch = sampled(
            generator, request(True), arguments.n, folder, "samples", seed=arguments.seed
        )
        cost = float(batch.properties["cpu_s"].mean())
        report |= {
            "generator": generator.hash,
            "steps": arguments.steps,
            "symmetry": arguments.symmetry,
            "draws_per_sample": float(batch.properties["attempts"].mean()),
            "cpu_seconds_per_crystal": cost,
            "crystals_per_second": 1 / cost,
        }
    columns["samples"], signs["samples"] = sheet.column("samples", batch, with_signatures=True)
    if arguments.generator and arguments.unscreened:
        # What the network does by itself, before overlapping crystals are drawn again.
        n = min(arguments.n, arguments.unscreened)
        raw = sampled(generator, request(False), n, folder, "unscreened", seed=arguments.seed)
        columns["samples, unscreened"] = sheet.plain(raw)
        signs["samples, unscreened"] = signatures(raw, sheet.reference, sheet.training)
    if not arguments.no_floor:
        n = arguments.floor or len(batch)
        floor = subset(sheet.training, n, arguments.seed, "floor")
        # Kept apart from the generator's own: the floor is the same for all of them.
        sheet.folder = arguments.work / f"floor-{arguments.seed}"
        # Training crystals are known, and their formulas are in training, by construction.
        columns["noise floor (training crystals)"], _ = sheet.column(
            "floor", floor, with_signatures=False
        )
    report |= {name: [asdict(metric) for metric in found] for name, found in columns.items()}
    report["signatures"] = {name: [asdict(s) for s in found] for name, found in signs.items()}
    report["cpu_seconds"] = sheet.seconds
    if arguments.out:
        save(report, arguments.out)
    names = dict.fromkeys(metric.name for found in columns.values() for metric in found)
    rows = []
    for name in names:
        cells = [next((shown(m) for m in f if m.name == name), "") for f in columns.values()]
        rows.append([name, *cells])
    print(markdown(["", *columns], rows))
    for name, found in signs.items():
        print(f"\nFailure signatures, {name}")
        print("\n".join(f"  {signature}" for signature in found))
    print("\nCPU seconds: " + "; ".join(f"{k} {v:.0f}" for k, v in sheet.seconds.items()))


if __name__ == "__main__":
    main()
