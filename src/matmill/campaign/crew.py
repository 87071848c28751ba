"""Workers from what a user types after ``--workers``."""

from matmill.campaign.workers import TIMEOUT_S, LocalWorkers, Workers
from matmill.errors import InputError


def make_workers(text: str, *, timeout_s: float = TIMEOUT_S) -> Workers:
    """Return the workers that a text asks for.

    Args:
        text: ``"4"`` processes here, ``"0"`` one a core; ``"ray"`` or ``"ray:4"`` for a Ray
            cluster of our own on this machine; ``"ray://host:10001"`` for one elsewhere, and
            ``"ray:auto"`` for the one that this machine belongs to.
        timeout_s: Longest time a task may take, in seconds.

    Raises:
        InputError: If it is none of these, or the cluster cannot be reached.
        MissingExtraError: If Ray is not installed.
    """
    given = text.strip()
    if given.isdecimal():
        return LocalWorkers(int(given), timeout_s=timeout_s)
    if given == "ray" or given.startswith("ray:"):
        from matmill.campaign.ray_workers import RayWorkers

        rest = given.removeprefix("ray").removeprefix(":")
        if rest.startswith("//") and len(rest) > 2:
            return RayWorkers(address=given, timeout_s=timeout_s)
        if rest == "auto":
            return RayWorkers(address="auto", timeout_s=timeout_s)
        if not rest or rest.isdecimal():
            return RayWorkers(int(rest or 0), timeout_s=timeout_s)
    raise InputError(
        f"--workers '{text}' is unknown. Give a number of processes (0: one a core), ray, ray:4, "
        "ray://host:10001 or ray:auto."
    )
