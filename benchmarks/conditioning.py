"""Does asking help? Generate towards targets and let judges that never saw them count the hits.

    python benchmarks/conditioning.py -n 128 --out work/sheets/conditioning.json
    python benchmarks/conditioning.py --parts scalars --properties band_gap --figure FILE.png

Properties are judged by the shipped predictors, which were trained apart from the generator;
density, elements and space group are read off the crystal. Nothing is relaxed. A hit lies within
±10 % of the trained range of the target (moduli: within ±25 % of the target). Beside each target
stands the share among crystals that were asked for nothing (``free``). Samples are kept in
``--work`` piece by piece: the same command continues after a kill.

Parts: ``scalars`` (targets × scales), ``dynamic`` (the schedule that fades as a condition is met),
``systems`` (chemical systems), ``several`` (two and three conditions at once), ``symmetry`` (hard
against soft, found again at symprec 0.1 and 0.01).
"""

import argparse
import sys
from dataclasses import asdict
from pathlib import Path

import torch

from generator_common import markdown, sampled, save, symmetry_key, with_interval
from matmill.crystals.composition import chemical_systems
from matmill.crystals.facts import density
from matmill.crystals.symmetry import find as find_symmetry
from matmill.errors import DataError, InputError
from matmill.generate.protocol import GenerationRequest, load_generator
from matmill.predict.protocol import load_predictor
from matmill.quantities import find
from matmill.verify.signatures import Steering, no_effect

TARGETS = {
    "band_gap": (1.0, 2.0, 4.0),
    "formation_energy_per_atom": (-3.0, -2.0, -1.0),
    "bulk_modulus": (50.0, 100.0, 200.0),
    "density": (3.0, 6.0, 10.0),
}
SYSTEMS = (("Li", "O"), ("Na", "Cl", "Mg"), ("Sr", "Ti", "O"), ("Fe", "Co", "Al"))
SEVERAL = (
    {"band_gap": 2.0, "formation_energy_per_atom": -2.0},
    {"band_gap": 3.0, "density": 4.0},
    {"formation_energy_per_atom": -1.0, "density": 8.0},
    {"band_gap": 3.0, "formation_energy_per_atom": -2.5, "density": 4.0},
    {"formation_energy_per_atom": -1.0, "density": 6.0, "bulk_modulus": 100.0},
)
# One or two groups of each crystal system, common and rare ones.
GROUPS = (2, 14, 12, 62, 63, 139, 123, 166, 194, 225, 221)
PARTS = ("scalars", "dynamic", "systems", "several", "symmetry")


