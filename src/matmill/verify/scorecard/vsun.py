"""One number for validity, stability, uniqueness and novelty, each as a degree: VSUN."""

import torch

from matmill.verify.continuous import UNSTABLE_EV_PER_ATOM, stability_scores, vsun_scores
from matmill.verify.scorecard.findings import Findings
from matmill.verify.scorecard.number import Number, mean_of
from matmill.verify.scorecard.subject import CONTINUOUS, Subject


def vsun(subject: Subject) -> Findings:
    """Return the mean of V·S·U·N over the samples whose relaxation was asked for.

    A sample without a crystal, an energy or a fingerprint scores 0 and stays in the denominator.
    Uniqueness and novelty are distances of the crystals as generated, within the whole set and to
    the training set.
    """
    if not subject.n_relax:
        return Findings()
    if subject.reference is None:
        return Findings(notes=["VSUN needs --reference: novelty is the distance to it"])
    n = len(subject.batch)
    relaxed = subject.relaxation
    stable = stability_scores(relaxed.spread(relaxed.above_hull_ev_per_atom, n))
    continuous = subject.continuous
    scores = vsun_scores(
        subject.is_valid, stable, continuous["uniqueness"], continuous["novelty"]
    ).masked_fill(~subject.tried, torch.nan)
    missing = subject.n_tried - int(subject.tried.sum())

    def mean(key: str, label: str, values: torch.Tensor, note: str) -> Number:
        padded = torch.cat([values[subject.tried], torch.zeros(missing, dtype=torch.float64)])
        return mean_of(key, label, padded.numpy(), "requested", seed=subject.seed, note=note)

    limit = f"1 on the hull, 0 from {UNSTABLE_EV_PER_ATOM:g} eV/atom on"
    return Findings(
        numbers=[
            mean("continuous_stability", "continuous stability", stable, limit),
            mean(
                "vsun",
                f"VSUN, continuous ({CONTINUOUS}), weights 1/1/1/1",
                scores,
                "product of validity, stability, uniqueness and novelty; not comparable with "
                "published VSUN, whose hull and potential are others",
            ),
        ],
        columns={"vsun": scores},
    )
