"""Do samples that were asked for a property have it? By what steered them, and by a judge."""

from collections.abc import Sequence

import torch
from jaxtyping import Bool
from torch import Tensor

from matmill.crystals.batch import CrystalBatch
from matmill.verify.judging import Aim, Judge, Opinion, expected_hits, kappa, true_hits
from matmill.verify.patience import patiently
from matmill.verify.scorecard.findings import Findings
from matmill.verify.scorecard.number import Number, mean_of, share_of
from matmill.verify.scorecard.subject import Subject
from matmill.verify.signatures import Steering

_AT_ONCE = 500
_SECONDS_EACH = 10.0  # the first call loads weights


def targets(subject: Subject) -> Findings:
    """Return hits by both predictors, how far they agree, and what a hit is worth.

    Only crystals of valid geometry are shown to predictors; all others miss.
    """
    numbers: list[Number] = []
    columns: dict[str, Tensor | Sequence[object]] = {}
    notes: list[str] = []
    for aim in subject.aims:
        found = _one(subject, aim)
        numbers += found.numbers
        columns |= found.columns
        notes += found.notes
    return Findings(numbers=numbers, columns=columns, notes=notes)


def steering_of(subject: Subject) -> list[Steering]:
    """Return asked and unasked samples with the judges' values, for the test of no effect."""
    if subject.unasked is None:
        return []
    runs = []
    for aim in subject.aims:
        asked = _look(aim.judge, subject.batch, subject.is_sound)
        free = _look(aim.judge, subject.unasked, _all(subject.unasked))
        if bool(torch.isfinite(asked.mean).any()) and bool(torch.isfinite(free.mean).any()):
            run = Steering(name=aim.name, target=aim.center, asked=asked.mean, free=free.mean)
            runs.append(run)
    return runs


def _one(subject: Subject, aim: Aim) -> Findings:
    steering = _look(aim.steering, subject.batch, subject.is_sound)
    judge = _look(aim.judge, subject.batch, subject.is_sound)
    mine, theirs = aim.is_hit(steering.mean), aim.is_hit(judge.mean)
    key, where = aim.name, f"{aim.text}, in {aim.low:g} to {aim.high:g} {aim.unit}".rstrip()
    seen = torch.isfinite(steering.mean) & torch.isfinite(judge.mean)
    n_seen = int(seen.sum())
    numbers = [
        subject.share(f"hit_{key}", f"{where}: by what steers", mine, note=aim.steering.name),
        subject.share(f"hit_{key}_judge", f"{where}: by the judge", theirs, note=aim.judge.name),
        subject.share(f"hit_{key}_both", f"{where}: by both", mine & theirs),
        share_of(
            f"agree_{key}",
            "verdicts of both are equal",
            int((mine == theirs)[seen].sum()),
            n_seen,
            "seen by both",
            note=f"Cohen's kappa {kappa(mine[seen], theirs[seen]):.2f}; 0 is chance",
        ),
        mean_of(
            f"apart_{key}",
            "difference of both predictions, mean",
            (steering.mean - judge.mean).abs().numpy(),
            "seen by both",
            seed=subject.seed,
            unit=aim.unit,
        ),
        mean_of(
            f"hit_{key}_expected",
            "hits that the judge's own error bars support, share",
            expected_hits(judge, aim)[seen].numpy(),
            "seen by both",
            seed=subject.seed,
            note="mean chance to be in the range, errors taken as normal",
        ),
        share_of(
            f"domain_{key}_judge",
            "like what the judge learned from",
            int(judge.in_domain[seen].sum()),
            n_seen,
            "seen by both",
        ),
        *_worth(aim, subject.seed),
        *_unasked(subject, aim),
    ]
    columns = {
        f"{key}_steering": steering.mean,
        f"{key}_judge": judge.mean,
        f"{key}_judge_std": judge.std,
        f"is_hit_{key}": mine,
        f"is_hit_{key}_judge": theirs,
    }
    notes = [] if aim.known is not None else [f"{key}: no known crystals say what a hit is worth"]
    return Findings(numbers=numbers, columns=dict(columns), notes=notes)


def _worth(aim: Aim, seed: int) -> list[Number]:
    """Return errors on known crystals, and how many of those called hits are hits."""
    known = aim.known
    if known is None:
        return []
    key, of = aim.name, "known crystals, new to both"
    opinions = {"steering": known.steering, "judge": known.judge}
    wording = {"steering": "what steers", "judge": "the judge"}
    numbers = []
    for who, values in opinions.items():
        note = ""
        if who == "judge" and known.judge_coverage is not None:
            note = f"{100 * known.judge_coverage:.1f} % are inside its 90 % intervals"
        error = (values - known.truth).abs().numpy()
        label = f"error of {wording[who]}, mean absolute"
        numbers.append(
            mean_of(f"error_{key}_{who}", label, error, of, seed=seed, unit=aim.unit, note=note)
        )
    verdicts = {who: [aim.is_hit(values)] for who, values in opinions.items()}
    verdicts["both"] = [v for each in verdicts.values() for v in each]
    wording["both"] = "both"
    for who, given in verdicts.items():
        called, right, hits = true_hits(aim, known, given)
        numbers.append(
            share_of(
                f"true_{key}_{who}",
                f"hits by {wording[who]} that are hits",
                right,
                called,
                "known crystals called hits",
                note=f"of {hits} true hits among {len(known.truth)} it finds {right}",
            )
        )
    return numbers


def _unasked(subject: Subject, aim: Aim) -> list[Number]:
    """Return the hits among samples that nobody asked for anything."""
    if subject.unasked is None:
        return []
    numbers = []
    for who, judge in (("", aim.steering), ("_judge", aim.judge)):
        opinion = _look(judge, subject.unasked, _all(subject.unasked))
        hits = int(aim.is_hit(opinion.mean).sum())
        wording = "by the judge" if who else "by what steers"
        numbers.append(
            share_of(
                f"hit_{aim.name}{who}_unasked",
                f"unasked samples in the same range: {wording}",
                hits,
                len(subject.unasked),
                "unasked",
            )
        )
    return numbers


def _all(batch: CrystalBatch) -> Bool[Tensor, " n_crystals"]:
    return torch.ones(len(batch), dtype=torch.bool)


def _look(judge: Judge, batch: CrystalBatch, usable: Bool[Tensor, " n_crystals"]) -> Opinion:
    """Return an opinion of a whole batch; NaN where crystals are not shown or break the model."""

    def work(part: list[int]) -> list[tuple[float, float, bool]]:
        found = judge.look(batch.select(part))
        columns = (found.mean.tolist(), found.std.tolist(), found.in_domain.tolist())
        return list(zip(*columns, strict=True))

    rows = torch.nonzero(usable).flatten().tolist()
    found, _ = patiently(work, rows, seconds=_SECONDS_EACH, chunk=_AT_ONCE)
    nothing = (float("nan"), float("nan"), False)
    values = [found.get(i, nothing) for i in range(len(batch))]
    return Opinion(
        mean=torch.tensor([v[0] for v in values], dtype=torch.float64),
        std=torch.tensor([v[1] for v in values], dtype=torch.float64),
        in_domain=torch.tensor([v[2] for v in values], dtype=torch.bool),
    )
