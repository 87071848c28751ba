"""Workers from what a user types after ``--workers``."""

from matmill.campaign.workers import LocalWorkers, Workers
from matmill.errors import InputError


def make_workers(text: str) -> Workers:
    """Return the workers that a text asks for.

    Args:
        text: ``"4"`` processes here, ``"0"`` one a core; ``"ray"`` or ``"ray:4"`` for a Ray
            cluster of our own on this machine; ``"ray://host:10001"`` for one elsewhere, and
            ``"ray:auto"`` for the one that this machine belongs to.

    Raises:
        InputError: If it is none of these, or the cluster cannot be reached.
        MissingExtraError: If Ray is not installed.
    """
    given = text.strip()
    if given.isdecimal():
        return LocalWorkers(int(given))
    if given == "ray" or given.startswith("ray:"):
        from matmill.campaign.ray_workers import RayWorkers

        rest = given.removeprefix("ray").removeprefix(":")
        if rest.startswith("//") and len(rest) > 2:
            return RayWorkers(address=given)
        if rest == "auto":
            return RayWorkers(address="auto")
        if not rest or rest.isdecimal():
            return RayWorkers(int(rest or 0))
    raise InputError(
        f"--workers '{text}' is unknown. Give a number of processes (0: one a core), ray, ray:4, "
        "ray://host:10001 or ray:auto."
    )
