"""Every public source, fetched from a server on this machine that speaks its real format.

The formats are written by the libraries that the publishers use (pymatgen, pandas-like CSV) or
spelt out from their specification (OPTIMADE, the summary endpoint of the Materials Project).
"""

import csv
import gzip
import hashlib
import io
import json
import math
import zipfile
from dataclasses import replace

import numpy as np
import pytest
from local_server import Answer, serve, with_ranges

from matmill.data import sources
from matmill.data.catalogue import CATALOGUE, OPTIMADE_PROVIDERS, find_source
from matmill.data.download import Patience
from matmill.data.sources import Request, get
from matmill.errors import DataError, InputError, UnknownNameError

KEY = "k" * 32


@pytest.fixture(scope="module")
def structures():
    from pymatgen.core import Lattice, Structure

    def make(a, symbols):
        spots = [[0.0, 0.0, 0.0], [0.5, 0.5, 0.5], [0.5, 0.5, 0.0], [0.0, 0.5, 0.5]]
        lattice = Lattice.from_parameters(a, a * 1.1, a * 1.3, 80, 95, 110)
        return Structure(lattice, symbols, spots[: len(symbols)])

    return [make(4.0 + 0.01 * i, ["Mg", "O", "Ti", "Fe"][: 2 + i % 3]) for i in range(11)]


@pytest.fixture
def ask(tmp_path):
    def request(**changes):
        patience = Patience(timeout=5.0, tries=2, sleep=lambda _: None)
        return Request(**{"cache": tmp_path, "patience": patience, **changes})

    return request


def same(table, row, structure):
    """Whether a row is this pymatgen structure."""
    batch = table.crystals
    atoms = batch.atoms_of(row)
    gap = batch.frac_coords[atoms].numpy() - structure.frac_coords
    assert np.abs(gap - np.round(gap)).max() < 1e-6
    assert np.abs(batch.lattice[row].numpy() - structure.lattice.matrix).max() < 1e-6
    assert batch.atomic_numbers[atoms].tolist() == [site.specie.Z for site in structure]


# --- the catalogue ---------------------------------------------------------------------------


@pytest.mark.parametrize("name", CATALOGUE)
def test_every_source_says_what_users_must_know(name):
    source = CATALOGUE[name]
    assert source.name == name
    assert len(source.what) > 10
    assert source.licence
    assert source.citation
    assert all(url.startswith("https://") for url in source.urls.values())
    assert set(source.sha256) <= set(source.urls)
    assert all(len(digest) == 64 for digest in source.sha256.values())
    assert source.format in sources._GETTERS
    assert source.columns
    if source.target:
        assert source.target in source.columns.values()


def test_providers_by_name_and_by_address():
    assert find_source("optimade:cod").urls["all"] == OPTIMADE_PROVIDERS["cod"]
    assert find_source("optimade:https://x.org/o").urls["all"] == "https://x.org/o"
    with pytest.raises(UnknownNameError, match="Did you mean 'oqmd'"):
        find_source("optimade:oqm")
    with pytest.raises(UnknownNameError, match="Did you mean 'matbench_jdft2d'"):
        find_source("matbench_jdft")


# --- matbench --------------------------------------------------------------------------------


def frame(structures, values, column, **changes):
    """Gzipped JSON as matminer writes a data frame."""
    data = [[s.as_dict(), v] for s, v in zip(structures, values, strict=True)]
    content = {
        "index": list(range(len(data))),
        "columns": ["structure", column],
        "data": data,
        **changes,
    }
    return gzip.compress(json.dumps(content).encode())


MATBENCH = [name for name in CATALOGUE if name.startswith("matbench_")]


