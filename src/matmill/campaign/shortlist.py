"""Which of the screened candidates are worth relaxing: the cheap looks before the expensive one.

Three rungs, each ten times dearer than the one before and given to fewer: the energy of the
crystal as it was proposed, a coarse relaxation of a few steps, the full relaxation. At each rung
candidates are scored by the predicted targets, the energy above the hull so far, and whether
oxidation states balance, and the best go on. The others stay in the pool for later rounds.
"""

import math
from collections import Counter
from typing import Any

import torch

from matmill.campaign.job import Job
from matmill.campaign.plan import HULL_COLUMN
from matmill.campaign.ranking import satisfaction
from matmill.campaign.records import Candidate, Evaluation, Row
from matmill.campaign.relaxation import (
    Relaxation,
    SinglePoint,
    Task,
    cut,
    evaluator_hash,
    fate_of_error,
    run_tasks,
)
from matmill.campaign.workers import Outcome
from matmill.crystals.batch import CrystalBatch
from matmill.predict.protocol import predict_many
from matmill.verify.charges import smact_valid
from matmill.verify.verdict import Fate


def shortlist(job: Job, round_number: int, n: int) -> None:
    """Choose ``n`` candidates of the pool for relaxation, best first.

    Args:
        job: The campaign.
        round_number: Kept with the choice: the relaxation of a round treats its own shortlist.
        n: How many to choose, those that this round chose before a kill included.
    """
    store, stage = job.store, "shortlist"
    chosen_before = any(
        c.values.get("shortlist_round") == round_number
        for c in store.candidates(store.entrants("relax"))
    )
    pool = store.candidates(store.unfinished(stage))
    if chosen_before or not pool:
        return
    energies = _single_points(job, round_number, pool)
    first = _look(
        job,
        pool,
        store.batch([c.structure for c in pool]),
        energies,
        scale=job.settings.raw_hull_scale_ev_per_atom,
    )
    hopeless = [i for i in range(len(pool)) if math.isnan(first[i]["energy_above_hull"])]
    rows = [
        Row(candidate=pool[i].number, fate=fate, reason=fate.explanation)
        for i in hopeless
        for fate in [_objection(energies[i])]
    ]
    order = _best_first(pool, first, set(range(len(pool))) - {*hopeless})
    picks = [pool[i] for i in order]
    looks = {pool[i].number: first[i] for i in order}
    if job.settings.coarse_steps:
        picks = _varied(job, picks, math.ceil(n * job.settings.coarse_per_relaxation))
        picks, looks, fallen = _second_look(job, round_number, picks, looks)
        rows += fallen
    picks = _varied(job, picks, n)
    raw = {c.number: energy for c, energy in zip(pool, energies, strict=True)}
    atoms = {c.number: int(k) for c, k in zip(pool, _sizes(job, pool), strict=True)}
    for candidate in picks:
        look = looks[candidate.number]
        energy = raw[candidate.number] / atoms[candidate.number]
        values = {
            "shortlist_round": round_number,
            "shortlist_score": look["score"],
            "raw_energy_ev_per_atom": energy,
            "n_coarse_steps": look.get("steps", 0),
        }
        rows.append(Row(candidate=candidate.number, structure=look.get("structure"), values=values))
    store.finish(stage, rows)
    job.tell(stage, len(pool), len(pool), chosen=len(picks))


def _varied(job: Job, picks: list[Candidate], n: int) -> list[Candidate]:
    """Return the first ``n``, but few of one formula as long as there are others."""
    formulas = job.store.batch([c.proposed for c in picks]).formula
    limit = max(2, math.ceil(n * job.settings.formula_share))
    seen: Counter[str] = Counter()
    first, rest = [], []
    for candidate, formula in zip(picks, formulas, strict=True):
        seen[formula] += 1
        (first if seen[formula] <= limit else rest).append(candidate)
    return [*first, *rest][:n]


def _single_points(job: Job, round_number: int, pool: list[Candidate]) -> list[float]:
    """Return energies in eV of the pool's crystals as proposed, NaN where that failed.

    As in `relaxation`, tasks are cut from all that this round screened, so a resumed run computes
    the same batches; what was paid before is not paid again.
    """
    store = job.store
    key = evaluator_hash("single-point", job.parts.potential_hash)
    mine = store.candidates(store.entrants("shortlist", round_number=round_number))
    ids = [c.structure for c in mine]
    known = store.evaluations(key, ids)
    tasks = cut([c.number for c in mine], store.batch(ids), job.settings.chunk_atoms)
    tasks = [task for task in tasks if not all(s in known for s in task.structures)]
    done, total = 0, sum(len(task.candidates) for task in tasks)

    def keep(task: Task, outcome: Outcome) -> None:
        nonlocal done
        results = outcome.value or [{}] * len(task.structures)
        seconds = outcome.seconds / len(task.structures)
        found = [
            Evaluation(
                structure=structure, status=outcome.error or "ok", values=values, seconds=seconds
            )
            for structure, values in zip(task.structures, results, strict=True)
        ]
        store.finish("shortlist", [], evaluator=key, evaluations=found)
        done += len(task.candidates)
        job.tell("single points", done, total)

    work = SinglePoint(job.parts.make_potential)
    run_tasks(job, work, tasks, keep)
    paid = store.evaluations(key, [c.structure for c in pool])
    energies = [paid[c.structure].values.get("energy_ev") for c in pool]
    return [math.nan if energy is None else energy for energy in energies]


