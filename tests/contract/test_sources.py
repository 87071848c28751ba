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

import pytest
from local_server import Answer, serve, with_ranges
from served import same

from matmill.data import sources
from matmill.data.catalogue import CATALOGUE, OPTIMADE_PROVIDERS, find_source
from matmill.data.sources import get
from matmill.errors import DataError, InputError, UnknownNameError

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


# --- for all ---------------------------------------------------------------------------------


def test_fixed_files_take_no_query(ask):
    with pytest.raises(InputError, match="takes no query"):
        get("mp_20", ask(query={"chemsys": "Ga-N"}))
    with pytest.raises(InputError, match="limit is 0"):
        get("mp_20", ask(limit=0))
