"""The protocols that ship: ours, and those of published benchmarks switch by switch.

What of an original cannot be reproduced here is listed in its `departures`, which every output
carries. A protocol whose numbers would be another thing under the same name is refused by name,
with the reason.
"""

from matmill.errors import InputError, UnknownNameError
from matmill.verify.protocols import (
    CompositionRule,
    CoverageRule,
    DistributionRule,
    GeometryRule,
    MatchRule,
    PredictionRule,
    Protocol,
    RelaxationRule,
    StabilityRule,
    SymmetryRule,
)

DEFAULT = "matmill-1"

_OUR_ENERGIES = "energies and hull are ours (CHGNet 0.3.0 on known crystals), not the original's"
_OUR_INDEX = "novelty is judged against our index of known crystals and --reference"
_CDVAE_GEOMETRY = GeometryRule(self_images=False)
_CDVAE_DISTRIBUTIONS = DistributionRule(
    draws=1000,
    among="valid",
    against="test",
    quantities=("density", "n_elements"),
    kernel=(),
    masses="pymatgen",
)
_CDVAE_COVERAGE = CoverageRule(sites="all")
_CDVAE_COMPOSITION = CompositionRule(table="smact14", missing_electronegativity="passes")
_DIFFCSP_COMPOSITION = CompositionRule(
    table="smact14", missing_electronegativity="passes", combination_limit=10_000_000
)

PRESETS: dict[str, Protocol] = {
    protocol.name: protocol
    for protocol in (
        Protocol(
            name=DEFAULT,
            summary="Ours: every failure counts, self-images are looked at, all samples are used.",
        ),
        Protocol(
            name="cdvae",
            summary="txie-93/cdvae, scripts/compute_metrics.py: validity, COV, property distances.",
            geometry=_CDVAE_GEOMETRY,
            composition=_CDVAE_COMPOSITION,
            symmetry=SymmetryRule(library="spglib", symprec_a=0.1),
            matching=MatchRule(among="parsed"),
            distributions=_CDVAE_DISTRIBUTIONS,
            coverage=_CDVAE_COVERAGE,
            departures=(
                "the energy distance needs --energy and is by our predictor",
                _OUR_INDEX,
                _OUR_ENERGIES,
            ),
        ),
        Protocol(
            name="diffcsp-csp",
            summary="jiaor17/DiffCSP, scripts/compute_metrics.py: match rate with a validity gate.",
            geometry=_CDVAE_GEOMETRY,
            composition=_DIFFCSP_COMPOSITION,
            symmetry=SymmetryRule(library="spglib", symprec_a=0.1),
            matching=MatchRule(among="parsed"),
            distributions=_CDVAE_DISTRIBUTIONS,
            coverage=_CDVAE_COVERAGE,
            prediction=PredictionRule(ltol=0.3, stol=0.5, angle_tol=10.0, gate="both"),
            departures=(
                "with several samples the original gates the prediction alone",
                _OUR_INDEX,
                _OUR_ENERGIES,
            ),
        ),
        Protocol(
            name="mattergen",
            summary="microsoft/mattergen, evaluation: relax first, stable is at most 0.1 eV/atom.",
            geometry=_CDVAE_GEOMETRY,
            composition=CompositionRule(table="smact14", missing_electronegativity="passes"),
            symmetry=SymmetryRule(library="spglib", symprec_a=0.1),
            matching=MatchRule(judged_on="relaxed", among="parsed"),
            distributions=DistributionRule(among="parsed", against="reference"),
            relaxation=RelaxationRule(fmax_ev_per_a=0.05, max_steps=500, rmsd=("mattergen",)),
            stability=StabilityRule(sun_ev_per_atom=0.1, msun_ev_per_atom=0.1),
            departures=(
                "the matcher is the ordered one; the original also merges substituted elements",
                "at most 500 steps of relaxation; the original stops at 1,000,000",
                "a missing element costs its crystal alone; there it voids the whole set",
                _OUR_INDEX,
                _OUR_ENERGIES,
            ),
        ),
        Protocol(
            name="lemat-genbench",
            summary="LeMaterial/lemat-genbench leaderboard: rates are out of the valid crystals.",
            denominator="valid",
            geometry=GeometryRule(rule="radii", self_images=False, plausible=True),
            composition=CompositionRule(counts=False),
            symmetry=SymmetryRule(library="spglib", symprec_a=0.01),
            matching=MatchRule(ltol=0.1, among="valid"),
            distributions=DistributionRule(among="valid", against="reference"),
            relaxation=RelaxationRule(fmax_ev_per_a=0.02, max_steps=50, rmsd=("lemat",)),
            departures=(
                "validity is without the test of charges, which needs frequency tables that are "
                "not at hand: more crystals are valid here",
                "one potential instead of an ensemble of three, L-BFGS instead of BFGS",
                _OUR_INDEX,
                _OUR_ENERGIES,
            ),
        ),
        Protocol(
            name="matbench-genmetrics",
            summary="sparks-baird/matbench-genmetrics: coverage, novelty, uniqueness by pairs.",
            geometry=_CDVAE_GEOMETRY,
            symmetry=SymmetryRule(library="spglib", symprec_a=0.01),
            matching=MatchRule(
                ltol=0.3, stol=0.5, angle_tol=10.0, uniqueness="pairs", among="parsed"
            ),
            distributions=DistributionRule(
                among="parsed", against="reference", space_group_distance="numbers"
            ),
            coverage=CoverageRule(kind="matches"),
            departures=(
                "validity is its half by space groups; the half by modified Pettifor numbers "
                "is not computed",
                _OUR_ENERGIES,
            ),
        ),
    )
}

REFUSED = {
    "xtalmet-vsun": "its V.S.U.N. needs single points of MACE medium-mpa-0, the Materials Project "
    "hull of 2025-06-18 and element mover's distances, none of which are at hand",
    "dismai": "its tasks need large disordered cells, a SOAP-GAP or M3GNet relaxation and "
    "reference motifs that are not at hand",
}
"""Protocols that are known and cannot be honest here, with the reason."""


def find(name: str) -> Protocol:
    """Return a protocol by name.

    Raises:
        InputError: If the protocol is known but cannot be reproduced here.
        UnknownNameError: If there is no such protocol.
    """
    if name in PRESETS:
        return PRESETS[name]
    if name in REFUSED:
        raise InputError(f"Protocol '{name}' is not offered: {REFUSED[name]}.")
    raise UnknownNameError("protocol", name, list(PRESETS))
