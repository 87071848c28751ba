"""Workers by name: what ``--workers`` accepts."""

from matmill.campaign.workers import MEMORY_GB, TIMEOUT_S, InlineWorkers, LocalWorkers, Workers
from matmill.errors import InputError


def open_workers(
    text: str, *, timeout_s: float = TIMEOUT_S, memory_gb: float = MEMORY_GB
) -> Workers:
    """Return the workers that a text names.

    Args:
        text: A number of local processes (``"0"``: one a core), ``"inline"`` for this process
            alone, ``"ray"`` for a Ray cluster on this machine, ``"ray:2"`` for one of two
            workers, or the address of a running one, ``"ray://host:port"``.
        timeout_s: Longest time a task may take, in seconds.
        memory_gb: Largest resident memory of a worker, in GB.

    Raises:
        InputError: If it names nothing.
        MissingExtraError: If Ray is not installed.
    """
    if text == "inline":
        return InlineWorkers()
    if text.isdecimal():
        return LocalWorkers(int(text), timeout_s=timeout_s, memory_gb=memory_gb)
    kind, _, number = text.partition(":")
    if kind == "ray" and (text == "ray" or number.isdecimal() or number.startswith("//")):
        from matmill.campaign.ray_workers import RayWorkers

        return RayWorkers(
            int(number) if number.isdecimal() else 0,
            address=text if number.startswith("//") else None,
            timeout_s=timeout_s,
            memory_gb=memory_gb,
        )
    raise InputError(
        f"--workers '{text}' is neither a number of processes, 'inline', 'ray', 'ray:2' nor "
        "'ray://host:port'."
    )
