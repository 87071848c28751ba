"""The structure matcher: are its verdicts pymatgen's, and how much faster is it?

    python benchmarks/matching.py agree --pairs 100000 --work work/matching
    python benchmarks/matching.py crowded --formulas 100 --samples 100 --peer-formulas 5
    python benchmarks/matching.py csp --crystals 9046 --samples 20 --peer-crystals 200
    python benchmarks/matching.py spread --samples 10000 --peer-samples 500
    python benchmarks/matching.py index --sizes 10000 100000 1000000

agree: pairs of equal reduced formula from the given tables, at 0.2/0.3/5 and 0.3/0.5/10: fit both
ways round, and the rms at 0.3/0.5/10. pymatgen reduces its crystals itself. Done pairs are kept in
``--work``: the same command continues after a kill.

crowded: uniqueness of many samples of few formulas. csp: rms of many samples to each crystal.
spread: novelty of samples of many formulas. The peer is pymatgen's StructureMatcher, crystals
grouped by formula and each reduced once, on a subset that is stated; both are timed in this run,
reductions included, on the same pairs, and must give the same. Samples are given crystals, strained
and rattled.

index: time of a query against an index of reduced crystals. References beyond those at hand are the
same cells with the elements permuted at random.
"""

import argparse
import itertools
import json
import math
import sys
from collections import defaultdict
from pathlib import Path

import numpy as np
import torch

from generator_common import DATA, markdown, save
from matching_common import (
    Peer,
    by_formula,
    disturbed,
    keep_json,
    shown,
    table,
    timed,
    warm_up,
)
from matmill.crystals.batch import concatenate
from matmill.crystals.match_reduction import ReducedCrystals
from matmill.crystals.matching import CSP_TOLERANCE, Matcher, MatchStatus, MatchTolerance
from matmill.verify.structure_index import StructureIndex

SETTINGS = {"0.2/0.3/5": MatchTolerance(), "0.3/0.5/10": CSP_TOLERANCE}
POOLS = {
    # Share of the pairs; tables.
    "materials": (0.8, ("mp_union", "mpts_52", "novelty_reference", "wbm_sample")),
    "carbon": (0.15, ("carbon_24",)),
    "perovskites": (0.05, ("perov_5",)),
}
PIECE = 500


def chosen_pairs(batch, n, most_per_formula, rng):
    """Return random unordered pairs of equal formula."""
    pairs = []
    for members in by_formula(batch).values():
        if len(members) * (len(members) - 1) // 2 <= most_per_formula:
            pairs += itertools.combinations(members, 2)
        else:
            found = {
                tuple(sorted(rng.choice(members, 2, replace=False).tolist())) for _ in range(n)
            }
            pairs += sorted(found)[:most_per_formula]
    order = rng.permutation(len(pairs))[:n]
    return [pairs[k] for k in order]


def agree(arguments):
    """Compare verdicts, piece by piece."""
    rows, rng = [], np.random.default_rng(arguments.seed)
    batches = {}
    for pool, (share, tables) in POOLS.items():
        batch = concatenate([table(name, arguments.data) for name in tables])
        batch = batches[pool] = batch.select(batch.n_atoms <= arguments.max_atoms)
        n = math.ceil(share * arguments.pairs)
        pairs = chosen_pairs(batch, n, n if pool == "carbon" else 300, rng)
        for begin in range(0, len(pairs), PIECE):
            name = f"{pool}-{arguments.pairs}-{arguments.max_atoms}-{arguments.seed}-{begin}.json"
            file = arguments.work / "agree" / name
            if not file.exists():
                keep_json(judged(batch, pairs[begin : begin + PIECE]), file)
            rows.append({"pool": pool} | json.loads(file.read_text(encoding="utf-8")))
            done = sum(row["pairs"] for row in rows)
            wrong = sum(len(row["wrong"]) for row in rows)
            print(f"{pool}: {done} pairs, {wrong} disagreements", file=sys.stderr, flush=True)
    given_up, wrong = [], []
    for part in rows:
        for case in part["wrong"]:
            again, verdict = without_limit(batches[part["pool"]], case)
            given_up.append([*case, verdict])
            wrong += [] if again else [case]
    total = {"jobs": {}, "given up at the default limit": given_up, "wrong": wrong}
    for job in rows[0]["jobs"]:
        parts = [row["jobs"][job] for row in rows]
        total["jobs"][job] = {key: sum(part[key] for part in parts) for key in parts[0]}
    total["pairs"] = {p: sum(r["pairs"] for r in rows if r["pool"] == p) for p in POOLS}
    total["largest_rms_difference"] = max(row["largest_rms_difference"] for row in rows)
    print(f"{total['pairs']} pairs, {len(total['wrong'])} disagreements")
    pairs = {frozenset(case[1:3]) for case in given_up}
    print(f"{len(given_up)} comparisons of {len(pairs)} pairs needed more than the default limit")
    print(f"largest difference of an rms: {total['largest_rms_difference']:.1e}\n")
    cells = [[job, *values.values()] for job, values in total["jobs"].items()]
    print(markdown(["job", *total["jobs"][next(iter(total["jobs"]))]], shown(cells)))
    return total


