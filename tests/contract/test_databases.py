"""Databases that answer page by page, from a server on this machine that speaks their format."""

import json
from dataclasses import replace

import pytest
from local_server import Answer, serve
from served import same

from matmill.data import sources
from matmill.data.catalogue import CATALOGUE
from matmill.data.sources import get
from matmill.errors import DataError, InputError

KEY = "k" * 32


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