class Study:
    """Samples for each wish, the judges, and the rows of the tables."""

    def __init__(self, arguments):
        self.arguments = arguments
        self.generator = load_generator(arguments.model)
        self.ranges = self.generator.trained.ranges
        settings = f"{arguments.steps}-{arguments.seed}"
        self.folder = arguments.work / f"{self.generator.hash[:10]}-conditioning-{settings}"
        self.rows, self.steering, self.values = [], [], {}
        self.judges = {}
        self.free = self.sample("free", n=2 * arguments.n)

    def sample(self, name, n=None, **wishes):
        """Return crystals of one wish, from the folder if they are there."""
        steps = self.arguments.steps
        return sampled(
            self.generator,
            lambda _, m: GenerationRequest(n=m, n_steps=steps, **wishes),
            n or self.arguments.n,
            self.folder,
            name,
            seed=self.arguments.seed,
            say=False,
        )

    def judged(self, name, crystals):
        """Return the values of a property."""
        if name == "density":
            return density(crystals)
        if name not in self.judges:
            self.judges[name] = load_predictor(name)
        return self.judges[name].predict(crystals).mean.double()

    def window(self, name, target):
        """Return the bounds within which a value counts as a hit."""
        quantity = find(name)
        if quantity.log:
            return 0.75 * target, 1.25 * target
        low, high, _ = self.ranges[quantity.column]
        return target - 0.1 * (high - low), target + 0.1 * (high - low)

    def hits(self, wishes, crystals):
        """Return which crystals meet all wishes at once."""
        good = torch.ones(len(crystals), dtype=torch.bool)
        for name, target in wishes.items():
            low, high = self.window(name, target)
            values = self.judged(name, crystals)
            good &= (values >= low) & (values <= high)
        return good

    def add(self, part, wish, scale, hits, free, *, note="", crystals=None):
        """Keep and print one row."""
        row = {
            "part": part,
            "wish": wish,
            "scale": scale,
            "note": note,
            "hits": int(hits.sum()),
            "n": len(hits),
            "free_hits": None if free is None else int(free.sum()),
            "free_n": None if free is None else len(free),
        }
        if crystals is not None:
            row["cpu_seconds_per_crystal"] = float(crystals.properties["cpu_s"].mean())
        self.rows.append(row)
        print(" | ".join(cells(row)), flush=True)

    def scalars(self):
        """Each property alone: targets × scales."""
        for name in self.arguments.properties:
            column = find(name).column
            if column not in self.ranges:
                print(f"{name}: not among the conditions of this generator")
                continue
            free_values = self.judged(name, self.free)
            for target in TARGETS[name]:
                free = self.hits({name: target}, self.free)
                for scale in self.arguments.scales:
                    label = f"{name}-{target:g}-{scale:g}"
                    made = self.sample(label, conditions={column: target}, guidance=scale)
                    hits = self.hits({name: target}, made)
                    self.add("scalars", f"{name} = {target:g}", scale, hits, free, crystals=made)
                    values = self.judged(name, made)
                    self.values[label] = values
                    if scale == 2.0:
                        run = Steering(name=name, target=target, asked=values, free=free_values)
                        self.steering.append(run)

    def dynamic(self):
        """The middle target of each property with the dynamic schedule beside the constant one."""
        for name in self.arguments.properties:
            column, target = find(name).column, TARGETS[name][1]
            if column not in self.ranges:
                continue
            free = self.hits({name: target}, self.free)
            for schedule in ("constant", "dynamic"):
                wishes = {"conditions": {column: target}, "guidance": 2.0}
                if schedule == "dynamic":
                    wishes["schedule"] = schedule
                label = f"{name}-{target:g}-2" + ("-dynamic" if schedule == "dynamic" else "")
                made = self.sample(label, **wishes)
                hits = self.hits({name: target}, made)
                self.add(
                    "dynamic", f"{name} = {target:g}", 2.0, hits, free, note=schedule, crystals=made
                )

    def systems(self):
        """Chemical systems: all elements present and no other, by wish and by constraint."""
        for system in SYSTEMS:
            wanted = "-".join(sorted(system))
            free = torch.tensor([found == wanted for found in chemical_systems(self.free)])
            for scale in self.arguments.scales:
                made = self.sample(f"{wanted}-{scale:g}", elements=system, guidance=scale)
                hits = torch.tensor([found == wanted for found in chemical_systems(made)])
                self.add("systems", wanted, scale, hits, free, note="within", crystals=made)
            made = self.sample(f"{wanted}-exact", system=system)
            hits = torch.tensor([found == wanted for found in chemical_systems(made)])
            self.add("systems", wanted, 1.5, hits, free, note="exactly", crystals=made)

    def several(self):
        """Two and three conditions at once."""
        for wishes in SEVERAL:
            if any(find(name).column not in self.ranges for name in wishes):
                continue
            free = self.hits(wishes, self.free)
            text = ", ".join(f"{name} = {target:g}" for name, target in wishes.items())
            label = "-".join(f"{name}-{target:g}" for name, target in wishes.items())
            for scale in self.arguments.scales:
                conditions = {find(name).column: target for name, target in wishes.items()}
                made = self.sample(f"{label}-{scale:g}", conditions=conditions, guidance=scale)
                self.add("several", text, scale, self.hits(wishes, made), free, crystals=made)

    def symmetry(self):
        """Space groups: found again, by wish and by constraint, at two tolerances."""
        modes = [("soft", scale, "soft") for scale in self.arguments.scales]
        try:
            modes.append(("hard", 1.5, symmetry_key(self.generator, "hard")))
        except DataError as error:
            print(f"Hard symmetry is left out: {error}")
        for group in self.arguments.groups:
            for mode, scale, key in modes:
                wishes = {"space_group": group, "guidance": scale}
                if mode == "hard":
                    wishes["symmetry"] = mode
                try:
                    made = self.sample(f"group-{group}-{key}-{scale:g}", **wishes)
                except InputError as error:  # no template of this group fits the trained sizes
                    print(f"group {group}, {mode}: {error}")
                    continue
                for symprec in (0.1, 0.01):
                    hits = find_symmetry(made, symprec=symprec).number == group
                    free = find_symmetry(self.free, symprec=symprec).number == group
                    note = f"{mode}, symprec {symprec:g}"
                    self.add("symmetry", f"group {group}", scale, hits, free, note=note)