@pytest.mark.parametrize("name", MATBENCH)
def test_matbench_tasks_arrive_in_order_with_their_target(name, structures, ask):
    source = CATALOGUE[name]
    theirs = next(iter(source.columns))
    values = [0.5 * i for i in range(len(structures))]
    if source.is_classification:
        values = [i % 2 == 0 for i in range(len(structures))]
    body = frame(structures, values, theirs)
    with serve({"/t": lambda asked: with_ranges(body, asked)}) as site:
        local = replace(
            source,
            urls={"all": f"{site.url}/t"},
            sha256={"all": hashlib.sha256(body).hexdigest()},
        )
        table = get(local, ask())
        again = get(local, ask())
        assert len(site.asked) == 1
    assert table.hash == again.hash
    assert len(table) == len(structures)
    assert table.column(source.target).tolist() == [float(v) for v in values]
    assert table.ids[0] == f"mb-{name.removeprefix('matbench_').replace('_', '-')}-01"
    for row, structure in enumerate(structures):
        same(table, row, structure)


def test_matbench_with_another_checksum_is_refused(structures, ask):
    body = frame(structures, range(len(structures)), "n")
    with serve({"/t": lambda asked: with_ranges(body, asked)}) as site:
        local = replace(CATALOGUE["matbench_dielectric"], urls={"all": f"{site.url}/t"})
        with pytest.raises(DataError, match="the publisher has changed the file"):
            get(local, ask())


def test_disordered_rows_are_complaints_and_the_rest_arrives(structures, ask):
    from pymatgen.core import Lattice, Structure

    mixed = Structure(Lattice.cubic(4), [{"Mg": 0.5, "Fe": 0.5}], [[0, 0, 0]])
    charged = structures[0].copy()
    charged.add_oxidation_state_by_element({"Mg": 2, "O": -2})
    body = frame([charged, mixed, structures[1]], [1.0, 2.0, 3.0], "n")
    with serve({"/t": lambda asked: with_ranges(body, asked)}) as site:
        local = replace(CATALOGUE["matbench_dielectric"], urls={"all": f"{site.url}/t"}, sha256={})
        table = get(local, ask())
    assert table.column("refractive_index").tolist() == [1.0, 3.0]
    same(table, 0, structures[0])
    assert [c.row for c in table.complaints] == [2]
    assert "mb-dielectric-2: a site is shared" in table.complaints[0].reason


def test_a_composition_task_says_that_it_has_no_structures(ask):
    body = gzip.compress(
        json.dumps({"index": [0], "columns": ["composition", "n"], "data": [["Fe", 1]]}).encode()
    )
    with serve({"/t": lambda asked: with_ranges(body, asked)}) as site:
        local = replace(CATALOGUE["matbench_dielectric"], urls={"all": f"{site.url}/t"}, sha256={})
        with pytest.raises(DataError, match="not a matbench task with structures"):
            get(local, ask())


# --- JARVIS ----------------------------------------------------------------------------------


def jarvis_record(structure, number, *, is_cartesian):
    coords = structure.cart_coords if is_cartesian else structure.frac_coords
    return {
        "jid": f"JVASP-{number}",
        "atoms": {
            "lattice_mat": structure.lattice.matrix.tolist(),
            "coords": coords.tolist(),
            "elements": [site.specie.symbol for site in structure],
            "abc": list(structure.lattice.abc),
            "angles": list(structure.lattice.angles),
            "cartesian": is_cartesian,
            "props": [""] * len(structure),
        },
        "formation_energy_peratom": -0.1 * number,
        "optb88vdw_bandgap": 1.5,
        "bulk_modulus_kv": "na",
        "spg_number": "225",
    }


