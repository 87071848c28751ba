"""Runs the stages of a campaign in order, as many rounds as it takes, from wherever it stopped."""

import math
import time
from dataclasses import dataclass

from matmill.campaign.budget import PROPOSALS, RELAXATIONS, BudgetSpentError
from matmill.campaign.job import Job
from matmill.campaign.records import PASSED
from matmill.campaign.relaxation import Relaxation, relax_round
from matmill.campaign.shortlist import shortlist
from matmill.campaign.stages import hull, novelty, predict, propose, screen
from matmill.progress import Event

# Fewest crystals of a round that are proposed and relaxed: smaller rounds are mostly overhead.
_MIN_PROPOSALS = 32
_MIN_RELAXATIONS = 4
_SAFETY = 1.3  # relax a little more than the yield says
_DRY_ROUNDS = 3  # rounds without a new hit, after which more of the same is no use


@dataclass(frozen=True, slots=True, kw_only=True)
class Round:
    """Size of one round, decided before it starts and stored, so that a resumed run keeps it.

    Attributes:
        propose: Crystals to ask of the generator.
        relax: Crystals to relax.
    """

    propose: int
    relax: int


def run_rounds(job: Job) -> str:
    """Run rounds until enough crystals qualify, and return why the run stopped.

    A round that was begun before a kill is finished with the size it had; so is one that a spent
    budget stopped, once there is a larger one.
    """
    try:
        return _run_rounds(job)
    except BudgetSpentError as reason:
        return str(reason)


def _run_rounds(job: Job) -> str:
    job.workers.prepare(Relaxation(job.parts.make_potential, job.settings.relax))
    started = time.monotonic()
    number = 0
    while True:
        rounds = stored_rounds(job)
        if number == len(rounds):
            reason = _reason_to_stop(job, rounds, time.monotonic() - started)
            if reason:
                return reason
            rounds.append(_next_round(job, rounds))
            job.store.set_settings(rounds=[[r.propose, r.relax] for r in rounds])
        if job.store.setting("rounds_done") is None or job.store.setting("rounds_done") <= number:
            run_round(job, number, rounds[number])
            job.store.set_settings(rounds_done=number + 1, hits=[*_hits(job), n_qualified(job)])
        number += 1


def run_round(job: Job, number: int, size: Round) -> None:
    """Run or finish one round; every stage skips what is done."""
    steps = (
        ("propose", lambda: propose(job, number, size.propose)),
        ("screen", lambda: screen(job, number)),
        ("shortlist", lambda: shortlist(job, number, size.relax)),
        ("relax", lambda: relax_round(job, number)),
        ("hull", lambda: hull(job, number)),
        ("novelty", lambda: novelty(job, number)),
        ("predict", lambda: predict(job, number)),
    )
    for name, run in steps:
        job.spend_time()
        with job.timed(name, number):
            run()
    job.spend_time()
    n, wanted = n_qualified(job), job.request.n
    message = f"round {number + 1}"
    job.on_event(Event(stage="found", done=min(n, wanted), total=wanted, message=message))


def n_qualified(job: Job) -> int:
    """Return how many candidates passed every check so far."""
    return sum(c.fate == PASSED and c.stage == "predict" for c in job.store.candidates())


def stored_rounds(job: Job) -> list[Round]:
    """Return the sizes of the rounds that were begun."""
    return [Round(propose=p, relax=r) for p, r in job.store.setting("rounds") or []]


def _hits(job: Job) -> list[int]:
    return job.store.setting("hits") or []


def _reason_to_stop(job: Job, rounds: list[Round], seconds: float) -> str:
    hits, settings = _hits(job), job.settings
    if n_qualified(job) >= job.request.n:
        return "enough"
    if len(rounds) >= settings.max_rounds:
        return f"{settings.max_rounds} rounds were run"
    if settings.max_minutes is not None and seconds > 60.0 * settings.max_minutes:
        return f"{settings.max_minutes:g} minutes were over"
    if job.budget is not None and job.budget.spent():
        return job.budget.spent()
    if len(hits) > _DRY_ROUNDS and hits[-1] == hits[-1 - _DRY_ROUNDS]:
        return f"{_DRY_ROUNDS} rounds in a row found nothing new"
    return ""


def _next_round(job: Job, rounds: list[Round]) -> Round:
    """Size the next round by what the ones before it yielded, within what the budget has left."""
    size = _wanted_round(job, rounds)
    if job.budget is None:
        return size
    propose = min(size.propose, job.budget.left(PROPOSALS))
    return Round(propose=int(propose), relax=int(min(size.relax, job.budget.left(RELAXATIONS))))


def _wanted_round(job: Job, rounds: list[Round]) -> Round:
    request, settings, store = job.request, job.settings, job.store
    if not rounds:
        return Round(
            propose=max(_MIN_PROPOSALS, math.ceil(request.n * settings.proposals_per_wanted)),
            relax=max(_MIN_RELAXATIONS, math.ceil(request.n * settings.relaxations_per_wanted)),
        )
    hits, n_relaxed = n_qualified(job), len(store.entrants("relax"))
    hit_rate = (hits + 1) / (n_relaxed + 2)
    n_relax = math.ceil(_SAFETY * (request.n - hits) / hit_rate)
    # Bounded by the first round, so that bad luck there does not make a giant second one.
    n_relax = min(max(n_relax, _MIN_RELAXATIONS), 2 * rounds[0].relax)
    # The pool of earlier rounds are those that were not chosen: new proposals, which follow the
    # compositions that did well, are worth more, so every round has its full choice of them.
    choice = settings.proposals_per_wanted / settings.relaxations_per_wanted
    n_propose = max(_MIN_PROPOSALS, math.ceil(n_relax * choice))
    return Round(propose=min(n_propose, 2 * rounds[0].propose), relax=n_relax)