def cells(row):
    """Return a row as text."""
    free, lift = "–", "–"
    if row["free_n"]:
        free = with_interval(row["free_hits"], row["free_n"])
        if row["free_hits"]:
            ratio = (row["hits"] / row["n"]) / (row["free_hits"] / row["free_n"])
            lift = f"{ratio:.1f}×"
    wish = f"{row['wish']} ({row['note']})" if row["note"] else row["wish"]
    return [wish, f"{row['scale']:g}", with_interval(row["hits"], row["n"]), free, lift]


def summary(rows):
    """Return the shares over all groups, hard and soft, as rows."""
    totals = {}
    for row in rows:
        if row["part"] == "symmetry":
            key = (row["note"], row["scale"])
            hits, n = totals.get(key, (0, 0))
            totals[key] = (hits + row["hits"], n + row["n"])
    return [[note, f"{scale:g}", with_interval(*found)] for (note, scale), found in totals.items()]


def page(report):
    """Return the tables as Markdown."""
    header = ["asked for", "scale", "hits [95 %]", "free", "lift"]
    lines = []
    for part in PARTS:
        rows = [cells(row) for row in report["rows"] if row["part"] == part]
        if rows:
            lines += [f"### {part}", "", markdown(header, rows), ""]
    if over_groups := summary(report["rows"]):
        lines += ["### all groups", "", markdown(["", "scale", "found again"], over_groups), ""]
    for entry in report["signatures"]:
        state = "FOUND" if entry["is_found"] else "not found"
        lines.append(f"{entry['name']}: {state} ({entry['statistic']}: {entry['value']:.2f}).")
    return "\n".join(lines)


def draw(study, path, scale=2.0):
    """Draw the distributions of the judged values at one scale, one panel a property."""
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    names = [n for n in study.arguments.properties if any(k.startswith(n) for k in study.values)]
    width = 4.5 * len(names)
    figure, axes = plt.subplots(
        1, len(names), figsize=(width, 3.2), constrained_layout=True, squeeze=False
    )
    for axis, name in zip(axes[0], names, strict=True):
        series = [("free", study.judged(name, study.free))]
        series += [(f"{t:g}", study.values[f"{name}-{t:g}-{scale:g}"]) for t in TARGETS[name]]
        everything = torch.cat([values for _, values in series])
        everything = everything[torch.isfinite(everything)]
        low, high = float(everything.quantile(0.005)), float(everything.quantile(0.995))
        for i, (label, values) in enumerate(series):
            colour = "0.7" if i == 0 else f"C{i - 1}"
            axis.hist(
                values.numpy(),
                bins=30,
                range=(low, high),
                density=True,
                color=colour,
                histtype="stepfilled" if i == 0 else "step",
                linewidth=1.6,
                label="unconditional" if i == 0 else f"asked for {label}",
            )
            if i:
                axis.axvline(float(label), color=colour, linestyle=":", linewidth=1)
        verb = "" if find(name).exact else "predicted "
        axis.set_xlabel(f"{verb}{find(name).title}")
        axis.set_yticks([])
        axis.legend(frameon=False, fontsize=8)
    axes[0][0].set_ylabel("share of crystals")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("-n", type=int, default=128, help="crystals a wish")
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--scales", type=float, nargs="+", default=[0.0, 1.0, 1.5, 2.0, 4.0])
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--properties", nargs="+", choices=list(TARGETS), default=list(TARGETS))
    parser.add_argument("--groups", type=int, nargs="+", default=list(GROUPS))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--model", default="flow", help="name, or a .safetensors file")
    parser.add_argument("--work", type=Path, default=Path("work/sheets"))
    parser.add_argument("--out", type=Path, help="JSON; the tables go beside it as Markdown")
    parser.add_argument("--figure", type=Path, help="distributions at scale 2")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    study = Study(arguments)
    for part in arguments.parts:
        getattr(study, part)()
    names = dict.fromkeys(run.name for run in study.steering)
    signs = [no_effect([run for run in study.steering if run.name == name]) for name in names]
    report = {
        "command": " ".join(sys.argv),
        "generator": study.generator.hash,
        "steps": arguments.steps,
        "rows": study.rows,
        "signatures": [asdict(signature) for signature in signs],
    }
    text = page(report)
    print("\n" + text)
    if arguments.out:
        save(report, arguments.out)
        arguments.out.with_suffix(".md").write_text(text + "\n")
    if arguments.figure and 2.0 in arguments.scales and study.values:
        draw(study, arguments.figure)


if __name__ == "__main__":
    main()
