"""The stages of one round: propose, screen, shortlist, relax, hull, novelty, predict.

Each is a function of the store: it reads what is not done, writes results and verdicts, and may
be killed at any moment. Running it again finishes what is left and changes nothing else.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch

from matmill.campaign.budget import PROPOSALS
from matmill.campaign.focus import formulas_to_follow
from matmill.campaign.job import Job
from matmill.campaign.plan import generation_request
from matmill.campaign.records import PASSED, Candidate, Row
from matmill.crystals.batch import CrystalBatch, concatenate
from matmill.crystals.composition import element_counts
from matmill.crystals.elements import SYMBOLS
from matmill.predict.protocol import predict_many
from matmill.quantities import BY_COLUMN
from matmill.randomness import child
from matmill.verify.validity import check, smallest_distance
from matmill.verify.verdict import Fate


def propose(job: Job, round_number: int, n: int) -> None:
    """Ask the generator for ``n`` crystals, in calls that are stored one by one."""
    size = job.settings.task_size
    n_done = 0
    job.tell("propose", 0, n)
    focus = formulas_to_follow(job, round_number)
    for task, start in enumerate(range(0, n, size)):
        n_task = min(size, n - start)
        if not job.store.has_task(round_number, task):
            rng = child(job.request.seed, "propose", round_number, task)
            asked = generation_request(
                job.request, job.settings, job.parts.generator.card, n=n_task
            )
            if focus and task % 3:
                place = round_number + task - task // 3
                asked = replace(asked, formula=focus[place % len(focus)])
            seen = n_done

            def show(finished: CrystalBatch) -> None:
                nonlocal seen
                seen += len(finished)
                job.tell("propose", seen, n)

            job.pay(PROPOSALS, f"{round_number}/{task}", n_task)
            batch = job.parts.generator.sample(asked, rng, on_batch=show)
            job.store.add(
                batch, round_number=round_number, task=task, origin=job.parts.generator.name
            )
        n_done += n_task
        job.tell("propose", n_done, n)


def screen(job: Job, round_number: int) -> None:
    """Drop what cannot be a crystal, was not asked for, or came before."""
    waiting = _waiting(job, "screen", round_number)
    if not waiting:
        return
    batch = job.store.batch([c.structure for c in waiting])
    job.tell("screen", 0, len(batch))
    fates = check(batch, job.settings.limits)
    fates = [fate or own for fate, own in zip(fates, _not_as_requested(job, batch), strict=True)]
    alive = [i for i, fate in enumerate(fates) if fate is None]
    before = job.store.candidates(job.store.entrants("shortlist"))
    firsts = _firsts(job, before, [waiting[i] for i in alive], batch.select(alive))
    distance = torch.full((len(batch),), torch.nan, dtype=torch.float64)
    if alive:
        distance[alive] = smallest_distance(batch.select(alive))
    rows = []
    for i, candidate in enumerate(waiting):
        fate = fates[i] or Fate.PASSED
        reason = "" if fate is Fate.PASSED else fate.explanation
        if candidate.number in firsts:
            fate, reason = Fate.DUPLICATE, f"Same crystal as candidate {firsts[candidate.number]}."
        values = {"smallest_distance_a": distance[i].item()}
        rows.append(Row(candidate=candidate.number, fate=fate, reason=reason, values=values))
    job.store.finish("screen", rows)
    job.tell("screen", len(rows), len(rows), kept=_kept(rows))


def hull(job: Job, round_number: int) -> None:
    """Compare relaxed crystals with the reference hull."""
    waiting = _waiting(job, "hull", round_number)
    if not waiting:
        return
    reference = job.parts.hull
    batch = job.store.batch([c.structure for c in waiting])
    energy = torch.tensor([c.values["energy_ev"] for c in waiting], dtype=torch.float64)
    above = reference.energy_above(energy, batch).tolist()
    competitors = reference.n_competitors(batch).tolist()
    limit = job.request.hull_threshold_ev_per_atom
    rows = []
    for candidate, distance, n in zip(waiting, above, competitors, strict=True):
        fate, reason = Fate.PASSED, ""
        if distance != distance:
            fate, reason = Fate.HULL_LACKS_ELEMENT, Fate.HULL_LACKS_ELEMENT.explanation
        elif distance > limit:
            fate = Fate.ABOVE_HULL
            reason = f"{distance:.3f} eV/atom above {reference.name}; the limit is {limit:g}."
        values = {
            "energy_above_hull_ev_per_atom": distance,
            "hull_name": reference.name,
            "n_competitors": n,
        }
        rows.append(Row(candidate=candidate.number, fate=fate, reason=reason, values=values))
    job.store.finish("hull", rows)
    job.tell("hull", len(rows), len(rows), within_limit=_kept(rows))


def novelty(job: Job, round_number: int) -> None:
    """Drop crystals that relaxed into one another, and name those that are known."""
    waiting = _waiting(job, "novelty", round_number)
    if not waiting:
        return
    job.tell("novelty", 0, len(waiting))
    batch = job.store.batch([c.structure for c in waiting])
    new = {c.number for c in waiting}
    relaxed = job.store.candidates(job.store.entrants("novelty"))
    before = [c for c in relaxed if c.number not in new and c.values.get("fate_novelty") == PASSED]
    firsts = _firsts(job, before, waiting, batch)
    known = job.parts.find_known(batch)
    rows = []
    for candidate, match in zip(waiting, known, strict=True):
        fate, reason = Fate.PASSED, ""
        if candidate.number in firsts:
            fate = Fate.DUPLICATE
            reason = f"Relaxed into the same crystal as candidate {firsts[candidate.number]}."
        values: dict[str, Any] = {
            "known_as": match[0] if match else None,
            "known_is_confirmed": match[1] if match else None,
            "fate_novelty": str(fate),
        }
        rows.append(Row(candidate=candidate.number, fate=fate, reason=reason, values=values))
    job.store.finish("novelty", rows)
    n_novel = sum(row.values["known_as"] is None for row in rows)
    job.tell("novelty", len(rows), len(rows), unique=_kept(rows), novel=n_novel)


def predict(job: Job, round_number: int) -> None:
    """Predict properties of relaxed crystals, with standard deviations and intervals."""
    waiting = _waiting(job, "predict", round_number)
    if not waiting:
        return
    job.tell("predict", 0, len(waiting))
    batch = job.store.batch([c.structure for c in waiting])
    values = predicted_values(job, batch)
    rows = [
        Row(candidate=candidate.number, values=found)
        for candidate, found in zip(waiting, values, strict=True)
    ]
    job.store.finish("predict", rows)
    job.tell("predict", len(rows), len(rows))


def predicted_values(job: Job, batch: CrystalBatch) -> list[dict[str, Any]]:
    """Return all properties of each crystal by column, those that are predicted with suffixes.

    Beside a predicted column stand ``_std``, ``_low``, ``_high`` and ``_in_domain``; a computed
    one stands alone.
    """
    found: list[dict[str, Any]] = [{} for _ in range(len(batch))]
    predictions = predict_many(batch, list(job.parts.predictors.values()))
    for column, prediction in predictions.items():
        fields = {"": prediction.mean}
        if not BY_COLUMN[column].exact:
            fields |= {
                "_std": prediction.std,
                "_low": prediction.low,
                "_high": prediction.high,
                "_in_domain": prediction.in_domain,
            }
        for suffix, values in fields.items():
            for record, value in zip(found, values.tolist(), strict=True):
                record[column + suffix] = value
    return found


def _waiting(job: Job, stage: str, round_number: int) -> list[Candidate]:
    """Return the candidates that wait for a stage; screening looks at one round only."""
    own = round_number if stage == "screen" else None
    return job.store.candidates(job.store.unfinished(stage, round_number=own))


def _kept(rows: Sequence[Row]) -> int:
    return sum(row.fate == PASSED for row in rows)


def _firsts(
    job: Job, before: Sequence[Candidate], new: Sequence[Candidate], batch: CrystalBatch
) -> dict[int, int]:
    """Return {candidate: earlier candidate that is the same crystal} for the new ones."""
    if not new:
        return {}
    # Only crystals of a composition that occurs among the new ones can be the same.
    formulas = set(batch.formula)
    earlier = job.store.batch([c.structure for c in before])
    near = [i for i, formula in enumerate(earlier.formula) if formula in formulas]
    numbers = [before[i].number for i in near] + [c.number for c in new]
    first = job.parts.first_of_each(concatenate([earlier.select(near), batch]))
    return {numbers[i]: numbers[j] for i, j in enumerate(first) if i != j and i >= len(near)}


def _not_as_requested(job: Job, batch: CrystalBatch) -> list[Fate | None]:
    """Return NOT_AS_REQUESTED for crystals with other elements, composition or size."""
    request = job.request
    counts = element_counts(batch)
    symbols = [{SYMBOLS[z] for z in row.nonzero().flatten().tolist()} for row in counts]
    fates: list[Fate | None] = []
    for i, present in enumerate(symbols):
        wrong = bool(present & {*request.exclude})
        wrong |= request.elements is not None and not present <= {*request.elements}
        if request.counts is not None:
            unit = {s: int(counts[i, SYMBOLS.index(s)]) for s in present}
            share = int(batch.n_atoms[i]) / sum(request.counts.values())
            wrong |= unit != {s: n * share for s, n in request.counts.items()}
        if request.n_atoms is not None:
            wrong |= not request.n_atoms[0] <= int(batch.n_atoms[i]) <= request.n_atoms[1]
        fates.append(Fate.NOT_AS_REQUESTED if wrong else None)
    return fates
