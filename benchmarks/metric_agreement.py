"""Do our CDVAE metrics agree with the libraries that the original calls? To the last digit.

    python3.11 -m venv /tmp/peer && /tmp/peer/bin/pip install matminer==0.10.1 smact==4.0.2
    python benchmarks/metric_agreement.py --peer-python /tmp/peer/bin/python

The reference are crystals of MP-20 test. Of the samples 40 % are the shipped generator's, 30 %
other crystals of MP-20 test with strained cells and jittered atoms, 20 % such with elements
exchanged within their groups, and 10 % squeezed ones, many of which are not valid. The peer
computes raw fingerprints, COV-R, COV-P, AMSD, AMCD, both validities and Wasserstein-1 distances; we
compute them by the groups of the scorecard under the preset ``cdvae``, but with all valid samples
in place of 1,000 drawn ones, since two draws are not the same. Prints the largest differences and
ends with status 1 when one exceeds 1e-6. ``--orbits`` also says what one site of each orbit costs
in digits.
"""

import argparse
import hashlib
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch

from evaluate_scorecards import generated, substituted
from generator_common import DATA, cached, mp_20, save, subset
from matmill.crystals.batch import CrystalBatch, concatenate
from matmill.crystals.magpie import magpie_scaler
from matmill.verify import coverage as fingerprints
from matmill.verify.presets import PRESETS
from matmill.verify.samples import as_samples
from matmill.verify.scorecard.checks import checks
from matmill.verify.scorecard.coverage import coverage
from matmill.verify.scorecard.distributions import distributions
from matmill.verify.scorecard.subject import Subject

LIMIT = 1e-6
NOTHING = np.full(fingerprints.N_STRUCTURE, np.nan)  # of a crystal that has no fingerprint
PEER = Path(__file__).with_name("metric_agreement_peer.py")


def jittered(batch, seed, *, strain, step_a, scale=(1.0, 1.0)):
    """Return crystals with strained cells, atoms moved at random, and lengths scaled."""
    rng = np.random.default_rng(seed)
    lattice = batch.lattice.double().clone()
    frac = batch.frac_coords.double().clone()
    for i in range(len(batch)):
        change = np.eye(3) + strain * rng.standard_normal((3, 3))
        lattice[i] = lattice[i] @ torch.from_numpy(change) * rng.uniform(*scale)
        atoms = batch.atoms_of(i)
        n_atoms = int(batch.n_atoms[i])
        step = torch.from_numpy(step_a * rng.standard_normal((n_atoms, 3)))
        frac[atoms] = (frac[atoms] + step @ torch.linalg.inv(lattice[i])) % 1.0
    return CrystalBatch(
        lattice=lattice,
        frac_coords=frac,
        atomic_numbers=batch.atomic_numbers,
        n_atoms=batch.n_atoms,
    )


