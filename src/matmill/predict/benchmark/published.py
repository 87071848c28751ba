"""Published scores of other programs on the same tasks, to print beside ours.

Source:
    Matbench v0.1 leaderboards by task, state of January 2024 (Dunn et al., 2020, and the authors
    of each entry): mean over the five official folds. Error bars are the standard deviation over
    folds where the leaderboard gives it. The listed AUC are those of hard labels (they equal the
    balanced accuracy), so they are compared with our balanced accuracy.
"""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Score:
    """One line of a leaderboard.

    Attributes:
        model: Name of the program.
        value: MAE in the task's unit, or balanced accuracy of classification tasks.
        spread: Standard deviation over the folds; None where it is not stated.
    """

    model: str
    value: float
    spread: float | None = None


def _scores(text: str) -> tuple[Score, ...]:
    found = []
    for entry in text.split(","):
        model, _, rest = entry.strip().rpartition(" ")
        value, _, spread = rest.partition("±")
        found.append(
            Score(model=model, value=float(value), spread=float(spread) if spread else None)
        )
    return tuple(found)


SCORES: dict[str, tuple[Score, ...]] = {
    "jdft2d": _scores(
        "MODNet 33.19±7.34, coNGN 36.17, coGN 37.17, AMMExpress 39.85, SchNet 42.66, ALIGNN 43.42, "
        "DeeperGATGNN 45.46, DimeNet++ 49.02, CGCNN 49.24±11.59, RF-Magpie 50.04, MegNet 54.17, "
        "dummy 67.29"
    ),
    "phonons": _scores(
        "MegNet 28.76, coNGN 28.89, ALIGNN 29.54, coGN 29.71, DeeperGATGNN 33.12, MODNet 34.28, "
        "DimeNet++ 37.46, SchNet 38.96, AMMExpress 56.17, CGCNN 57.76±12.31, RF-Magpie 67.61, "
        "dummy 323.98"
    ),
    "dielectric": _scores(
        "MODNet 0.2711±0.0714, coGN 0.3088, coNGN 0.3142, AMMExpress 0.3150, SchNet 0.3277, "
        "DeeperGATGNN 0.3355, MegNet 0.3391, DimeNet++ 0.3400, ALIGNN 0.3449, RF-Magpie 0.4196, "
        "CGCNN 0.5988, dummy 0.8088"
    ),
    "log_gvrh": _scores(
        "coNGN 0.0670, coGN 0.0689, ALIGNN 0.0715, MODNet 0.0731, AMMExpress 0.0874, CGCNN 0.0895, "
        "DeeperGATGNN 0.0903, RF-Magpie 0.1040, dummy 0.2931"
    ),
    "log_kvrh": _scores(
        "coNGN 0.0491, coGN 0.0535, MODNet 0.0548, ALIGNN 0.0568, AMMExpress 0.0647, CGCNN 0.0712, "
        "RF-Magpie 0.0820, dummy 0.2897"
    ),
    "perovskites": _scores(
        "coGN 0.0269, ALIGNN 0.0288, DeeperGATGNN 0.0288, coNGN 0.0290, CGCNN 0.0452, "
        "MODNet 0.0908, AMMExpress 0.2005, RF-Magpie 0.2355, dummy 0.5660"
    ),
    "expt_gap": _scores(
        "Darwin 0.2865, Ax/SAASBO CrabNet 0.3310, MODNet 0.3327, CrabNet 0.3463, "
        "AMMExpress 0.4161, RF-Magpie 0.4461, dummy 1.1435"
    ),
    "expt_is_metal": _scores(
        "Darwin 0.9598, AMMExpress 0.9209, RF-Magpie 0.9167, MODNet 0.9161, dummy 0.4924"
    ),
    "glass": _scores("MODNet 0.9603, AMMExpress 0.8607, RF-Magpie 0.8587, dummy 0.5005"),
    "steels": _scores(
        "TPOT-Mat 79.95, MODNet 87.76, AMMExpress 97.49, RF-Magpie 103.51, dummy 229.74"
    ),
}


def rank(task: str, value: float, *, is_classification: bool) -> tuple[int, int] | None:
    """Return the place that a score would take, and of how many; None without published scores.

    Dummies do not count.
    """
    listed = [score.value for score in SCORES.get(task, ()) if score.model != "dummy"]
    if not listed:
        return None
    better = sum(other > value if is_classification else other < value for other in listed)
    return better + 1, len(listed) + 1
