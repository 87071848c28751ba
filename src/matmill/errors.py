"""Errors that a caller can act on: what was given, what was expected, what to do."""

from difflib import get_close_matches


class MatmillError(Exception):
    """Base of every error that matmill raises on purpose."""


class InputError(MatmillError, ValueError):
    """The caller gave something that cannot be used."""


class DataError(MatmillError):
    """A file or table is broken or lacks something."""


class StoreError(MatmillError):
    """A campaign store cannot be opened, or belongs to another campaign."""


class UnknownNameError(MatmillError, LookupError):
    """Nobody registered this name.

    Args:
        kind: What was looked for, e.g. ``"generator"``.
        name: The name that was given.
        known: All names that would have worked.
    """

    def __init__(self, kind: str, name: str, known: list[str]) -> None:
        close = get_close_matches(name, known, n=1)
        hint = f" Did you mean '{close[0]}'?" if close else ""
        listing = ", ".join(known) if known else "none"
        super().__init__(f"No {kind} called '{name}'.{hint} Known: {listing}.")


class MissingExtraError(MatmillError, ImportError):
    """An optional package is needed; the message has the pip command."""
