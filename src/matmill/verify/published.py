"""Published figures of crystal generators, table by table, each with source and protocol.

No two tables share a protocol, and none is ours: energies, hulls, reference sets and samples
differ. They are there to be read beside a scorecard, never to be put into one column with it.
Figures that were not seen in their source when this file was written say so.
"""

from dataclasses import dataclass

SEEN = ""
RECALLED = "recalled, unverified"


@dataclass(frozen=True, slots=True, kw_only=True)
class PublishedTable:
    """One table of one source.

    Attributes:
        title: What it is about.
        source: Where it stands.
        protocol: How the numbers were made, and out of what.
        preset: The preset whose switches are nearest, empty for none.
        columns: Heading, and the key of our number that means the same; shares in per cent.
        rows: Generator, values in the order of the columns (None where none is given), and a mark:
            `SEEN` or `RECALLED`.
    """

    title: str
    source: str
    protocol: str
    preset: str
    columns: tuple[tuple[str, str], ...]
    rows: tuple[tuple[str, tuple[float | None, ...], str], ...]


_SUN = ("S.U.N. %", "sun")

# fmt: off
TABLES: tuple[PublishedTable, ...] = (
    PublishedTable(
        title="MatterGen's comparison, by DFT",
        source="microsoft/mattergen, README",
        protocol="Stable is at most 0.1 eV/atom above a hull of Materials Project and Alexandria, "
        "energies by DFT; unique and novel by the disordered matcher on relaxed crystals; out of "
        "all samples, at least 1,000.",
        preset="mattergen",
        columns=(("S.U.N. %", "sun_0.1"), ("RMSD Å", "rmsd_mattergen"), ("stable %", "stable_0.1"),
                 ("unique %", "unique"), ("novel %", "novel")),
        rows=(
            ("MatterGen", (38.57, 0.021, 74.41, 100.0, 61.96), SEEN),
            ("MatterGen, MP-20", (22.27, 0.110, 42.19, 100.0, 75.44), SEEN),
            ("DiffCSP, Alex-MP-20", (33.27, 0.104, 63.33, 99.90, 66.94), SEEN),
            ("DiffCSP, MP-20", (12.71, 0.232, 36.23, 100.0, 70.73), SEEN),
            ("CDVAE", (13.99, 0.359, 19.31, 100.0, 92.00), SEEN),
            ("FTCP", (0.0, 1.492, 0.0, 100.0, 100.0), SEEN),
            ("G-SchNet", (0.98, 1.347, 1.63, 100.0, 98.23), SEEN),
            ("P-G-SchNet", (1.29, 1.360, 3.11, 100.0, 88.40), SEEN),
        ),
    ),
    PublishedTable(
        title="MatterGen's comparison, by MatterSim",
        source="microsoft/mattergen, benchmark/metrics",
        protocol="As above, with relaxation and energies by MatterSim instead of DFT.",
        preset="mattergen",
        columns=(("S.U.N. %", "sun_0.1"), ("stable %", "stable_0.1"), ("novel %", "novel"),
                 ("unique %", "unique"), ("composition %", "composition"),
                 ("E above hull eV/atom", "above_hull"), ("RMSD Å", "rmsd_mattergen")),
        rows=(
            ("MatterGen", (38.86, 73.29, 61.65, 99.90, 88.45, 0.0746, 0.063), SEEN),
            ("MatterGen, MP-20", (25.76, 47.05, 75.98, 99.78, 84.50, 0.2011, 0.147), SEEN),
            ("DiffCSP, MP-20", (20.13, 41.25, 76.02, 99.45, 79.98, 0.1885, 0.414), SEEN),
            ("CDVAE", (18.33, 24.30, 92.41, 99.89, 86.01, 0.2435, 0.479), SEEN),
            ("G-SchNet", (7.53, 9.45, 97.93, 100.0, 73.41, 0.3252, 1.451), SEEN),
            ("P-G-SchNet", (11.04, 14.13, 96.47, 100.0, 81.90, 0.3471, 1.448), SEEN),
            ("FTCP", (0.0, 0.0, 100.0, 100.0, 100.0, 0.4185, 2.42), SEEN),
        ),
    ),
    PublishedTable(
        title="MP-20, ten generators by one protocol",
        source="SymmetryAdvantage/WyckoffTransformer, ICML_eval/MP_20_paper_eval.ipynb",
        protocol="1,000 samples each; all but novelty is of the novel samples; S.U.N. by CHGNet at "
        "0.08 eV/atom. The training set is the noise floor.",
        preset="cdvae",
        columns=(("novel %", "novel"), ("structure %", "geometry"),
                 ("composition %", "composition"), ("COV-R %", "cov_r"), ("COV-P %", "cov_p"),
                 ("W1 density", "w1_density"), ("W1 energy", "w1_energy"),
                 ("W1 elements", "w1_n_elements"), _SUN),
        rows=(
            ("training set", (None, 100.0, 89.9, 99.9, 96.68, 0.083, 0.039, 0.029, None), SEEN),
            ("WyFormer", (91.3, 99.56, 80.50, 98.69, 96.74, 0.697, 0.055, 0.085, 40.14), SEEN),
            ("WyForDiffCSP++", (90.8, 99.67, 80.40, 99.23, 96.84, 0.626, 0.050, 0.084, 37.8), SEEN),
            ("SymmCD", (88.38, 95.80, 84.69, 99.55, 94.46, 0.611, 0.106, 0.528, 33.7), SEEN),
            ("CrystalFormer",
             (80.47, 87.42, 82.39, 99.87, 95.31, 0.404, 0.130, 0.147, 36.79), SEEN),
            ("DiffCSP++", (90.59, 100.0, 85.08, 99.34, 95.91, 0.139, 0.042, 0.496, 42.3), SEEN),
            ("DiffCSP", (91.37, 100.0, 81.21, 99.56, 96.26, 0.785, 0.055, 0.291, 58.7), SEEN),
            ("FlowMM", (91.75, 96.27, 82.57, 99.67, 96.65, 0.289, 0.048, 0.093, 51.15), SEEN),
            ("MatterGen", (89.87, 100.0, 82.81, 99.78, 96.23, 0.310, 0.048, 0.227, 55.36), SEEN),
            ("MiAD", (85.86, 99.07, 84.23, 99.88, 94.24, 0.203, 0.058, 0.066, None), SEEN),
            ("WyCryst", (58.45, 99.83, 76.76, 98.97, 89.82, 0.663, 0.173, 0.307, 41.45), SEEN),
        ),
    ),
    PublishedTable(
        title="MP-20, stable at 0 eV/atom",
        source="hanyi2021/CrystalDiT, README",
        protocol="SUN at 0, MSUN at 0.1 eV/atom above the hull.",
        preset="",
        columns=(("SUN %", "sun_0"), ("MSUN %", "sun_0.1"), ("UN %", "unique_novel")),
        rows=(
            ("FlowMM", (4.38, 20.16, 87.66), SEEN),
            ("MatterGen", (3.42, 23.91, 89.89), SEEN),
            ("ADiT", (2.74, 13.50, 37.08), SEEN),
            ("CrystalDiT", (9.62, 25.94, 63.28), SEEN),
        ),
    ),
    PublishedTable(
        title="Crystalite, out of the valid samples",
        source="joshrosie/crystalite, README",
        protocol="512 samples, NequIP, Materials Project hull of 2023-02-07; by its counts the "
        "rates are out of valid samples, not of all.",
        preset="lemat-genbench",
        columns=(("valid %", "valid"), ("unique %", "unique"), ("novel %", "novel"),
                 ("UN %", "unique_novel"), ("SUN %", "sun_0"), ("MSUN %", "sun_0.1"),
                 ("stable %", "stable_0"), ("metastable %", "stable_0.1"),
                 ("E above hull eV/atom", "above_hull")),
        rows=(("Crystalite", (82.8, 99.4, 78.9, 78.7, 11.1, 55.8, 14.1, 70.9, 0.073), SEEN),),
    ),
    PublishedTable(
        title="LeMat-GenBench leaderboard settings",
        source="public write-up of a self-training loop around Crystalite, repository not shown",
        protocol="2,500 samples; valid out of all, the rest out of the valid; ensemble of three "
        "potentials on own hulls. Part of the loop's gain is its own training data come back.",
        preset="lemat-genbench",
        columns=(("valid %", "valid"), ("unique %", "unique"), ("novel %", "novel"),
                 ("stable %", "stable_0"), ("metastable %", "stable_0.1"), ("SUN %", "sun_0"),
                 ("MSUN %", "sun_0.1"), ("E above hull eV/atom", "above_hull")),
        rows=(
            ("Crystalite, MP-20",
             (97.20, 95.80, 53.20, 12.70, 51.60, 1.50, 22.60, 0.1322), SEEN),
            ("oversampled MP-20", (96.56, 98.84, 62.05, 9.94, 50.25, 1.53, 24.44, 0.1033), SEEN),
            ("unfiltered synthetic", (96.24, 98.63, 66.54, 8.31, 46.30, 1.04, 24.19, 0.1195), SEEN),
            ("loop, round 1", (96.40, 99.13, 65.15, 9.21, 53.40, 1.74, 29.34, 0.0988), SEEN),
            ("loop, round 4", (98.00, 99.71, 81.14, 5.59, 62.00, 2.90, 48.20, 0.0860), SEEN),
        ),
    ),
    PublishedTable(
        title="MP-20, CDVAE's protocol",
        source="papers of the generators",
        protocol="10,000 samples, validity out of all; distances of 1,000 valid ones.",
        preset="cdvae",
        columns=(("structure %", "geometry"), ("composition %", "composition"),
                 ("COV-R %", "cov_r"), ("COV-P %", "cov_p"), ("W1 density", "w1_density"),
                 ("W1 energy", "w1_energy"), ("W1 elements", "w1_n_elements")),
        rows=(
            ("CDVAE", (100.0, 86.70, 99.15, 99.49, 0.688, 0.278, 1.432), RECALLED),
            ("DiffCSP", (100.0, 83.25, 99.71, 99.76, 0.350, 0.125, 0.340), RECALLED),
            ("DiffCSP++", (99.94, 85.12, 99.73, 99.59, 0.235, 0.057, 0.375), RECALLED),
            ("FlowMM", (96.85, 83.19, 99.49, 99.58, 0.239, None, 0.083), RECALLED),
            ("FlowLLM", (99.94, 90.84, 96.95, 99.82, 1.14, None, 0.15), RECALLED),
            ("SymmCD", (90.34, 85.81, 99.58, 97.76, 0.23, None, 0.40), RECALLED),
            ("LLaMA-2 70B", (99.6, 95.4, 85.8, 98.9, 0.81, None, 0.44), RECALLED),
        ),
    ),
    PublishedTable(
        title="Structure prediction, MP-20, one sample each",
        source="papers and repositories of the generators",
        protocol="0.3/0.5/10; valid prediction and truth, so about a tenth can never match.",
        preset="diffcsp-csp",
        columns=(("match rate %", "csp_match_gated"), ("RMSE", "csp_rmse_gated")),
        rows=(
            ("CDVAE", (33.90, 0.1045), RECALLED),
            ("DiffCSP", (51.49, 0.0631), RECALLED),
            ("CrystaLLM", (58.70, 0.0408), RECALLED),
            ("FlowMM (rate seen in its issue 7)", (61.39, 0.0566), RECALLED),
            ("CrystalFlow", (62.02, 0.0710), RECALLED),
            ("KLDM", (65.83, 0.0517), RECALLED),
            ("Crystalite, 5,975 of 9,045", (66.1, 0.033), SEEN),
        ),
    ),
)
# fmt: on
