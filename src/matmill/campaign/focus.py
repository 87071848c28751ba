"""Which compositions deserve more proposals: those that came closest to the hull so far.

Near the hull, composition decides first and structure second. From the second round on two of
three calls of the generator therefore ask for one of the compositions that did best, whatever
they are; the third keeps looking elsewhere.
"""

from matmill.campaign.job import Job
from matmill.crystals.composition import parse_formula

MOST = 8  # compositions that are followed at the same time
_REACH = 2.0  # times the request's hull limit: near enough to hope for a better structure


def formulas_to_follow(job: Job, round_number: int) -> list[dict[str, int]]:
    """Return atoms by element of the best compositions before this round, best first.

    Only what earlier rounds relaxed counts, so a resumed round asks for the same again.
    """
    if job.request.formula is not None:
        return []
    found = [
        c
        for c in job.store.candidates(job.store.entrants("hull"))
        if c.values.get("shortlist_round", round_number) < round_number
        and c.values.get("energy_above_hull_ev_per_atom") is not None
    ]
    names = job.store.batch([c.structure for c in found]).formula
    best: dict[str, float] = {}
    for candidate, name in zip(found, names, strict=True):
        above = candidate.values["energy_above_hull_ev_per_atom"]
        best[name] = min(above, best.get(name, above))
    limit = _REACH * job.request.hull_threshold_ev_per_atom
    order = sorted((above, name) for name, above in best.items() if above <= limit)
    counts = [parse_formula(name) for _, name in order]
    return [unit for unit in counts if _fits(job, sum(unit.values()))][:MOST]


def _fits(job: Job, size: int) -> bool:
    low, high = job.request.n_atoms or (1, 20)
    high = min(high, job.parts.generator.card.get("max_atoms", high))
    return high // size * size >= low
