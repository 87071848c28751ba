"""What became of each sample of an evaluation: one `Status` each, whatever happened to it."""

from enum import StrEnum

from matmill.verify.verdict import Fate


class Status(StrEnum):
    """The first thing that went wrong with a sample, in the order of the stages."""

    OK = "ok"
    PARSE_ERROR = "parse_error"
    INVALID_GEOMETRY = "invalid_geometry"
    SYMMETRY_FAILED = "symmetry_failed"
    MATCHER_TIMEOUT = "matcher_timeout"
    FINGERPRINT_FAILED = "fingerprint_failed"
    OUT_OF_DOMAIN = "out_of_domain"
    RELAX_DIVERGED = "relax_diverged"
    RELAX_MAXSTEPS = "relax_maxsteps"
    HULL_MISSING_ELEMENT = "hull_missing_element"

    @property
    def explanation(self) -> str:
        """One sentence for people."""
        return _EXPLANATIONS[self]


_EXPLANATIONS = {
    Status.OK: "Went through every stage that was asked for.",
    Status.PARSE_ERROR: "No crystal could be built: broken file, NaN, no cell, unknown element.",
    Status.INVALID_GEOMETRY: "Atoms too close, or a cell without room, by the protocol's rule.",
    Status.SYMMETRY_FAILED: "The search for a space group failed or took too long; counts as P1.",
    Status.MATCHER_TIMEOUT: "Comparing it took longer than the limit; counts as neither new "
    "nor unique.",
    Status.FINGERPRINT_FAILED: "No fingerprint could be made; it covers nothing.",
    Status.OUT_OF_DOMAIN: "Elements or a size that the potential was not made for.",
    Status.RELAX_DIVERGED: "Relaxation blew up, collapsed or had absurd forces.",
    Status.RELAX_MAXSTEPS: "Relaxation reached its step limit before the forces were small.",
    Status.HULL_MISSING_ELEMENT: "The hull has no reference for one of its elements.",
}

OF_FATE = {
    Fate.NOT_FINITE: Status.PARSE_ERROR,
    Fate.UNKNOWN_ELEMENT: Status.OUT_OF_DOMAIN,
    Fate.NOT_CONVERGED: Status.RELAX_MAXSTEPS,
}
"""Status of what relaxation, or the check before it, says; every other fate is a divergence."""


def of_fate(fate: Fate) -> Status:
    """Return the status that a fate of relaxation stands for."""
    return OF_FATE.get(fate, Status.RELAX_DIVERGED)
