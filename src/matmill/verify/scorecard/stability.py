"""After relaxation: convergence, distance to the hull, SUN, and how far everything moved."""

import torch
from torch import Tensor

from matmill.verify.hull import FEW
from matmill.verify.joint_hull import energy_above_joint
from matmill.verify.scorecard.findings import Findings
from matmill.verify.scorecard.novelty import masks_of
from matmill.verify.scorecard.number import Number, mean_of
from matmill.verify.scorecard.subject import Subject

_RMSD_LABELS = {
    "aligned": "RMSD in relaxation, atom by atom",
    "mattergen": "RMSD in relaxation, by MatterGen's matcher",
    "lemat": "RMSE in relaxation, raw coordinates (LeMat-GenBench)",
}


def stability(subject: Subject) -> Findings:
    """Return what relaxation and the hull say; what cannot be relaxed counts as failed."""
    if not subject.n_relax:
        return Findings(notes=["stability, SUN and relaxation need --relax N or --relax all"])
    relaxed, n = subject.relaxation, len(subject.batch)
    rule = subject.protocol.stability
    above = relaxed.spread(relaxed.above_hull_ev_per_atom, n)
    converged = relaxed.spread(relaxed.converged, n)
    steps = relaxed.spread(relaxed.steps.double(), n)
    is_new, judged = newness(subject)

    def share(key: str, label: str, good: Tensor, note: str = "") -> Number:
        return subject.share(key, label, good, tried_only=True, note=note)

    numbers = [share("converged", "relaxation converges", converged)]
    hull = f"hull {relaxed.hull_name}"
    for limit in rule.limits_ev_per_atom:
        label = f"energy above hull ≤ {limit:g} eV/atom"
        numbers.append(share(f"stable_{limit:g}", label, above <= limit, hull))
    for limit in rule.limits_ev_per_atom:
        label = f"SUN@{limit:g}: stable, unique, novel"
        numbers.append(share(f"sun_{limit:g}", label, (above <= limit) & is_new, judged))
    n_known = subject.hull.n_competitors(subject.batch)
    joint = relaxed.spread(_above_joint(subject), n)
    symmetric = subject.space_groups(subject.protocol.symmetry.symprec_a)[0] != 1
    limit = rule.msun_ev_per_atom
    numbers += [
        share(
            "sun",
            f"SUN, stable at ≤ {rule.sun_ev_per_atom:g} eV/atom",
            (above <= rule.sun_ev_per_atom) & is_new,
            judged,
        ),
        share("msun", f"MSUN, stable at ≤ {limit:g} eV/atom", (above <= limit) & is_new, judged),
        share(
            "ssun",
            f"SUN@{limit:g} that is not P1 as generated",
            (above <= limit) & is_new & symmetric,
            judged,
        ),
        share(
            f"joint_{limit:g}",
            f"energy above the joint hull ≤ {limit:g} eV/atom",
            joint <= limit,
            "samples compete with each other as well as with known crystals",
        ),
        share(
            "thin_hull",
            f"fewer than {FEW} known crystals in the chemical system",
            (n_known < FEW) & relaxed.spread(torch.ones_like(relaxed.converged), n),
            "the hull may lie too high there: such crystals look too stable",
        ),
        _mean(subject, "above_hull", "energy above hull", above, "eV/atom"),
        _mean(
            subject,
            "drop",
            "energy drop in relaxation",
            relaxed.spread(relaxed.drop_ev_per_atom, n).where(converged, torch.nan),
            "eV/atom",
        ),
        *(
            _mean(subject, f"rmsd_{name}", _RMSD_LABELS[name], relaxed.spread(values, n), "Å")
            for name, values in relaxed.rmsd_a.items()
        ),
        _mean(subject, "steps", "relaxation steps", steps.where(converged, torch.nan), ""),
    ]
    return Findings(
        numbers=numbers,
        columns={
            "is_converged": converged,
            "n_relax_steps": steps,
            "energy_ev_per_atom": relaxed.spread(relaxed.energy_ev_per_atom, n),
            "energy_drop_ev_per_atom": relaxed.spread(relaxed.drop_ev_per_atom, n),
            "energy_above_hull_ev_per_atom": above,
            "unrelaxed_energy_above_hull_ev_per_atom": relaxed.spread(
                relaxed.single_point_above_hull_ev_per_atom, n
            ),
            "is_sun": (above <= rule.sun_ev_per_atom) & is_new,
            "is_msun": (above <= rule.msun_ev_per_atom) & is_new,
            "energy_above_joint_hull_ev_per_atom": joint,
            "n_competitors": n_known,
            "n_competitors_all": subject.hull.n_competitors(subject.batch, subsystems=True),
            "hull_name": _named(subject, relaxed.hull_name),
            "potential_name": _named(subject, relaxed.potential_name),
            **{f"rmsd_{k}_a": relaxed.spread(v, n) for k, v in relaxed.rmsd_a.items()},
        },
    )


def _above_joint(subject: Subject) -> Tensor:
    """Return the distance of each relaxed crystal to the hull of samples and known crystals."""
    relaxed = subject.relaxation
    # In the hull's own scheme, whatever the potential's: what it is above plus the hull's value.
    batch = relaxed.batch
    zero = torch.zeros(len(batch), dtype=torch.float64)
    per_atom = relaxed.above_hull_ev_per_atom - subject.hull.energy_above(zero, batch)
    return energy_above_joint(subject.hull, per_atom * batch.n_atoms, batch)


def _named(subject: Subject, name: str) -> list[str | None]:
    """Return a name for each crystal that was relaxed, None for the others."""
    rows = set(subject.relaxation.rows.tolist())
    return [name if i in rows else None for i in range(len(subject.batch))]


def newness(subject: Subject) -> tuple[Tensor, str]:
    """Return which crystals are unique and novel, and on which crystals that was judged."""
    n = len(subject.batch)
    if subject.protocol.matching.judged_on == "generated":
        return masks_of(subject.same, n)["unique_novel"], "new as generated"
    relaxed = subject.relaxation
    mask = masks_of(subject.same_relaxed, len(relaxed.batch))["unique_novel"]
    return relaxed.spread(mask, n), "new after relaxation"


def _mean(subject: Subject, key: str, label: str, values: Tensor, unit: str) -> Number:
    label = f"{label}, mean"
    return mean_of(key, label, values.double().numpy(), "converged", seed=subject.seed, unit=unit)
