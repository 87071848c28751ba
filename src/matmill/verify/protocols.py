"""What a number was made with: immutable, named protocols, with an id that changes with any switch.

Two shares are comparable only when everything that decides them is the same. A `Protocol` holds
the switches; a `Basis` adds what they were applied with (reference sets, hull, potential, versions
of the libraries that decide) and has the id that every output carries. `presets` lists those that
ship.
"""

import hashlib
import json
from importlib.metadata import version
from typing import Annotated, Literal

from pydantic import Field

from matmill.config import Settings
from matmill.crystals.facts import Masses
from matmill.crystals.matching import MatchTolerance

REVISION = 2
"""Raised when a change of our code changes a number; part of every id."""

DECIDING = ("pymatgen-core", "spglib", "moyopy", "chgnet")
"""Libraries whose version can change a verdict."""


class GeometryRule(Settings):
    """When the geometry of a crystal is valid.

    Attributes:
        rule: ``"distance"``, one smallest distance for all; or ``"radii"``, a distance for each
            pair, ``radii_scale`` times (0.7 Å + both atomic radii).
        min_distance_a: Of the first rule, in Å; equality is valid.
        radii_scale: Of the second rule.
        self_images: Whether an atom's own periodic images count. Published codes leave them out.
        min_volume_a3: Smallest cell, in Å³.
        plausible: Also ask for 0.01 to 25 g/cm³, at most 0.5 atoms/Å³, a volume above 1 Å³ and
            edges of 1 to 100 Å.
    """

    rule: Literal["distance", "radii"] = "distance"
    min_distance_a: Annotated[float, Field(ge=0)] = 0.5
    radii_scale: Annotated[float, Field(ge=0)] = 0.5
    self_images: bool = True
    min_volume_a3: Annotated[float, Field(ge=0)] = 0.1
    plausible: bool = False


class CompositionRule(Settings):
    """When a composition is valid, by SMACT's rule.

    Attributes:
        table: Oxidation states, a table of `crystals.elements.oxidation_states`.
        alloys: Whether metals alone are valid without a test.
        mixed_valence: Whether atoms of one element may differ in charge.
        missing_electronegativity: What a neutral choice with an unknown electronegativity does.
        combination_limit: More combinations of states than this are invalid untested.
        counts: Whether an invalid composition makes a crystal invalid.
    """

    table: str = "icsd24"
    alloys: bool = True
    mixed_valence: bool = False
    missing_electronegativity: Literal["fails", "passes"] = "fails"
    combination_limit: int | None = None
    counts: bool = True


class SymmetryRule(Settings):
    """How space groups are found.

    Attributes:
        library: The two differ at equal tolerance.
        symprec_a: Tolerance in Å of the headline numbers.
        symprecs_a: All tolerances that are reported, in Å.
        angle_tolerance_degrees: Of spglib; moyopy derives its own.
    """

    library: Literal["moyopy", "spglib"] = "moyopy"
    symprec_a: float = 0.1
    symprecs_a: tuple[float, ...] = (1e-3, 1e-2, 1e-1)
    angle_tolerance_degrees: float = 5.0


class MatchRule(Settings):
    """When two crystals are the same, and which crystals are compared.

    Attributes:
        ltol: Relative tolerance on cell edges.
        stol: Tolerance on sites, in units of (volume / atom)^(1/3).
        angle_tol: Tolerance on angles in degrees.
        order: ``"input"``: the first crystal of its kind counts, in the order given.
        group_by: Only crystals that agree in this are compared.
        uniqueness: ``"first"``, the share that is the first of its kind; ``"pairs"``, one minus
            the share of pairs that match, which tends to 1 for large sets whatever they hold.
        judged_on: The crystals as generated, or after relaxation.
        among: Which crystals can be unique and novel at all; others fail.
    """

    ltol: float = 0.2
    stol: float = 0.3
    angle_tol: float = 5.0
    order: Literal["input"] = "input"
    group_by: Literal["reduced formula"] = "reduced formula"
    uniqueness: Literal["first", "pairs"] = "first"
    judged_on: Literal["generated", "relaxed"] = "generated"
    among: Literal["parsed", "geometry", "valid"] = "geometry"

    @property
    def tolerance(self) -> MatchTolerance:
        """The three tolerances as the matcher takes them."""
        return MatchTolerance(ltol=self.ltol, stol=self.stol, angle_tol=self.angle_tol)


class DistributionRule(Settings):
    """Which distributions are compared with a reference, and how.

    Attributes:
        draws: So many crystals drawn without replacement; None takes all.
        among: Which crystals are drawn from.
        against: Which set comes first as the reference; the other is used where it is missing.
        quantities: Compared by Wasserstein-1 distance.
        kernel: Compared by maximum mean discrepancy as well.
        masses: Whose atomic masses make the density; codes on pymatgen have its.
        space_group_distance: ``"jensen-shannon"`` of the shares, or ``"numbers"``, one minus a
            ratio of Wasserstein distances of space-group numbers (no crystallographic meaning).
    """

    draws: int | None = None
    among: Literal["parsed", "geometry", "valid"] = "geometry"
    against: Literal["test", "reference"] = "test"
    quantities: tuple[str, ...] = ("density", "volume_per_atom", "n_sites", "n_elements")
    kernel: tuple[str, ...] = ("density", "volume_per_atom")
    masses: Masses = "iupac-2016"
    space_group_distance: Literal["jensen-shannon", "numbers"] = "jensen-shannon"


