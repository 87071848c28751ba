"""Structure prediction: does the sample meant for a crystal match it? Match rate, RMSE, METRe."""

from collections import defaultdict

import numpy as np

from matmill.crystals.batch import CrystalBatch
from matmill.crystals.matching import Matcher
from matmill.errors import InputError
from matmill.verify.patience import patiently
from matmill.verify.samples import as_samples
from matmill.verify.scorecard.findings import Findings
from matmill.verify.scorecard.number import Number, mean_of, share_of
from matmill.verify.scorecard.subject import Subject
from matmill.verify.statuses import Status

_UNIT = "in units of (volume / atom)^(1/3)"


def prediction(subject: Subject) -> Findings:
    """Return match rates with and without the validity gate, and the polymorph-aware scores."""
    if not subject.is_prediction:
        return Findings()
    truth = subject.test
    if truth is None:
        raise InputError("--csp needs --test, the crystals that were to be predicted.")
    aims = targets(subject, truth)
    distances, failed = _distances(subject, truth)
    subject.mark(list(failed), Status.MATCHER_TIMEOUT, list(failed.values()))
    own = np.full(len(truth), np.inf)
    gated = np.full(len(truth), np.inf)
    best = np.full(len(truth), np.inf)
    both = _truth_valid(subject, truth)
    gate = subject.protocol.prediction.gate
    for (i, j), rms in distances.items():
        best[j] = min(best[j], rms)
        if aims[i] == j:
            own[j] = min(own[j], rms)
            if bool(subject.is_valid[i]) and (gate == "prediction" or both[j]):
                gated[j] = min(gated[j], rms)
    stol, seed = subject.protocol.prediction.stol, subject.seed
    k = max(1, round(len(subject.samples.entries) / len(truth)))
    wording = f"best of {k}" if k > 1 else "one sample each"
    gate_name = "prediction valid" if gate == "prediction" else "both valid"
    numbers = [
        _rate("csp_match", f"match rate ({wording})", own),
        _rmse("csp_rmse", "RMSE of the matches", own, seed),
        _crmse("csp_crmse", "cRMSE, a miss counts the tolerance", own, stol, seed),
        _rate("csp_match_gated", f"match rate, {gate_name}", gated),
        _rmse("csp_rmse_gated", f"RMSE of the matches, {gate_name}", gated, seed),
        _rate("metre", "METRe: any sample of the formula matches", best),
        _crmse("metre_crmse", "cRMSE of METRe", best, stol, seed),
    ]
    if gate != "none":  # the gated ones are the headline of that protocol
        numbers = [*numbers[3:5], *numbers[:3], *numbers[5:]]
    rms_own = [distances.get((i, aim), np.nan) for i, aim in enumerate(aims)]
    return Findings(numbers=numbers, columns={"rms_to_target": rms_own})


def targets(subject: Subject, truth: CrystalBatch) -> list[int]:
    """Return the test crystal that each crystal is meant for.

    By id where every id of the test set occurs among the samples; otherwise by order, round after
    round of the whole test set.

    Raises:
        InputError: If neither works.
    """
    names = [subject.samples.entries[int(e)].name for e in subject.samples.place]
    if truth.ids and len(set(truth.ids)) == len(truth) and set(names) <= set(truth.ids):
        row_of = {name: row for row, name in enumerate(truth.ids)}
        return [row_of[name] for name in names]
    n, n_truth = subject.samples.n_requested, len(truth)
    if n % n_truth:
        raise InputError(
            f"--csp: {n} samples are no whole number of rounds of the {n_truth} test crystals, and "
            "their ids are not those of the test set."
        )
    return [int(entry) % n_truth for entry in subject.samples.place]


def _distances(
    subject: Subject, truth: CrystalBatch
) -> tuple[dict[tuple[int, int], float], dict[int, str]]:
    """Return the RMS of every sample and test crystal of one formula that match."""
    tolerance = subject.protocol.prediction.tolerance
    mine, theirs = Matcher(subject.batch, tolerance), Matcher(truth, tolerance)
    rows_of: dict[str, list[int]] = defaultdict(list)
    for row, formula in enumerate(theirs.formulas):
        rows_of[formula].append(row)
    rows = range(len(subject.batch))

    def search(part: list[int]) -> list[dict[tuple[int, int], float]]:
        answers = []
        for i in part:
            found = {}
            for j in rows_of.get(mine.formulas[i], []):
                rms = mine.rms(i, j, other=theirs)
                if rms is not None:
                    found[i, j] = rms
            answers.append(found)
        return answers

    answers, failed = patiently(search, rows, on_done=subject.reporter("match", len(rows)))
    return {pair: rms for found in answers.values() for pair, rms in found.items()}, failed


def _truth_valid(subject: Subject, truth: CrystalBatch) -> list[bool]:
    """Return which test crystals are valid by the protocol."""
    judge = Subject(samples=as_samples(truth), protocol=subject.protocol)
    return judge.is_valid.tolist()


def _rate(key: str, label: str, rms: np.ndarray) -> Number:
    return share_of(key, label, int(np.isfinite(rms).sum()), len(rms), "of the test set")


def _rmse(key: str, label: str, rms: np.ndarray, seed: int) -> Number:
    return mean_of(key, label, rms, "matches", seed=seed, note=_UNIT)


def _crmse(key: str, label: str, rms: np.ndarray, stol: float, seed: int) -> Number:
    values = np.where(np.isfinite(rms), rms, stol)
    return mean_of(key, label, values, "of the test set", seed=seed, note=_UNIT)
