"""The best few checkpoints of a training, by validation score."""

from pathlib import Path

from torch import Tensor

from matmill.errors import DataError
from matmill.training import checkpoint


def keep_best(
    folder: Path, weights: dict[str, Tensor], *, step: int, scores: dict[str, float], n: int
) -> list[Path]:
    """Write ``folder/step-NUMBER`` and remove all but the ``n`` best of the folder.

    Args:
        folder: Holds nothing but these checkpoints.
        weights: The averaged weights.
        step: When they were scored.
        scores: ``"rank"`` orders them, lower is better; the rest is for people.
        n: How many to keep; of equal ones the earlier.

    Returns:
        The checkpoints that are left, the best first.
    """
    card = {"kind": "matmill scored weights", "step": step, "scores": scores}
    checkpoint.save(folder / f"step-{step:08d}", weights, card)
    ranked = []
    for path in folder.glob("step-*.safetensors"):
        try:
            _, found = checkpoint.load(path, recover=True)
        except DataError:
            continue
        ranked.append((found["scores"]["rank"], found["step"], path))
    ranked.sort()
    for *_, path in ranked[n:]:
        path.unlink(missing_ok=True)
        checkpoint.card_path(path).unlink(missing_ok=True)
    return [path for *_, path in ranked[:n]]
