"""The public data sets that matmill can fetch: what, licence, citation, address."""

from dataclasses import dataclass, field
from typing import Literal

from matmill.errors import InputError, UnknownNameError

Format = Literal["matbench", "jarvis", "cif_csv", "materials_project", "optimade"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """One public data set, or one public database that answers queries.

    Attributes:
        name: What users type.
        what: One line: property, method, origin.
        rows: Published number of crystals; None for databases, which grow.
        licence: As the publisher states it.
        citation: What a paper should cite.
        urls: Address by part; one part called ``"all"`` unless published in several.
        sha256: Checksum by part, where the publisher gives one.
        format: How it is published.
        columns: Their column and our name for it, with the unit.
        target: Our name of the column that the task is about; empty if there is none.
        is_classification: The target is a class, 0 or 1.
    """

    name: str
    what: str
    rows: int | None
    licence: str
    citation: str
    urls: dict[str, str]
    format: Format
    sha256: dict[str, str] = field(default_factory=dict)
    columns: dict[str, str] = field(default_factory=dict)
    target: str = ""
    is_classification: bool = False


_MP = "Jain et al., Commentary: The Materials Project, APL Materials 1, 011002 (2013)"
_MATBENCH = "Dunn et al., npj Computational Materials 6, 138 (2020)"
_CC_BY = "CC BY 4.0"
_NIST = "NIST public data (figshare: CC BY 4.0)"
_JARVIS = "Choudhary et al., npj Computational Materials 6, 173 (2020)"
_JARVIS_COLUMNS = {
    "formation_energy_peratom": "formation_energy_per_atom_ev",
    "optb88vdw_bandgap": "band_gap_optb88vdw_ev",
    "mbj_bandgap": "band_gap_mbj_ev",
    "ehull": "energy_above_hull_ev",
    "bulk_modulus_kv": "bulk_modulus_voigt_gpa",
    "shear_modulus_gv": "shear_modulus_voigt_gpa",
    "exfoliation_energy": "exfoliation_energy_mev_atom",
    "magmom_oszicar": "total_magnetization_mu_b",
    "spg_number": "spacegroup",
}
_CDVAE = "https://raw.githubusercontent.com/txie-93/cdvae/main/data"
_DIFFCSP = "https://raw.githubusercontent.com/jiaor17/DiffCSP/main/data"
_XIE = "Xie et al., Crystal Diffusion Variational Autoencoder, ICLR (2022)"
_MP_CSV = {
    "formation_energy_per_atom": "formation_energy_per_atom_ev",
    "band_gap": "band_gap_ev",
    "e_above_hull": "energy_above_hull_ev",
    "spacegroup.number": "spacegroup",
}


def _matbench(
    task: str,
    what: str,
    rows: int,
    theirs: str,
    ours: str,
    sha256: str,
    origin: str,
    licence: str = _CC_BY,
    is_classification: bool = False,
) -> Source:
    name = f"matbench_{task}"
    return Source(
        name=name,
        what=what,
        rows=rows,
        licence=licence,
        citation=f"{_MATBENCH}; {origin}",
        urls={"all": f"https://ml.materialsproject.org/projects/{name}.json.gz"},
        sha256={"all": sha256},
        format="matbench",
        columns={theirs: ours},
        target=ours,
        is_classification=is_classification,
    )


def _parts(folder: str) -> dict[str, str]:
    return {part: f"{folder}/{part}.csv" for part in ("train", "val", "test")}


_SOURCES = (
    _matbench(
        "jdft2d",
        "Exfoliation energy of layered crystals (DFT, OptB88vdW)",
        636,
        "exfoliation_en",
        "exfoliation_energy_mev_atom",
        "26057dc4524e193e32abffb296ce819b58b6e11d1278cae329a2f97817a4eddf",
        "Choudhary et al., Scientific Reports 7, 5179 (2017)",
        _NIST,
    ),
    _matbench(
        "phonons",
        "Highest optical phonon peak (DFPT)",
        1265,
        "last phdos peak",
        "last_phdos_peak_cm1",
        "4db551f21ec5f577e6202725f10e34dfc509aa7df3a6bdaac497da7f6dbbb9b3",
        "Petretto et al., Scientific Data 5, 180065 (2018)",
    ),
    _matbench(
        "dielectric",
        "Refractive index (DFPT)",
        4764,
        "n",
        "refractive_index",
        "83befa09bc2ec2f4b6143afc413157827a90e5e2e42c1eb507ccfa01bf26a1d6",
        "Petousis et al., Scientific Data 4, 160134 (2017)",
    ),
    _matbench(
        "log_gvrh",
        "Shear modulus, decimal logarithm (DFT, VRH)",
        10987,
        "log10(G_VRH)",
        "log10_g_vrh_gpa",
        "098af941f4c663270f1fe21abf20ffad6fb85ecbfcba5786ceac03983ac29da7",
        "de Jong et al., Scientific Data 2, 150009 (2015)",
    ),
    _matbench(
        "log_kvrh",
        "Bulk modulus, decimal logarithm (DFT, VRH)",
        10987,
        "log10(K_VRH)",
        "log10_k_vrh_gpa",
        "44b113ddb7e23aa18731a62c74afa7e5aa654199e0db5f951c8248a00955c9cd",
        "de Jong et al., Scientific Data 2, 150009 (2015)",
    ),
    _matbench(
        "perovskites",
        "Heat of formation of ABX3 perovskites, per 5-atom cell (DFT, RPBE)",
        18928,
        "e_form",
        "formation_energy_ev_cell",
        "4641e2417f8ec8b50096d2230864468dfa08278dc9d257c327f65d0305278483",
        "Castelli et al., Energy & Environmental Science 5, 9034 (2012)",
        "not stated; made public by the Computational Materials Repository",
    ),
    _matbench(
        "mp_gap",
        "Band gap (DFT, PBE; Materials Project 2019)",
        106113,
        "gap pbe",
        "band_gap_ev",
        "58b65746bd88329986ed66031a2ac1369c7c522f7bc9f9081528e07097c2c057",
        _MP,
    ),
    _matbench(
        "mp_is_metal",
        "Metal or not (DFT, PBE; Materials Project 2019)",
        106113,
        "is_metal",
        "is_metal",
        "9a028ed5750a4c76ca36e9f3c8d48fe0bf3fb21b76ec2289e58ae7048d527919",
        _MP,
        is_classification=True,
    ),
    _matbench(
        "mp_e_form",
        "Formation energy (DFT, PBE; Materials Project 2019)",
        132752,
        "e_form",
        "formation_energy_per_atom_ev",
        "dedcb1d4ba2e3e50dbdd45ba5bc647a00e9c2bcf8f8bf556dc8e92caa39eb21f",
        _MP,
    ),
    Source(
        name="jarvis_dft_3d",
        what="JARVIS-DFT bulk crystals with many properties (OptB88vdW, version 2022-12-12)",
        rows=75993,
        licence=_NIST,
        citation=_JARVIS,
        urls={"all": "https://ndownloader.figshare.com/files/38521619"},
        format="jarvis",
        columns=_JARVIS_COLUMNS,
    ),
    Source(
        name="jarvis_dft_2d",
        what="JARVIS-DFT single layers with many properties (OptB88vdW, version 2022-12-12)",
        rows=1103,
        licence=_NIST,
        citation=_JARVIS,
        urls={"all": "https://ndownloader.figshare.com/files/38521268"},
        format="jarvis",
        columns=_JARVIS_COLUMNS,
    ),
    Source(
        name="mp_20",
        what="MP-20: Materials Project crystals with at most 20 atoms, generative benchmark split",
        rows=45229,
        licence=_CC_BY,
        citation=f"{_XIE}; {_MP}",
        urls=_parts(f"{_CDVAE}/mp_20"),
        format="cif_csv",
        columns=_MP_CSV,
    ),
    Source(
        name="mpts_52",
        what="MPTS-52: at most 52 atoms, split by year of first report",
        rows=40476,
        licence=_CC_BY,
        citation=f"Jiao et al., DiffCSP, NeurIPS (2023); {_MP}",
        urls=_parts(f"{_DIFFCSP}/mpts_52"),
        format="cif_csv",
        columns=_MP_CSV,
    ),
    Source(
        name="perov_5",
        what="Perov-5: ABX3 cells of 5 atoms (DFT, RPBE and GLLB-SC)",
        rows=18928,
        licence="MIT (CDVAE's files)",
        citation=f"{_XIE}; Castelli et al., Energy & Environmental Science 5, 9034 (2012)",
        urls=_parts(f"{_CDVAE}/perov_5"),
        format="cif_csv",
        columns={
            "heat_all": "heat_all_ev_per_cell",
            "heat_ref": "heat_ref_ev_per_cell",
            "dir_gap": "direct_gap_ev",
            "ind_gap": "indirect_gap_ev",
        },
    ),
    Source(
        name="carbon_24",
        what="Carbon-24: carbon at 10 GPa, 6 to 24 atoms (AIRSS)",
        rows=10153,
        licence="MIT (CDVAE's files)",
        citation=f"{_XIE}; Pickard, Materials Cloud 2020.0026 (2020)",
        urls=_parts(f"{_CDVAE}/carbon_24"),
        format="cif_csv",
        columns={"energy_per_atom": "energy_per_atom_ev"},
    ),
    Source(
        name="mp",
        what="The Materials Project as it is today; needs a free key (MP_API_KEY)",
        rows=None,
        licence=_CC_BY,
        citation=_MP,
        urls={"all": "https://api.materialsproject.org/materials/summary/"},
        format="materials_project",
        columns={
            "formation_energy_per_atom": "formation_energy_per_atom_ev",
            "band_gap": "band_gap_ev",
            "energy_above_hull": "energy_above_hull_ev",
            "bulk_modulus.vrh": "bulk_modulus_vrh_gpa",
            "shear_modulus.vrh": "shear_modulus_vrh_gpa",
            "efermi": "fermi_energy_ev",
            "total_magnetization": "total_magnetization_mu_b",
            "symmetry.number": "spacegroup",
        },
    ),
)
CATALOGUE: dict[str, Source] = {source.name: source for source in _SOURCES}

# Base addresses from the public list of providers; any other one can be given in full.
OPTIMADE_PROVIDERS = {
    "alexandria": "https://alexandria.icams.rub.de/pbe",
    "alexandria.pbesol": "https://alexandria.icams.rub.de/pbesol",
    "cmr": "https://cmr-optimade.fysik.dtu.dk",
    "cod": "https://www.crystallography.net/cod/optimade",
    "jarvis": "https://jarvis.nist.gov/optimade/jarvisdft",
    "mcloud.mc2d": "https://aiida.materialscloud.org/mc2d/optimade",
    "mcloud.mc3d": "https://aiida.materialscloud.org/mc3d/optimade",
    "mp": "https://optimade.materialsproject.org",
    "nmd": "https://nomad-lab.eu/prod/rae/optimade",
    "odbx": "https://optimade.odbx.science",
    "oqmd": "https://oqmd.org/optimade",
    "tcod": "https://www.crystallography.net/tcod/optimade",
}


def find_source(name: str) -> Source:
    """Return the source called ``name``.

    ``optimade:cod`` is a provider by its short name, ``optimade:https://…`` any other.

    Raises:
        UnknownNameError: If nothing is called so; lists what is.
        InputError: If an OPTIMADE address is not one.
    """
    if name in CATALOGUE:
        return CATALOGUE[name]
    kind, _, provider = name.partition(":")
    if kind != "optimade":
        raise UnknownNameError("data set", name, [*CATALOGUE, "optimade:PROVIDER-OR-URL"])
    base = OPTIMADE_PROVIDERS.get(provider, provider)
    if not base.startswith(("http://", "https://")):
        if not provider:
            raise InputError("Give a provider, e.g. optimade:cod, or an address.")
        raise UnknownNameError("OPTIMADE provider", provider, sorted(OPTIMADE_PROVIDERS))
    return Source(
        name=name,
        what=f"Any structures of the OPTIMADE database at {base}",
        rows=None,
        licence="the provider's; see its web page",
        citation="Andersen et al., OPTIMADE, Scientific Data 8, 217 (2021), and the provider",
        urls={"all": base},
        format="optimade",
    )