def _second_look(
    job: Job, round_number: int, picks: list[Candidate], looks: dict[int, dict[str, Any]]
) -> tuple[list[Candidate], dict[int, dict[str, Any]], list[Row]]:
    """Relax a few steps and score again; return the order, the scores, and who fell."""
    store = job.store
    settings = job.settings.relax.model_copy(update={"max_steps": job.settings.coarse_steps})
    key = evaluator_hash("coarse", job.parts.potential_hash, settings)
    ids = [c.structure for c in picks]
    known = store.evaluations(key, ids)
    # Earlier rounds have paid for some; this round, before a kill, perhaps for others. Only the
    # former are left out of the cut, so that the tasks stay the same.
    mine = [
        c
        for c in picks
        if c.structure not in known or known[c.structure].values["round"] == round_number
    ]
    batch = store.batch([c.structure for c in mine])
    tasks = cut([c.number for c in mine], batch, job.settings.chunk_atoms)
    tasks = [task for task in tasks if not all(s in known for s in task.structures)]
    tasks.reverse()
    done, total = 0, sum(len(task.candidates) for task in tasks)

    def keep(task: Task, outcome: Outcome) -> None:
        nonlocal done
        _write_coarse(job, task, outcome, key, round_number)
        done += len(task.candidates)
        job.tell("coarse relax", done, total)

    work = Relaxation(job.parts.make_potential, settings)
    run_tasks(job, work, tasks, keep)
    paid = store.evaluations(key, ids)
    rows, alive = [], []
    for candidate in picks:
        found = paid[candidate.structure]
        if found.status in (Fate.PASSED, Fate.NOT_CONVERGED) and found.result is not None:
            alive.append(candidate)
            continue
        if found.status in set(Fate):
            fate, reason = Fate(found.status), Fate(found.status).explanation
        else:
            fate, reason = fate_of_error(found.status), found.status
        rows.append(Row(candidate=candidate.number, fate=fate, reason=reason))
    results = [str(paid[c.structure].result) for c in alive]
    energies = [paid[c.structure].values["energy_ev"] for c in alive]
    scale = job.settings.coarse_hull_scale_ev_per_atom
    second = _look(job, alive, store.batch(results), energies, scale=scale)
    for candidate, look, structure in zip(alive, second, results, strict=True):
        steps = paid[candidate.structure].values["n_relax_steps"]
        looks[candidate.number] = {**look, "structure": structure, "steps": steps}
    order = _best_first(alive, second, set(range(len(alive))))
    return [alive[i] for i in order], looks, rows


def _write_coarse(job: Job, task: Task, outcome: Outcome, key: str, round_number: int) -> None:
    if outcome.error is not None:
        batch = None
        found = [
            Evaluation(structure=s, status=outcome.error, values={"round": round_number})
            for s in task.structures
        ]
    else:
        batch, records = outcome.value
        seconds = outcome.seconds / len(records)
        found = [
            Evaluation(
                structure=before,
                status=record["fate"],
                result=after,
                values={
                    "round": round_number,
                    "energy_ev": record["energy_ev"],
                    "n_relax_steps": record["n_relax_steps"],
                },
                seconds=seconds,
            )
            for before, after, record in zip(task.structures, batch.hashes, records, strict=True)
        ]
    job.store.finish("shortlist", [], structures=batch, evaluator=key, evaluations=found)


def _look(
    job: Job,
    candidates: list[Candidate],
    batch: CrystalBatch,
    energies: list[float],
    *,
    scale: float,
) -> list[dict[str, Any]]:
    """Return the energy above the hull (eV/atom) and the score of each candidate so far."""
    if not candidates:
        return []
    above = job.parts.hull.energy_above(torch.tensor(energies, dtype=torch.float64), batch)
    targets = [t for t in job.request.parsed if t.column != HULL_COLUMN]
    wanted = [job.parts.predictors[column] for column in {t.column: None for t in targets}]
    predictions = predict_many(batch, wanted) if wanted else {}
    balanced = smact_valid(batch, mixed_valence=True).tolist()
    looks = []
    for i, distance in enumerate(above.tolist()):
        values: dict[str, Any] = {}
        for column, prediction in predictions.items():
            values[column] = prediction.mean[i].item()
            values[f"{column}_std"] = prediction.std[i].item()
        near = 0.0 if math.isnan(distance) else math.exp(-max(distance, 0.0) / scale)
        factor = 1.0 if balanced[i] else job.settings.unbalanced_factor
        looks.append(
            {
                "energy_above_hull": distance,
                "score": satisfaction(targets, values) * near * factor,
            }
        )
    return looks


def _best_first(
    candidates: list[Candidate], looks: list[dict[str, Any]], alive: set[int]
) -> list[int]:
    return sorted(alive, key=lambda i: (-looks[i]["score"], candidates[i].number))


def _objection(energy: float) -> Fate:
    return Fate.HULL_LACKS_ELEMENT if math.isfinite(energy) else Fate.FAILED


def _sizes(job: Job, pool: list[Candidate]) -> list[int]:
    return job.store.batch([c.structure for c in pool]).n_atoms.tolist()
