"""`design`: property targets in, ranked and verified crystals out, in one pass over the stages."""

import json
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from matmill.campaign import export, provenance, report
from matmill.campaign.budget import Budget
from matmill.campaign.external import collect_all
from matmill.campaign.job import Job
from matmill.campaign.parts import Parts, load_parts
from matmill.campaign.plan import CampaignSettings, check_request
from matmill.campaign.request import Request
from matmill.campaign.results import Results, all_warnings, collect
from matmill.campaign.runner import run_rounds
from matmill.campaign.store import Store
from matmill.campaign.workers import LocalWorkers, Workers
from matmill.errors import StoreError
from matmill.progress import Event, OnEvent, ignore

STORE_NAME = "campaign.sqlite"
STORE_LINK = "store.json"  # says where the store is, when it is not in the folder


@dataclass(frozen=True, kw_only=True)
class Summary:
    """What a design run delivered.

    Attributes:
        results: The crystals, best first, with everything known about them.
        folder: Where the files are.
        warnings: What the user should know before trusting the result.
        stopped_because: Why no further round was run.
    """

    results: Results
    folder: Path
    warnings: tuple[str, ...]
    stopped_because: str


def design(
    request: Request,
    settings: CampaignSettings | None = None,
    *,
    folder: Path | str,
    parts: Parts | None = None,
    workers: Workers | None = None,
    resume: bool = False,
    arguments: dict[str, Any] | None = None,
    store_url: str | None = None,
    budget: Mapping[str, float] | None = None,
    on_event: OnEvent = ignore,
) -> Summary:
    """Propose, verify and rank crystals until ``request.n`` qualify, and write all files.

    A crystal qualifies when it is valid, as requested, unique, relaxed to convergence, and at
    most the request's threshold above the hull. The best by score are delivered. When the rounds
    end with fewer, the best of the relaxed and unique ones above the threshold fill up the
    number; they come last, are marked, and a warning says so.

    The same request, settings, models and seed give the same table, also when the run was killed
    and resumed in between. Only a time limit or a task that runs into its time-out can differ.

    Args:
        request: What to design; see `campaign.request.make_request`.
        settings: How to work; defaults suit a laptop.
        folder: Where to keep the run and its files.
        parts: Models and tables; the shipped ones when None.
        workers: Where to relax, stopped at the end; one local process a core when None.
        resume: Continue the run in ``folder`` if there is one.
        arguments: What to record as the call that was made, for people.
        store_url: Database to keep the run in, e.g. ``postgresql://host/name?schema=gap2``; an
            SQLite file in ``folder`` when None.
        budget: Limits by meter, see `campaign.budget`; those of before stay when None.
        on_event: Told about progress.

    Raises:
        InputError: If the request cannot be met at all; nothing was started then.
        StoreError: If ``folder`` has a run already, or another one than this.
    """
    settings = settings or CampaignSettings()
    folder = Path(folder)
    if not resume and any((folder / name).exists() for name in (STORE_NAME, STORE_LINK)):
        raise StoreError(
            f"{folder} has a run already. Continue it with --resume, or choose another --out."
        )
    if parts is None:
        on_event(Event(stage="load", message="models and tables"))
        parts = load_parts(request)
    warnings = check_request(request, settings, parts)
    for warning in warnings:
        on_event(Event(stage="check", message=warning))
    with closing(_open(folder, store_url)) as store, closing(workers or LocalWorkers()) as crew:
        if not resume and store.setting("request") is not None:
            raise StoreError(
                f"{store.url} has a run already. Continue it with --resume, or keep this one "
                "elsewhere (another ?schema= will do)."
            )
        _bind(store, request, settings, parts)
        answered = collect_all(store)
        for line in answered:
            on_event(Event(stage="external", message=line))
        store.set_settings(warnings=[*warnings, *answered], arguments=arguments)
        job = Job(
            store=store,
            request=request,
            settings=settings,
            parts=parts,
            workers=crew,
            on_event=on_event,
            budget=Budget(store, budget),
        )
        reason = run_rounds(job)
        store.set_settings(stopped_because=reason)
        return finish(store, folder, request, settings, on_event=on_event)


def finish(
    store: Store,
    folder: Path,
    request: Request,
    settings: CampaignSettings,
    *,
    on_event: OnEvent = ignore,
) -> Summary:
    """Collect what a store holds, write all files of the run, and return the summary."""
    on_event(Event(stage="write", message=f"files to {folder}"))
    results = collect(store, request, settings)
    reason = store.setting("stopped_because") or "the run is not finished"
    warnings = all_warnings(store, results)
    export.write_all(store, results, folder)
    provenance.write(store, results, settings, folder / "run.json")
    report.write(store, results, settings, folder / "report.html", warnings=warnings)
    return Summary(results=results, folder=folder, warnings=tuple(warnings), stopped_because=reason)


def open_run(
    folder: Path | str, store_url: str | None = None
) -> tuple[Store, Request, CampaignSettings]:
    """Return the store, request and settings of the run in ``folder``.

    Args:
        folder: Of the run.
        store_url: Where its store is, if not where the folder says; with the password, if any.

    Raises:
        StoreError: If there is none.
    """
    folder = Path(folder)
    if store_url is None and not any((folder / n).exists() for n in (STORE_NAME, STORE_LINK)):
        raise StoreError(f"{folder} has no run: there is no {STORE_NAME} in it.")
    store = _open(folder, store_url)
    request, settings = store.setting("request"), store.setting("settings")
    if request is None or settings is None:
        store.close()
        raise StoreError(f"The run in {folder} was killed before it began. Start it again.")
    return store, Request.model_validate(request), CampaignSettings.model_validate(settings)


def _open(folder: Path, store_url: str | None) -> Store:
    """Open the store of a run: the given one, the one that the folder names, or the one in it.

    A password is never written down: libpq takes it from PGPASSWORD or from ~/.pgpass.
    """
    link = folder / STORE_LINK
    if store_url is not None:
        store = Store(store_url)
        folder.mkdir(parents=True, exist_ok=True)
        link.write_text(json.dumps({"url": store.database.address}) + "\n", encoding="utf-8")
        return store
    if not link.exists():
        folder.mkdir(parents=True, exist_ok=True)
        return Store(folder / STORE_NAME)
    try:
        return Store(str(json.loads(link.read_text(encoding="utf-8"))["url"]))
    except (ValueError, KeyError, TypeError) as error:
        raise StoreError(f"{link} does not name a store. Give it with --store.") from error


def _bind(store: Store, request: Request, settings: CampaignSettings, parts: Parts) -> None:
    """Tie a new store to what will fill it; refuse to continue with anything else."""
    now = {
        "request": request.model_dump(mode="json"),
        "settings": settings.model_dump(mode="json"),
        "inputs": parts.hashes(),
    }
    before = {key: store.setting(key) for key in now}
    if before["request"] is None:
        store.set_settings(**now)
        return
    # A store of an older version lacks settings that came later: it ran with their defaults.
    before["request"] = Request.model_validate(before["request"]).model_dump(mode="json")
    before["settings"] = CampaignSettings.model_validate(before["settings"]).model_dump(mode="json")
    for key, what in (("request", "request"), ("settings", "settings"), ("inputs", "model")):
        different = sorted(k for k in now[key] if now[key][k] != before[key].get(k))
        if different:
            raise StoreError(
                f"The run was begun with another {what} ({', '.join(different)} differ). Resume "
                "it with what it was begun with, or start a new one with another --out."
            )
