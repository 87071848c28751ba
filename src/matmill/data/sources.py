"""Fetching the data sets of the catalogue: download once, keep, parse into `LabelledCrystals`."""

import hashlib
import itertools
import os
import shutil
import urllib.parse
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from matmill.data import formats
from matmill.data.catalogue import Source, find_source
from matmill.data.download import Patience, cache_folder, fetch_file, fetch_json
from matmill.data.table import LabelledCrystals
from matmill.errors import DataError, InputError
from matmill.progress import Event, OnEvent, ignore

KEY_VARIABLES = ("MP_API_KEY", "PMG_MAPI_KEY")
_MP_PAGE = 500  # documents; with structures a page is then about 2 MB
_OPTIMADE_PAGE = 100
_OPTIMADE_FIELDS = (
    "lattice_vectors",
    "cartesian_site_positions",
    "species",
    "species_at_sites",
    "nperiodic_dimensions",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What to ask of a source, beyond its name.

    Attributes:
        query: For databases: filters by name, e.g. ``{"chemsys": "Ga-N"}`` for the Materials
            Project, ``{"filter": 'elements HAS ALL "Ga","N"'}`` for OPTIMADE.
        limit: Most crystals to take; None for all.
        key: Of the Materials Project; by default the environment variable ``MP_API_KEY``.
        cache: Folder for downloads; see `download.cache_folder`.
        is_fresh: Download again even if it is there.
        patience: Time-outs and retries.
    """

    query: Mapping[str, str] = field(default_factory=dict)
    limit: int | None = None
    key: str | None = None
    cache: Path | None = None
    is_fresh: bool = False
    patience: Patience = field(default_factory=Patience)


def get(
    source: str | Source, request: Request | None = None, *, on_event: OnEvent = ignore
) -> LabelledCrystals:
    """Fetch a data set; a second call reads what the first one kept.

    Args:
        source: Name in the catalogue, ``optimade:…``, or a `Source`.
        request: Filters, key, cache and patience.
        on_event: Told about bytes and pages.

    Raises:
        UnknownNameError: If nothing has that name.
        InputError: If a key is missing or refused, or a query is not understood.
        DataError: If the server cannot be reached or its files are broken.
    """
    request = request or Request()
    source = source if isinstance(source, Source) else find_source(source)
    if request.limit is not None and request.limit < 1:
        raise InputError(f"The limit is {request.limit}; at least 1 crystal is needed.")
    if request.query and source.format not in {"materials_project", "optimade"}:
        raise InputError(
            f"{source.name} is a fixed file and takes no query; only mp and optimade:… do."
        )
    folder = (request.cache or cache_folder()) / "data" / _file_name(source.name)
    if request.is_fresh and folder.exists():
        shutil.rmtree(folder)
    table = _GETTERS[source.format](source, request, folder, on_event)
    if request.limit is not None and len(table) > request.limit:
        table = table.select(range(request.limit))
    return table


def _get_matbench(
    source: Source, request: Request, folder: Path, on_event: OnEvent
) -> LabelledCrystals:
    path = _download(source, "all", folder / f"{source.name}.json.gz", request, on_event)
    return formats.parse_matbench(path, source.name, source.columns)


def _get_jarvis(
    source: Source, request: Request, folder: Path, on_event: OnEvent
) -> LabelledCrystals:
    path = _download(source, "all", folder / f"{source.name}.json.zip", request, on_event)
    return formats.parse_jarvis(path, source.name, source.columns)


def _get_cif_csv(
    source: Source, request: Request, folder: Path, on_event: OnEvent
) -> LabelledCrystals:
    paths = {
        part: _download(source, part, folder / f"{part}.csv", request, on_event)
        for part in source.urls
    }
    return formats.parse_cif_csv(paths, source.name, source.columns)


def _get_materials_project(
    source: Source, request: Request, folder: Path, on_event: OnEvent
) -> LabelledCrystals:
    key = request.key or next((os.environ[v] for v in KEY_VARIABLES if os.environ.get(v)), None)
    if not key:
        raise InputError(
            "The Materials Project needs a key. Get one for free at "
            "https://materialsproject.org/api and set MP_API_KEY, or pass --key."
        )
    pages = _summaries(source, request, folder, key, on_event)
    return formats.parse_summaries(pages, source.name, source.columns)


def _get_optimade(
    source: Source, request: Request, folder: Path, on_event: OnEvent
) -> LabelledCrystals:
    entries = itertools.islice(_entries(source, request, folder, on_event), request.limit)
    return formats.parse_optimade(entries, source.name)


_GETTERS = {
    "matbench": _get_matbench,
    "jarvis": _get_jarvis,
    "cif_csv": _get_cif_csv,
    "materials_project": _get_materials_project,
    "optimade": _get_optimade,
}


def _download(source: Source, part: str, path: Path, request: Request, on_event: OnEvent) -> Path:
    return fetch_file(
        source.urls[part],
        path,
        sha256=source.sha256.get(part),
        patience=request.patience,
        on_event=on_event,
    )


def _summaries(
    source: Source, request: Request, folder: Path, key: str, on_event: OnEvent
) -> Iterator[Mapping[str, Any]]:
    """Yield summary documents page by page; each page is kept, so a stopped run goes on."""
    fields = sorted({name.partition(".")[0] for name in source.columns})
    wanted = {
        "deprecated": "false",
        "_fields": ",".join(["material_id", "structure", *fields]),
        **request.query,
    }
    place = folder / _digest(repr(sorted(wanted.items())))
    done, total = 0, None
    while total is None or done < total:
        left = _MP_PAGE if request.limit is None else min(_MP_PAGE, request.limit - done)
        if left <= 0:
            return
        answer = fetch_json(
            source.urls["all"],
            query={**wanted, "_limit": left, "_skip": done},
            headers={"X-API-KEY": key},
            keep_at=place / f"{done:07d}-{left}.json",
            patience=request.patience,
        )
        documents = _member(answer, "data", source.name)
        total = int(answer.get("meta", {}).get("total_doc", done + len(documents)))
        if not documents:
            return
        yield from documents
        done += len(documents)
        on_event(Event(stage="download", done=done, total=total, message="documents"))


def _entries(
    source: Source, request: Request, folder: Path, on_event: OnEvent
) -> Iterator[Mapping[str, Any]]:
    """Yield OPTIMADE structures, following ``links.next`` until there is none."""
    query = dict(request.query)
    extra = [name for name in query.pop("response_fields", "").split(",") if name]
    size = _OPTIMADE_PAGE if request.limit is None else min(_OPTIMADE_PAGE, request.limit)
    wanted = {
        **query,
        "page_limit": query.get("page_limit", size),
        "response_format": "json",
        "response_fields": ",".join([*_OPTIMADE_FIELDS, *extra]),
    }
    url: str | None = f"{_structures_url(source.urls['all'])}?{urllib.parse.urlencode(wanted)}"
    seen: set[str] = set()
    done = 0
    while url is not None:
        if url in seen:
            raise DataError(f"{source.name}: page {url} leads back to itself; stopped there.")
        seen.add(url)
        keep_at = folder / f"{_digest(url)}.json"
        answer = fetch_json(url, keep_at=keep_at, patience=request.patience)
        entries = _member(answer, "data", source.name)
        yield from entries
        done += len(entries)
        total = answer.get("meta", {}).get("data_returned")
        on_event(Event(stage="download", done=done, total=total, message="structures"))
        following = (answer.get("links") or {}).get("next")
        if isinstance(following, Mapping):
            following = following.get("href")
        url = urllib.parse.urljoin(url, following) if following else None


def _structures_url(base: str) -> str:
    """Return the structures endpoint for a base address with or without version."""
    base = base.rstrip("/")
    if base.endswith("/structures"):
        return base
    last = base.rpartition("/")[2]
    is_versioned = last.startswith("v") and last[1:2].isdigit()
    return f"{base}/structures" if is_versioned else f"{base}/v1/structures"


def _member(answer: Any, name: str, source: str) -> list[Any]:  # noqa: ANN401 - foreign JSON
    found = answer.get(name) if isinstance(answer, Mapping) else None
    if not isinstance(found, list):
        problem = answer.get("errors") if isinstance(answer, Mapping) else None
        raise DataError(f"{source} answered without '{name}': {problem or 'unknown format'}.")
    return found


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:24]


def _file_name(name: str) -> str:
    """Return a folder name that every file system accepts."""
    plain = "".join(c if c.isalnum() or c in "._-" else "_" for c in name)
    return plain if plain == name else f"{plain[:60]}-{_digest(name)[:8]}"