@pytest.mark.parametrize("name", ["jarvis_dft_3d", "jarvis_dft_2d"])
def test_jarvis_zips_are_read(name, structures, ask):
    records = [jarvis_record(s, i, is_cartesian=i % 2 == 1) for i, s in enumerate(structures)]
    bundle = io.BytesIO()
    with zipfile.ZipFile(bundle, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("jdft_3d-12-12-2022.json", json.dumps(records))
    body = bundle.getvalue()
    with serve({"/z": lambda asked: with_ranges(body, asked)}) as site:
        table = get(replace(CATALOGUE[name], urls={"all": f"{site.url}/z"}), ask())
    assert table.ids[:2] == ("JVASP-0", "JVASP-1")
    assert table.column("formation_energy").tolist() == [-0.1 * i for i in range(len(structures))]
    assert all(math.isnan(value) for value in table.column("bulk_modulus_voigt_gpa").tolist())
    assert set(table.column("spacegroup").tolist()) == {225.0}
    for row, structure in enumerate(structures):
        same(table, row, structure)


def test_a_truncated_zip_is_named(ask):
    with (
        serve({"/z": lambda _: Answer(b"PK\x03\x04 not really")}) as site,
        pytest.raises(DataError, match="not a zip with a JARVIS JSON list"),
    ):
        get(replace(CATALOGUE["jarvis_dft_3d"], urls={"all": f"{site.url}/z"}), ask())


# --- CSV with CIF ----------------------------------------------------------------------------


def cif_csv(structures, columns, first):
    """CSV as pandas writes it, with its index as a nameless first column."""
    from pymatgen.io.cif import CifWriter

    file = io.StringIO()
    writer = csv.writer(file)
    writer.writerow(["", "material_id", *columns, "cif"])
    for i, structure in enumerate(structures):
        cells = [f"{0.1 * (first + i):.6f}" for _ in columns]
        writer.writerow([i, f"mp-{first + i}", *cells, str(CifWriter(structure))])
    return file.getvalue().encode()


@pytest.mark.parametrize("name", ["mp_20", "mpts_52", "perov_5", "carbon_24"])
def test_benchmark_csvs_keep_their_split(name, structures, ask):
    source = CATALOGUE[name]
    pieces = {"train": structures[:6], "val": structures[6:8], "test": structures[8:]}
    routes, first = {}, 0
    for part, piece in pieces.items():
        body = cif_csv(piece, source.columns, first)
        routes[f"/{part}"] = lambda asked, body=body: with_ranges(body, asked)
        first += len(piece)
    with serve(routes) as site:
        table = get(replace(source, urls={p: f"{site.url}/{p}" for p in pieces}), ask())
    assert table.notes["split"] == ("train",) * 6 + ("val",) * 2 + ("test",) * 3
    assert table.ids == tuple(f"mp-{i}" for i in range(11))
    for ours in source.columns.values():
        assert table.column(ours).tolist() == pytest.approx([0.1 * i for i in range(11)])
    assert not table.complaints
    for row, structure in enumerate(structures):
        gap = table.crystals.volume[row] - structure.volume
        assert abs(float(gap)) < 1e-3 * structure.volume


# --- the Materials Project -------------------------------------------------------------------


def summary_server(structures, *, fail_from=None):
    """The summary endpoint: key in a header, _limit and _skip, total in meta."""

    def answer(asked):
        if asked.headers.get("x-api-key") != KEY:
            status = 401 if "x-api-key" not in asked.headers else 403
            return Answer(b'{"message": "Invalid authentication credentials"}', status)
        skip, limit = int(asked.query["_skip"]), int(asked.query["_limit"])
        if fail_from is not None and skip >= fail_from[0]:
            return Answer(b"", 502)
        wanted = structures
        if "chemsys" in asked.query:
            wanted = [s for s in structures if s.chemical_system == asked.query["chemsys"]]
        documents = [
            {
                "material_id": f"mp-{skip + i}",
                "structure": s.as_dict(),
                "formation_energy_per_atom": -1.0,
                "band_gap": 2.5,
                "energy_above_hull": 0.0,
                "bulk_modulus": {"voigt": 101.0, "reuss": 99.0, "vrh": 100.0} if i else None,
                "symmetry": {"number": 2, "symbol": "P-1"},
            }
            for i, s in enumerate(wanted[skip : skip + limit])
        ]
        assert "structure" in asked.query["_fields"].split(",")
        content = {"data": documents, "meta": {"total_doc": len(wanted), "max_limit": 1000}}
        return Answer(json.dumps(content).encode())

    return answer


@pytest.fixture
def small_pages(monkeypatch):
    monkeypatch.setattr(sources, "_MP_PAGE", 4)
    monkeypatch.setattr(sources, "_OPTIMADE_PAGE", 4)
    for variable in sources.KEY_VARIABLES:
        monkeypatch.delenv(variable, raising=False)


def at(name, url):
    return replace(CATALOGUE[name], urls={"all": f"{url}/materials/summary/"})


@pytest.mark.usefixtures("small_pages")
def test_summaries_come_page_by_page(structures, ask, tmp_path):
    with serve({"/materials/summary/": summary_server(structures)}) as site:
        table = get(at("mp", site.url), ask(key=KEY))
        assert [a.query["_skip"] for a in site.asked] == ["0", "4", "8"]
    assert table.ids == tuple(f"mp-{i}" for i in range(11))
    assert table.column("band_gap").tolist() == [2.5] * 11
    assert table.column("bulk_modulus").isnan().tolist() == [i % 4 == 0 for i in range(11)]
    for row, structure in enumerate(structures):
        same(table, row, structure)
    # The key is nowhere on disk.
    kept = [file for file in tmp_path.rglob("*") if file.is_file()]
    assert len(kept) == 3
    assert not any(KEY in str(file) or KEY.encode() in file.read_bytes() for file in kept)


@pytest.mark.usefixtures("small_pages")
def test_a_query_and_a_limit_are_passed_on(structures, ask):
    with serve({"/materials/summary/": summary_server(structures)}) as site:
        table = get(at("mp", site.url), ask(key=KEY, query={"chemsys": "Mg-O"}, limit=3))
        assert [(a.query["_skip"], a.query["_limit"]) for a in site.asked] == [("0", "3")]
    assert len(table) == 3
    assert set(table.crystals.formula) == {"MgO"}


@pytest.mark.usefixtures("small_pages")
def test_an_interrupted_run_asks_only_for_the_missing_pages(structures, ask):
    fail_from = [8]
    with serve({"/materials/summary/": summary_server(structures, fail_from=fail_from)}) as site:
        with pytest.raises(DataError, match="502"):
            get(at("mp", site.url), ask(key=KEY))
        fail_from[0] = 10**9
        site.asked.clear()
        table = get(at("mp", site.url), ask(key=KEY))
        assert [a.query["_skip"] for a in site.asked] == ["8"]
        site.asked.clear()
        get(at("mp", site.url), ask(key=KEY, is_fresh=True))
        assert len(site.asked) == 3
    assert len(table) == 11


@pytest.mark.usefixtures("small_pages")
def test_a_missing_or_wrong_key_is_one_clear_error(structures, ask, monkeypatch):
    with serve({"/materials/summary/": summary_server(structures)}) as site:
        with pytest.raises(InputError, match="set MP_API_KEY"):
            get(at("mp", site.url), ask())
        assert not site.asked
        with pytest.raises(InputError, match=r"refused access \(403"):
            get(at("mp", site.url), ask(key="wrong"))
        monkeypatch.setenv("MP_API_KEY", KEY)
        assert len(get(at("mp", site.url), ask())) == 11


# --- OPTIMADE --------------------------------------------------------------------------------


def optimade_entry(structure, number):
    symbols = sorted({site.specie.symbol for site in structure})
    return {
        "id": f"o/{number}",
        "type": "structures",
        "attributes": {
            "lattice_vectors": structure.lattice.matrix.tolist(),
            "cartesian_site_positions": structure.cart_coords.tolist(),
            # Species names are free: they need not be symbols.
            "species": [
                {"name": f"{s}1", "chemical_symbols": [s], "concentration": [1.0]} for s in symbols
            ],
            "species_at_sites": [f"{site.specie.symbol}1" for site in structure],
            "nperiodic_dimensions": 3,
            "_test_band_gap": 0.25 * number,
            "_test_note": "text",
        },
    }


def optimade_server(entries, link):
    def answer(asked):
        if "nelements" in asked.query.get("filter", "") and "=" not in asked.query["filter"]:
            content = {"errors": [{"status": "400", "detail": "cannot parse the filter"}]}
            return Answer(json.dumps(content).encode(), 400)
        offset, size = int(asked.query.get("page_offset", 0)), int(asked.query["page_limit"])
        page = entries[offset : offset + size]
        following = None
        if offset + size < len(entries):
            following = link(f"/v1/structures?page_offset={offset + size}&page_limit={size}")
        content = {
            "data": page,
            "links": {"next": following},
            "meta": {"data_returned": len(entries), "more_data_available": bool(following)},
        }
        return Answer(json.dumps(content).encode())

    return answer


@pytest.mark.usefixtures("small_pages")
@pytest.mark.parametrize("style", ["text", "object", "relative"])
def test_optimade_pages_are_followed(style, structures, ask):
    entries = [optimade_entry(s, i) for i, s in enumerate(structures)]
    with serve({}) as site:
        link = {
            "text": lambda path: site.url + path,
            "object": lambda path: {"href": site.url + path, "meta": {}},
            "relative": lambda path: path,
        }[style]
        site.routes["/v1/structures"] = optimade_server(entries, link)
        request = ask(query={"filter": 'elements HAS "Mg"', "response_fields": "_test_band_gap"})
        table = get(f"optimade:{site.url}", request)
        assert len(site.asked) == 3
        assert site.asked[0].query["filter"] == 'elements HAS "Mg"'
        assert "_test_band_gap" in site.asked[0].query["response_fields"]
        get(f"optimade:{site.url}/v1", ask(limit=2))
        assert len(site.asked) == 4
    assert table.ids == tuple(f"o/{i}" for i in range(11))
    assert table.column("_test_band_gap").tolist() == [0.25 * i for i in range(11)]
    for row, structure in enumerate(structures):
        same(table, row, structure)


@pytest.mark.usefixtures("small_pages")
def test_optimade_limits_stop_in_the_middle_of_a_page(structures, ask):
    entries = [optimade_entry(s, i) for i, s in enumerate(structures)]
    with serve({}) as site:
        site.routes["/v1/structures"] = optimade_server(entries, lambda path: site.url + path)
        assert len(get(f"optimade:{site.url}", ask(limit=6))) == 6
        assert len(site.asked) == 2


@pytest.mark.usefixtures("small_pages")
def test_optimade_entries_that_are_no_crystals_are_complaints(structures, ask):
    entries = [optimade_entry(s, i) for i, s in enumerate(structures[:4])]
    entries[1]["attributes"]["species"][0]["concentration"] = [0.5]
    entries[2]["attributes"]["nperiodic_dimensions"] = 2
    entries[3]["attributes"]["lattice_vectors"] = None
    with serve({}) as site:
        site.routes["/v1/structures"] = optimade_server(entries, lambda path: path)
        table = get(f"optimade:{site.url}", ask())
    assert table.ids == ("o/0",)
    reasons = [complaint.reason for complaint in table.complaints]
    assert "disordered" in reasons[0]
    assert "three dimensions" in reasons[1]
    assert "missing or incomplete" in reasons[2]


@pytest.mark.usefixtures("small_pages")
def test_optimade_mistakes_and_loops_end(structures, ask):
    entries = [optimade_entry(s, i) for i, s in enumerate(structures)]
    with serve({}) as site:
        site.routes["/v1/structures"] = optimade_server(entries, lambda path: path)
        with pytest.raises(InputError, match="cannot parse the filter"):
            get(f"optimade:{site.url}", ask(query={"filter": "nelements"}))
        here = f"{site.url}/loop/v1/structures?page_limit=4"
        loop = json.dumps({"data": entries[:4], "links": {"next": here}, "meta": {}}).encode()
        site.routes["/loop/v1/structures"] = lambda _: Answer(loop)
        with pytest.raises(DataError, match="leads back to itself"):
            get(f"optimade:{site.url}/loop", ask())
        site.routes["/odd/v1/structures"] = lambda _: Answer(b'{"errors": [{"detail": "no"}]}')
        with pytest.raises(DataError, match="without 'data'"):
            get(f"optimade:{site.url}/odd", ask())


# --- for all ---------------------------------------------------------------------------------


def test_fixed_files_take_no_query(ask):
    with pytest.raises(InputError, match="takes no query"):
        get("mp_20", ask(query={"chemsys": "Ga-N"}))
    with pytest.raises(InputError, match="limit is 0"):
        get("mp_20", ask(limit=0))
