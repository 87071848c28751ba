"""Which of the screened candidates are worth relaxing: the cheap look before the expensive one.

A relaxation costs about a hundred times a single energy. Candidates are scored as they were
proposed, by the predicted targets and by the energy above the hull of the unrelaxed crystal, and
the best go on. The others stay in the pool, and a later round may still take them.
"""

import math
from typing import Any

import torch

from matmill.campaign.job import Job
from matmill.campaign.plan import HULL_COLUMN
from matmill.campaign.ranking import satisfaction
from matmill.campaign.records import Candidate, Evaluation, Row
from matmill.campaign.relaxation import SinglePoint, Task, cut, evaluator_hash
from matmill.campaign.workers import Outcome
from matmill.predict.protocol import predict_many
from matmill.verify.verdict import Fate


def shortlist(job: Job, round_number: int, n: int) -> None:
    """Choose ``n`` candidates of the pool for relaxation, best first.

    Args:
        job: The campaign.
        round_number: Kept with the choice: the relaxation of a round treats its own shortlist.
        n: How many to choose, those that this round chose before a kill included.
    """
    store, stage = job.store, "shortlist"
    chosen_before = [
        c
        for c in store.candidates(store.entrants("relax"))
        if c.values.get("shortlist_round") == round_number
    ]
    if chosen_before:
        return
    pool = store.candidates(store.unfinished(stage))
    if not pool:
        return
    job.tell(stage, 0, len(pool))
    energies = _energies(job, round_number, pool)
    found = _look(job, pool, energies)
    order = sorted(range(len(pool)), key=lambda i: (-found[i]["shortlist_score"], pool[i].number))
    judged = [i for i in order if not math.isnan(found[i]["raw_energy_above_hull_ev_per_atom"])]
    rows = [
        Row(candidate=pool[i].number, values={**found[i], "shortlist_round": round_number})
        for i in judged[:n]
    ]
    rows += [
        Row(
            candidate=pool[i].number,
            fate=_objection(energies.get(pool[i].structure)),
            reason=_objection(energies.get(pool[i].structure)).explanation,
            values=found[i],
        )
        for i in order
        if math.isnan(found[i]["raw_energy_above_hull_ev_per_atom"])
    ]
    store.finish(stage, rows)
    job.tell(stage, len(pool), len(pool), chosen=len(judged[:n]))


def _objection(energy: float | None) -> Fate:
    is_known = energy is not None and math.isfinite(energy)
    return Fate.HULL_LACKS_ELEMENT if is_known else Fate.FAILED


def _look(
    job: Job, pool: list[Candidate], energies: dict[str, float | None]
) -> list[dict[str, Any]]:
    """Return scores of unrelaxed crystals, by column."""
    batch = job.store.batch([c.structure for c in pool])
    energy = torch.tensor(
        [math.nan if energies.get(c.structure) is None else energies[c.structure] for c in pool],
        dtype=torch.float64,
    )
    above = job.parts.hull.energy_above(energy, batch).tolist()
    targets = [t for t in job.request.parsed if t.column != HULL_COLUMN]
    wanted = [job.parts.predictors[column] for column in {t.column: None for t in targets}]
    predictions = predict_many(batch, wanted) if wanted else {}
    found = []
    for i, distance in enumerate(above):
        values: dict[str, Any] = {}
        for column, prediction in predictions.items():
            values[column] = prediction.mean[i].item()
            values[f"{column}_std"] = prediction.std[i].item()
        meets = satisfaction(targets, values)
        near = 0.0 if math.isnan(distance) else _nearness(job, distance)
        found.append(
            {
                "raw_energy_above_hull_ev_per_atom": distance,
                "raw_satisfaction": meets,
                "shortlist_score": meets * near,
            }
        )
    return found


def _nearness(job: Job, distance: float) -> float:
    return math.exp(-max(distance, 0.0) / job.settings.raw_hull_scale_ev_per_atom)


def _energies(job: Job, round_number: int, pool: list[Candidate]) -> dict[str, float | None]:
    """Return single-point energies in eV of the pool's crystals; paid ones are not paid again.

    As in `relaxation`, tasks are cut from all that this round screened, so a resumed run computes
    the same batches.
    """
    store = job.store
    key = evaluator_hash("single-point", job.parts.potential_hash)
    mine = store.candidates(store.entrants("shortlist", round_number=round_number))
    ids = [c.structure for c in mine]
    known = store.evaluations(key, ids)
    tasks = cut([c.number for c in mine], store.batch(ids), job.settings.chunk_atoms)
    tasks = [task for task in tasks if not all(s in known for s in task.structures)]
    done = len(pool) - sum(len(task.candidates) for task in tasks)

    def keep(position: int, outcome: Outcome) -> None:
        nonlocal done
        _write(job, tasks[position], outcome, key)
        done += len(tasks[position].candidates)
        job.tell("shortlist", done, len(pool))

    work = SinglePoint(job.parts.make_potential)
    job.workers.map(work, [store.batch(task.structures) for task in tasks], on_done=keep)
    paid = store.evaluations(key, [c.structure for c in pool])
    return {structure: e.values.get("energy_ev") for structure, e in paid.items()}


def _write(job: Job, task: Task, outcome: Outcome, key: str) -> None:
    if outcome.error is None:
        seconds = outcome.seconds / len(task.structures)
        results = [
            Evaluation(structure=structure, values=values, seconds=seconds)
            for structure, values in zip(task.structures, outcome.value, strict=True)
        ]
    else:
        results = [
            Evaluation(structure=structure, status=outcome.error) for structure in task.structures
        ]
    job.store.finish("shortlist", [], evaluator=key, evaluations=results)
