"""Judges: predictors that had no part in making what they are asked about.

What steers a generator, or ranks what it made, cannot say whether it hit: crystals that exploit its
errors look best to it. A judge is of another family and learned from other crystals; where both say
"hit", the two would have to err alike. The judges that ship carry crystals of known value that
neither has seen, with what both say of them.
"""

from pathlib import Path

import torch
from torch import Tensor

from matmill.errors import InputError, UnknownNameError
from matmill.predict.protocol import Predictor, load_file
from matmill.quantities import find
from matmill.training import checkpoint

SHIPPED = Path(__file__).parents[1] / "assets" / "judges"
KNOWN = "known"
"""Under which the file of a judge holds ``truth``, ``judge`` and ``steering`` of known crystals."""


def judge_names() -> list[str]:
    """Return the properties that a shipped judge is there for, sorted."""
    return sorted(path.stem for path in SHIPPED.glob("*.safetensors"))


def load_judge(name_or_path: str | Path) -> tuple[Predictor, dict[str, Tensor]]:
    """Return a judge, and the crystals of known value that it carries.

    Args:
        name_or_path: A property for the judge that ships, or the file of any predictor.

    Returns:
        The judge; and ``truth``, ``judge`` and ``steering``, each ``(n,)`` float64 in the unit of
        its column, empty for a file without.

    Raises:
        InputError: If it is the predictor that ships, which judges itself.
        UnknownNameError: If no judge ships for the property.
        DataError: If the file is missing or damaged.
    """
    text = str(name_or_path)
    file = checkpoint.weights_path(Path(text))
    if not text.endswith(".safetensors") and not file.is_file():
        try:
            name = find(text).name
        except UnknownNameError as error:
            raise UnknownNameError("judge", text, judge_names()) from error
        file = SHIPPED / f"{name}.safetensors"
        if not file.is_file():
            raise UnknownNameError("judge", name, judge_names())
    judge = load_file(file)
    tensors, _ = checkpoint.load(file)
    head = f"{KNOWN}."
    known = {
        key.removeprefix(head): values.clone().to(torch.float64)
        for key, values in tensors.items()
        if key.startswith(head)
    }
    return judge, known


def check_independent(steering: Predictor, judge: Predictor) -> None:
    """Check that a judge is not the predictor that it judges.

    Raises:
        InputError: If both have the same weights, or predict another property.
    """
    hashes = [p.card.get("weights_sha256") for p in (steering, judge)]
    if hashes[0] is not None and hashes[0] == hashes[1]:
        raise InputError(
            "The judge is the predictor that steers: it would agree with itself. Give another one."
        )
    if steering.column != judge.column:
        raise InputError(
            f"The judge predicts {judge.column}, but the target is about {steering.column}."
        )
