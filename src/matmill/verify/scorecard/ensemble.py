"""Several potentials on the same samples: how far they agree, and what all of them call stable."""

import torch

from matmill.verify.confidence import bootstrap
from matmill.verify.ensemble import vote
from matmill.verify.scorecard.findings import Findings
from matmill.verify.scorecard.number import Number
from matmill.verify.scorecard.stability import newness
from matmill.verify.scorecard.subject import Subject


def ensemble(subject: Subject) -> Findings:
    """Return votes, spread and robust stability; each potential relaxes by itself.

    Every potential is compared with the hull named beside it. Their spread is a lower bound of
    the uncertainty, as most of them learned from the same calculations.
    """
    if not subject.n_relax or not subject.others:
        return Findings()
    n, rule = len(subject.batch), subject.protocol.stability
    opinions = subject.opinions
    names = [opinion.potential_name for opinion in opinions]
    above = [opinion.spread(opinion.above_hull_ev_per_atom, n) for opinion in opinions]
    is_new, judged = newness(subject)
    numbers: list[Number] = []
    limits = dict.fromkeys((rule.sun_ev_per_atom, rule.msun_ev_per_atom))
    for limit in limits:
        for opinion, values in zip(opinions, above, strict=True):
            name = opinion.potential_name
            numbers.append(
                subject.share(
                    f"stable_{limit:g}_{name}",
                    f"energy above hull ≤ {limit:g} eV/atom by {name}",
                    values <= limit,
                    tried_only=True,
                    note=f"hull {opinion.hull_name}",
                )
            )
        votes = vote(above, names=names, limit_ev_per_atom=limit)
        everyone = f"all {len(names)} potentials, each against its own hull"
        numbers += [
            subject.share(
                f"robust_{limit:g}",
                f"robustly stable at ≤ {limit:g} eV/atom",
                votes.is_robust,
                tried_only=True,
                note=everyone,
            ),
            subject.share(
                f"robust_sun_{limit:g}",
                f"robustly stable at ≤ {limit:g} eV/atom, unique, novel",
                votes.is_robust & is_new,
                tried_only=True,
                note=judged,
            ),
        ]
    votes = vote(above, names=names, limit_ev_per_atom=rule.msun_ev_per_atom)
    spread = votes.std_ev_per_atom[torch.isfinite(votes.std_ev_per_atom)].numpy()
    low, high = bootstrap(spread, lambda v: float(v.mean()), seed=subject.seed)
    numbers.append(
        Number(
            key="spread",
            label="spread of the energy above hull between potentials, mean",
            value=float(spread.mean()) if len(spread) else float("nan"),
            low=low,
            high=high,
            denominator=len(spread),
            of="converged",
            unit="eV/atom",
            note="a lower bound of the uncertainty",
        )
    )
    return Findings(
        numbers=numbers,
        columns={
            **{
                f"energy_above_hull_ev_per_atom_{name}": values
                for name, values in zip(names, above, strict=True)
            },
            "energy_above_hull_mean_ev_per_atom": votes.mean_ev_per_atom,
            "energy_above_hull_std_ev_per_atom": votes.std_ev_per_atom,
            "n_potentials": votes.n_answers,
            "n_votes": votes.n_votes,
            "is_robustly_stable": votes.is_robust,
        },
        notes=[f"{o.potential_name} is compared with hull {o.hull_name}" for o in opinions],
    )