def without_limit(batch, case):
    """Return whether a case agrees when the search may take as long as it needs, and its verdict.

    Crystals of many sites are given up by default, and then count as different.
    """
    job, first, second, _, theirs = case
    place = {name: row for row, name in enumerate(batch.ids)}
    part = batch.select([place[first], place[second]])
    name = "0.3/0.5/10" if job == "rms" else job.removeprefix("fit ")
    matcher = Matcher(part, SETTINGS[name], max_seconds=36_000.0)
    if job == "rms":
        found = float(matcher.distances([(0, 1)])[0])
        close = math.isnan(found) and math.isnan(theirs)
        return close or abs(found - theirs) <= (1e-5 if theirs < 1e-5 else 1e-6), found
    found = int(matcher.statuses([(0, 1)])[0])
    return found != MatchStatus.TIMEOUT and bool(found) == theirs, found


def judged(batch, pairs):
    """Return how often the two agree on these pairs."""
    chosen = sorted({i for pair in pairs for i in pair})
    place = {row: k for k, row in enumerate(chosen)}
    part = batch.select(chosen)
    pairs = [(place[a], place[b]) for a, b in pairs]
    ordered = pairs + [(b, a) for a, b in pairs]
    ours, seconds = timed(lambda: Matcher(part).reduced(range(len(part))))
    peer, peer_seconds = Peer(part, MatchTolerance()), 0.0
    _, peer_seconds = timed(lambda: [peer.structure(i) for i in range(len(part))])
    jobs = {"reduction": row(len(part), 0, 0, seconds, peer_seconds)}
    wrong, largest = [], 0.0
    for name, tolerance in SETTINGS.items():
        matcher, judge = Matcher(part, tolerance), Peer(part, tolerance)
        judge.kept = peer.kept
        matcher.reduced(range(len(part)))
        ours, seconds = timed(lambda m=matcher: m.statuses(ordered))
        theirs, peer_seconds = timed(lambda p=judge: [p.fit(i, j) for i, j in ordered])
        jobs[f"fit {name}"] = row(len(ordered), sum(theirs), matcher.n_asked, seconds, peer_seconds)
        wrong += [
            (f"fit {name}", part.ids[i], part.ids[j], int(a), b)
            for (i, j), a, b in zip(ordered, ours, theirs, strict=True)
            if a == MatchStatus.TIMEOUT or bool(a) != b
        ]
    matcher.n_asked = 0
    ours, seconds = timed(lambda: matcher.distances(pairs))
    theirs, peer_seconds = timed(lambda: [judge.rms(i, j) for i, j in pairs])
    found = sum(not math.isnan(b) for b in theirs)
    jobs["rms 0.3/0.5/10"] = row(len(pairs), found, matcher.n_asked, seconds, peer_seconds)
    for (i, j), a, b in zip(pairs, ours, theirs, strict=True):
        largest = max(largest, 0.0 if math.isnan(a - b) else abs(a - b))
        if math.isnan(a) != math.isnan(b) or abs(a - b) > (1e-5 if b < 1e-5 else 1e-6):
            wrong.append(("rms", part.ids[i], part.ids[j], float(a), b))
    return {"pairs": len(pairs), "jobs": jobs, "wrong": wrong, "largest_rms_difference": largest}


def row(n, matches, asked, seconds, peer_seconds):
    """Return one line of the comparison."""
    return {
        "compared": n,
        "matches": int(matches),
        "re-checked by pymatgen": asked,
        "CPU s": seconds,
        "peer CPU s": peer_seconds,
    }