class CoverageRule(Settings):
    """How near a crystal must be to be covered.

    Attributes:
        kind: ``"fingerprints"``: CDVAE's COV-R and COV-P; ``"matches"``: the number of samples
            that match a test crystal, over the number of test crystals.
        sites: ``"orbits"``: one site of each orbit of the valid crystals; ``"all"``: every site
            of every crystal, as in the original, to the last digit.
        structure_cutoff: Largest distance of structure fingerprints.
        composition_cutoff: Largest distance of standardised Magpie fingerprints.
    """

    kind: Literal["fingerprints", "matches"] = "fingerprints"
    sites: Literal["orbits", "all"] = "orbits"
    structure_cutoff: float = 0.4
    composition_cutoff: float = 10.0


class RelaxationRule(Settings):
    """How crystals are relaxed.

    Attributes:
        fmax_ev_per_a: Largest force left, atoms and cell.
        max_steps: After so many a crystal counts as not converged.
        optimizer: How steps are taken: crystals in rough country end in other valleys by another.
        max_atoms: Larger cells are not relaxed: out of domain.
        rmsd: Definitions of how far atoms moved; the first is the headline.
    """

    fmax_ev_per_a: Annotated[float, Field(gt=0)] = 0.1
    max_steps: Annotated[int, Field(ge=0)] = 200
    optimizer: Literal["lbfgs", "fire"] = "lbfgs"
    max_atoms: Annotated[int, Field(gt=0)] = 200
    rmsd: tuple[Literal["aligned", "mattergen", "lemat"], ...] = ("aligned", "mattergen")


class StabilityRule(Settings):
    """Which distances to the hull count as stable; equality does.

    Attributes:
        limits_ev_per_atom: All that are reported.
        sun_ev_per_atom: What the headline SUN calls stable.
        msun_ev_per_atom: What MSUN calls metastable.
    """

    limits_ev_per_atom: tuple[float, ...] = (-0.001, 0.0, 0.001, 0.05, 0.1)
    sun_ev_per_atom: float = 0.0
    msun_ev_per_atom: float = 0.1


class PredictionRule(Settings):
    """How predicted structures are compared with the true ones.

    Attributes:
        ltol: As in `MatchRule`.
        stol: As in `MatchRule`; what a miss counts in cRMSE.
        angle_tol: As in `MatchRule`.
        gate: Whose validity a match needs as well: published rates ask for both, which costs
            about a tenth of MP-20.
    """

    ltol: float = 0.3
    stol: float = 0.5
    angle_tol: float = 10.0
    gate: Literal["none", "prediction", "both"] = "none"

    @property
    def tolerance(self) -> MatchTolerance:
        """The three tolerances as the matcher takes them."""
        return MatchTolerance(ltol=self.ltol, stol=self.stol, angle_tol=self.angle_tol)


class Protocol(Settings):
    """All switches of one way to judge a set of crystals.

    Attributes:
        name: Of the preset.
        summary: What it is, one line.
        denominator: What shares are out of; those of the checks themselves are always out of all
            that were requested.
        departures: What of the original is not reproduced, one line each.
        revision: Of our code.
    """

    name: str
    summary: str
    denominator: Literal["requested", "valid"] = "requested"
    geometry: GeometryRule = GeometryRule()
    composition: CompositionRule = CompositionRule()
    symmetry: SymmetryRule = SymmetryRule()
    matching: MatchRule = MatchRule()
    distributions: DistributionRule = DistributionRule()
    coverage: CoverageRule = CoverageRule()
    relaxation: RelaxationRule = RelaxationRule()
    stability: StabilityRule = StabilityRule()
    prediction: PredictionRule = PredictionRule()
    departures: tuple[str, ...] = ()
    revision: int = REVISION

    @property
    def id(self) -> str:
        """Hash of every switch: equal for equal protocols, whoever made them."""
        return _hash(self.model_dump(mode="json"))


class Basis(Settings):
    """A protocol and what it was applied with: all that a number depends on but the samples.

    Attributes:
        protocol: The switches.
        reference: Content hash of the training set, None without one.
        test: Content hash of the test set.
        known_index: Name and hash of the index of known crystals.
        hull: Name and hash of the hull.
        potential: Name and hash of the weights.
        energy_model: Predictor of the compared energies.
        targets: What was asked for, with name and hash of both predictors that judge it.
        versions: Versions of the libraries that decide.
    """

    protocol: Protocol
    reference: str | None = None
    test: str | None = None
    known_index: str | None = None
    hull: str | None = None
    potential: str | None = None
    energy_model: str | None = None
    targets: tuple[str, ...] = ()
    versions: tuple[tuple[str, str], ...] = ()

    @property
    def id(self) -> str:
        """Hash of everything here: numbers of two ids are never put into one column."""
        return _hash(self.model_dump(mode="json"))


def versions() -> tuple[tuple[str, str], ...]:
    """Return name and version of the libraries that decide."""
    return tuple((name, version(name)) for name in DECIDING)


def differences(first: Basis, second: Basis) -> list[str]:
    """Return what differs between two bases, ``"geometry.self_images: True / False"``."""
    return _differences(first.model_dump(mode="json"), second.model_dump(mode="json"), "")


def _differences(first: object, second: object, place: str) -> list[str]:
    if isinstance(first, dict) and isinstance(second, dict):
        found: list[str] = []
        for key in first:
            inner = f"{place}.{key}" if place else key
            found += _differences(first[key], second.get(key), inner.removeprefix("protocol."))
        return found
    # Prose and names follow from the switches that are listed anyway.
    if first == second or place in ("summary", "departures"):
        return []
    return [f"{place}: {_short(first)} / {_short(second)}"]


def _short(value: object) -> str:
    text = "none" if value is None else str(value)
    return text if len(text) <= 40 else text[:39] + "…"


def _hash(value: object) -> str:
    text = json.dumps(value, sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()[:12]