def crystals(arguments):
    """Return the reference and the samples."""
    start, n = arguments.reference, arguments.samples
    known = subset(mp_20("test", arguments.data), start + n, 0, "agreement")
    counts = [round(share * n) for share in (0.4, 0.3, 0.2)]
    rattled = known.select(torch.arange(start, start + counts[1]))
    squeezed = known.select(torch.arange(start + n // 2, start + n // 2 + n - sum(counts)))
    made = cached(
        arguments.work / f"flow-{counts[0]}-{arguments.seed}.safetensors",
        lambda: generated("flow", counts[0], arguments.seed),
    )
    parts = [
        made,
        jittered(rattled, arguments.seed, strain=0.01, step_a=0.05),
        substituted(mp_20("test", arguments.data), counts[2], arguments.seed),
        jittered(squeezed, arguments.seed + 1, strain=0.02, step_a=0.3, scale=(0.4, 1.1)),
    ]
    plain = [bare(part) for part in (known.select(torch.arange(start)), *parts)]
    return plain[0], concatenate(plain[1:])


def bare(batch):
    """Return the crystals alone, in double precision."""
    return CrystalBatch(
        lattice=batch.lattice.double(),
        frac_coords=batch.frac_coords.double(),
        atomic_numbers=batch.atomic_numbers,
        n_atoms=batch.n_atoms,
    )


def ask_peer(reference, samples, arguments):
    """Return what the other libraries say; kept between runs on the same crystals."""
    files = arguments.work / "crystals.npz", arguments.work / "answers.npz"
    mean, std = magpie_scaler().numpy()
    given = {"mean": mean, "std": std}
    for name, batch in (("reference", reference), ("samples", samples)):
        given |= {
            f"{name}_lattice": batch.lattice.numpy(),
            f"{name}_frac": batch.frac_coords.numpy(),
            f"{name}_numbers": batch.atomic_numbers.numpy(),
            f"{name}_n_atoms": batch.n_atoms.numpy(),
        }
    if files[1].exists() and files[0].exists():
        kept = np.load(files[0])
        if all(np.array_equal(kept[key], value) for key, value in given.items()):
            return dict(np.load(files[1]))
    np.savez(files[0], **given)
    subprocess.run([arguments.peer_python, PEER, *files], check=True)
    return dict(np.load(files[1]))


def own(reference, samples, groups=(checks, coverage, distributions)):
    """Return our numbers by key, and the subject."""
    rules = PRESETS["cdvae"]
    rules = rules.model_copy(
        update={"distributions": rules.distributions.model_copy(update={"draws": None})}
    )
    subject = Subject(samples=as_samples(samples), protocol=rules, test=reference)
    numbers = {}
    for group in groups:
        numbers |= {number.key: number for number in group(subject).numbers}
    return numbers, subject


def keys_of(batch):
    """Return what tells the crystals of a batch apart: a hash of all their numbers."""
    found = []
    for i in range(len(batch)):
        atoms = batch.atoms_of(i)
        parts = (batch.lattice[i], batch.frac_coords[atoms], batch.atomic_numbers[atoms])
        found.append(hashlib.sha256(b"".join(x.numpy().tobytes() for x in parts)).hexdigest())
    return found


@contextmanager
def kept(work):
    """Keep the fingerprints that the scorecard makes on its way, also between runs.

    Each crystal costs a fifth of a second, on either side.
    """
    make, file = fingerprints.structure_fingerprints, work / "ours.npz"
    seen = dict(np.load(file)) if file.exists() else {}
    n_before = len(seen)

    def watched(batch, **options):
        keys = keys_of(batch)
        new = [i for i, key in enumerate(keys) if key not in seen]
        if new:
            made = make(batch.select(new), **options).numpy()
            seen.update({keys[i]: row for i, row in zip(new, made, strict=True)})
            if len(seen) % 50 == 0:
                np.savez(file, **seen)
                print(f"ours: {len(seen)} fingerprints", flush=True)
        return torch.from_numpy(np.stack([seen[key] for key in keys]))

    fingerprints.structure_fingerprints = watched
    try:
        yield seen
    finally:
        fingerprints.structure_fingerprints = make
        if len(seen) > n_before:
            np.savez(file, **seen)


def fed_with(theirs, reference, samples):
    """Return how far our COV is from the peer's when it gets the peer's structure prints."""
    sides = [
        (
            torch.from_numpy(theirs[f"{name}_structure"]),
            fingerprints.composition_fingerprints(batch),
        )
        for name, batch in (("samples", samples), ("reference", reference))
    ]
    rows = []
    for metric in fingerprints.coverage(*sides):
        key = metric.name.split(" ")[0].lower().replace("-", "_")
        rows.append((f"{key}, on the peer's prints", abs(metric.value - float(theirs[key]))))
    return rows


def largest(mine, theirs):
    """Return the largest difference of two arrays, infinite where only one has a number."""
    mine, theirs = np.asarray(mine, dtype=float), np.asarray(theirs, dtype=float)
    if not np.array_equal(np.isnan(mine), np.isnan(theirs)):
        return float("inf")
    gap = np.abs(mine - theirs)
    return float(np.nanmax(gap)) if np.isfinite(gap).any() else 0.0


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--peer-python", required=True, help="interpreter with matminer and smact")
    parser.add_argument("--reference", type=int, default=400)
    parser.add_argument("--samples", type=int, default=600)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--ours", action="store_true", help="make our numbers, ask nobody, stop")
    parser.add_argument(
        "--finished",
        action="store_true",
        help="make no fingerprints: compare those that are kept, and COV on the peer's",
    )
    parser.add_argument("--orbits", action="store_true", help="compare one site of each orbit too")
    parser.add_argument("--data", type=Path, default=DATA)
    parser.add_argument("--work", type=Path, default=Path("work/agreement"))
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    reference, samples = crystals(arguments)
    arguments.work.mkdir(parents=True, exist_ok=True)
    theirs = None if arguments.ours else ask_peer(reference, samples, arguments)
    begin = time.process_time()
    with kept(arguments.work) as seen:
        groups = (
            (checks, distributions) if arguments.finished else (checks, coverage, distributions)
        )
        numbers, subject = own(reference, samples, groups)
    spent = time.process_time() - begin
    if theirs is None:
        return
    prints = {
        name: np.array([seen.get(key, NOTHING) for key in keys_of(batch)])
        for name, batch in (("reference", reference), ("samples", samples))
    }
    rows = []
    for name, batch in (("reference", reference), ("samples", samples)):
        raw = fingerprints.composition_fingerprints(batch).numpy()
        answers = theirs[f"{name}_structure"]
        if arguments.finished:
            done = [key in seen for key in keys_of(batch)]
            prints[name], answers = prints[name][done], answers[done]
        label = f"{name}: {len(answers)} structure prints"
        rows.append((label, largest(prints[name], answers)))
        scaled = np.abs(raw) + 1.0  # melting points are thousands: relative where numbers are large
        rows.append(
            (f"{name}: Magpie", largest(raw / scaled, theirs[f"{name}_composition"] / scaled))
        )
    kinds = np.array([kind != "invalid" for kind in subject.kinds])
    rows.append(
        ("geometry valid, crystals apart", np.sum(subject.is_sound.numpy() != theirs["geometry"]))
    )
    rows.append(("composition valid, crystals apart", np.sum(kinds != theirs["composition"])))
    keys = ("cov_r", "cov_p", "amsd_r", "amsd_p", "amcd_r", "amcd_p", "w1_density", "w1_n_elements")
    keys = [key for key in keys if key in numbers]
    for key in keys:
        rows.append((key, abs(numbers[key].value - float(theirs[key]))))
    if arguments.finished:
        rows += fed_with(theirs, reference, samples)
    shares = {"geometry": theirs["geometry"], "composition": theirs["composition"]}
    for key, good in shares.items():
        rows.append((f"share {key}", abs(numbers[key].value - float(np.mean(good)))))
    for label, gap in rows:
        print(f"{label:<34} {float(gap):.2e}")
    for key in keys:
        print(f"{key:<16} {numbers[key].value:.9g} {float(theirs[key]):.9g}")
    print(f"our numbers took {spent:.0f} CPU s, without the fingerprints that were kept")
    worst = max(float(gap) for _, gap in rows)
    report = {
        "command": " ".join(sys.argv),
        "differences": {label: float(gap) for label, gap in rows},
        "ours": {key: numbers[key].value for key in keys},
        "theirs": {key: float(theirs[key]) for key in keys},
        "largest": worst,
    }
    if arguments.orbits:
        few = fingerprints.structure_fingerprints(reference).numpy()
        gaps = np.abs(few - prints["reference"]).max(1)
        median, most = float(np.nanmedian(gaps)), float(np.nanmax(gaps))
        report["orbits"] = {"median": median, "largest": most}
        print(f"one site of each orbit: median {median:.1e}, largest {most:.1e}")
    if arguments.out:
        save(report, arguments.out)
    print(f"largest difference {worst:.2e}")
    sys.exit(0 if worst <= LIMIT else 1)


if __name__ == "__main__":
    main()