def crowded(arguments):
    """Uniqueness of many samples of few formulas."""
    rng = np.random.default_rng(arguments.seed)
    mp = table("mp_20", arguments.data)
    rows = by_formula(mp)
    formulas = [sorted(rows)[k] for k in rng.permutation(len(rows))[: arguments.formulas]]
    picked = [int(rng.choice(rows[f])) for f in formulas for _ in range(arguments.samples)]
    batch = disturbed(mp.select(picked), rng)
    n_peer = arguments.peer_formulas * arguments.samples

    def ours(part):
        matcher = Matcher(part, n_threads=arguments.threads)
        return matcher.groups(), matcher.n_asked

    def theirs(part):
        peer, groups = Peer(part, MatchTolerance()), []
        for j in range(len(part)):
            mates = [g for g in groups if part.formula[g[0]] == part.formula[j]]
            home = next((group for group in mates if peer.fit(group[0], j)), None)
            groups.append([j]) if home is None else home.append(j)
        return sorted(groups)

    part = batch.select(range(n_peer))
    (small, _), seconds = timed(lambda: ours(part))
    (groups, asked), all_seconds = timed(lambda: ours(batch))
    expected, peer_seconds = timed(lambda: theirs(part))
    report = result(small == expected, n_peer, seconds, peer_seconds)
    return report | {
        "samples": len(batch),
        "groups": len(groups),
        "re-checked": asked,
        "CPU s, all": all_seconds,
    }


def csp(arguments):
    """The rms of many samples to each crystal."""
    rng = np.random.default_rng(arguments.seed)
    mp = table("mp_20", arguments.data)
    true = mp.select(rng.permutation(len(mp))[: arguments.crystals].tolist())
    rounds = [disturbed(true, rng) for _ in range(arguments.samples)]

    def ours(n):
        truth = Matcher(true.select(range(n)), CSP_TOLERANCE, n_threads=arguments.threads)
        pairs, found = [(i, i) for i in range(n)], []
        for made in rounds:
            found.append(truth.distances(pairs, other=Matcher(made.select(range(n)))))
        return np.array(found), truth.n_asked

    def theirs(n):
        truth = Peer(true, CSP_TOLERANCE)
        others = [Peer(made, CSP_TOLERANCE) for made in rounds]
        return np.array([[truth.rms(i, i, other) for i in range(n)] for other in others])

    n_peer = arguments.peer_crystals
    (small, _), seconds = timed(lambda: ours(n_peer))
    (whole, asked), all_seconds = timed(lambda: ours(len(true)))
    expected, peer_seconds = timed(lambda: theirs(n_peer))
    is_same = np.array_equal(np.isnan(small), np.isnan(expected))
    is_same &= bool((np.abs(small - expected)[np.isfinite(expected)] < 1e-5).all())
    return result(is_same, n_peer * len(rounds), seconds, peer_seconds) | {
        "samples": whole.size,
        "matches": int(np.isfinite(whole).sum()),
        "re-checked": asked,
        "CPU s, all": all_seconds,
    }


def spread(arguments):
    """Novelty of samples of many formulas: any match among the known ones of the formula."""
    rng = np.random.default_rng(arguments.seed)
    mp, known = table("mp_20", arguments.data), table("mp_union", arguments.data)
    batch = disturbed(mp.select(rng.permutation(len(mp))[: arguments.samples].tolist()), rng)
    rows = defaultdict(list)
    for i, formula in enumerate(known.formula):
        if known.n_atoms[i] <= arguments.max_atoms:
            rows[formula].append(i)

    def ours(n):
        mine = Matcher(batch.select(range(n)), n_threads=arguments.threads)
        theirs = Matcher(known)
        pairs = [(i, j) for i in range(n) for j in rows.get(batch.formula[i], [])]
        found = np.zeros(n, dtype=bool)
        hits = mine.statuses(pairs, other=theirs) == MatchStatus.SAME
        found[[i for (i, _), hit in zip(pairs, hits, strict=True) if hit]] = True
        return found, mine.n_asked

    def theirs(n):
        mine, other = Peer(batch, MatchTolerance()), Peer(known, MatchTolerance())
        mates = [rows.get(batch.formula[i], []) for i in range(n)]
        return np.array([any(mine.fit(i, j, other) for j in mates[i]) for i in range(n)])

    n_peer = arguments.peer_samples
    (small, _), seconds = timed(lambda: ours(n_peer))
    (whole, asked), all_seconds = timed(lambda: ours(len(batch)))
    expected, peer_seconds = timed(lambda: theirs(n_peer))
    return result(np.array_equal(small, expected), n_peer, seconds, peer_seconds) | {
        "samples": len(batch),
        "known": len(known),
        "found": int(whole.sum()),
        "re-checked": asked,
        "CPU s, all": all_seconds,
    }


def result(is_same, n, seconds, peer_seconds):
    """Return the comparison on the peer's subset."""
    return {
        "peer's subset": n,
        "same result": bool(is_same),
        "CPU s": seconds,
        "peer CPU s": peer_seconds,
        "ratio": peer_seconds / seconds,
    }


def index(arguments):
    """Time queries against indices of several sizes."""
    rng = np.random.default_rng(arguments.seed)
    mp = table("mp_20", arguments.data)
    first = StructureIndex(arguments.work / "index-real")
    if not len(first):
        first.add(mp.select(rng.permutation(len(mp))[:10_000].tolist()))
    asked = disturbed(mp.select(rng.integers(0, len(mp), arguments.samples).tolist()), rng)
    lines = []
    for size in arguments.sizes:
        folder = arguments.work / f"index-{size}"
        found, grow = timed(lambda s=size, f=folder: grown(first, f, s, rng))
        found, load = timed(lambda f=folder: StructureIndex(f))
        matches, query = timed(lambda i=found: i.matches(asked))
        hits = sum(match.status == MatchStatus.SAME for match in matches)
        lines.append([size, grow, load, 1e3 * query / len(asked), hits])
    head = ["references", "CPU s to write", "CPU s to open", "ms a query, reduction in", "found"]
    print(markdown(head, shown(lines)))
    return {"asked": len(asked), "lines": [dict(zip(head, line, strict=True)) for line in lines]}


def grown(first, folder, size, rng):
    """Fill an index with the crystals of another, elements permuted from the second copy on."""
    wanted = StructureIndex(folder)
    n = len(first)
    while len(wanted) < size:
        copy = len(wanted) // n
        known = first.crystals
        table = np.concatenate([[0], 1 + rng.permutation(94), np.arange(95, 119)])
        numbers = known.numbers if copy == 0 else table[known.numbers].astype(np.int16)
        owner = np.repeat(np.arange(n), np.diff(known.start))
        order = np.lexsort((numbers, owner))
        back = np.empty(len(order), dtype=np.int64)
        back[order] = np.arange(len(order))
        crystals = ReducedCrystals(
            lattice=known.lattice,
            frac=known.frac[order],
            numbers=numbers[order],
            start=known.start,
            length=known.length,
            minima=known.minima,
            edges=known.edges,
            anchor=back[known.start[:-1] + known.anchor] - known.start[:-1],
            status=known.status,
        )
        names = [f"{copy}:{key}" for key in first.ids]
        take = min(n, size - len(wanted))
        part = crystals.select(range(take))
        wanted.add_reduced(names[:take], part, first.prints[:take])


JOBS = {"agree": agree, "crowded": crowded, "csp": csp, "spread": spread, "index": index}


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("job", choices=JOBS)
    parser.add_argument("--pairs", type=int, default=2000, help="agree: pairs, at least")
    parser.add_argument("--formulas", type=int, default=100)
    parser.add_argument("--peer-formulas", type=int, default=2)
    parser.add_argument("--crystals", type=int, default=500)
    parser.add_argument("--peer-crystals", type=int, default=50)
    parser.add_argument("--samples", type=int, help="default 100, csp 20, spread and index 1000")
    parser.add_argument("--peer-samples", type=int, default=200)
    parser.add_argument("--sizes", type=int, nargs="+", default=[10_000, 100_000])
    parser.add_argument("--max-atoms", type=int, default=60, help="larger cells are left out")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--data", type=Path, default=DATA)
    parser.add_argument("--work", type=Path, default=Path("work/matching"))
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    usual = {"crowded": 100, "csp": 20, "spread": 1000, "index": 1000}
    arguments.samples = arguments.samples or usual.get(arguments.job, 0)
    compiled = warm_up()
    print(f"kernels ready after {compiled:.1f} s", file=sys.stderr)
    report = JOBS[arguments.job](arguments)
    if "ratio" in report:
        print(markdown(list(report), shown([list(report.values())])))
    report |= {"command": " ".join(sys.argv), "kernels_ready_s": compiled}
    if arguments.out:
        save(report, arguments.out)


if __name__ == "__main__":
    main()
