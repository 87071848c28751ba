"""What a campaign has spent, done and handed out, as tables for people and programs."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from matmill.campaign.budget import Budget
from matmill.campaign.evaluators import Cost
from matmill.campaign.external import ExternalEvaluator, reopen
from matmill.campaign.plan import CampaignSettings
from matmill.campaign.request import Request
from matmill.campaign.results import collect
from matmill.campaign.store import Store
from matmill.campaign.tasks import DONE, FAILED, TaskBoard


def spending(store: Store) -> list[dict[str, Any]]:
    """Return one row a meter: what is used, the limit and what is left (None: no limit)."""
    return [
        {key: round(x, 3) if isinstance(x, float) else x for key, x in row.items()}
        for row in Budget(store).table()
    ]


def tasks(store: Store) -> list[dict[str, Any]]:
    """Return one row a kind of task: how many are done, how many failed."""
    return [
        {"kind": kind, "done": counts.get(DONE, 0), "failed": counts.get(FAILED, 0)}
        for kind, counts in TaskBoard(store).counts().items()
    ]


def what_is_out(store: Store) -> list[dict[str, Any]]:
    """Return one row a batch that was handed out: to whom, how many, how many are back."""
    return [
        {
            "evaluator": evaluator.name,
            "batch": state.name,
            "crystals": state.n,
            "back": state.n_back,
            "folder": str(evaluator.folder),
        }
        for evaluator in reopen(store)
        for state in evaluator.batches()
    ]


def hand_out(
    store: Store,
    request: Request,
    settings: CampaignSettings,
    folder: Path,
    columns: Sequence[str],
    *,
    name: str,
    cost: Cost,
) -> dict[str, Any]:
    """Hand out the delivered crystals of a design run; return what was done, as numbers.

    Raises:
        InputError: If a column is unknown.
    """
    evaluator = ExternalEvaluator(store, folder, columns, name=name, cost=cost)
    delivered = [c.structure for c in collect(store, request, settings).delivered]
    before = sum(state.n for state in evaluator.batches())
    batch = evaluator.submit(store.batch(delivered), budget=Budget(store))
    states = evaluator.batches()
    n_all = sum(state.n for state in states)
    return {
        "batch": batch,
        "folder": str(evaluator.folder),
        "n_new": n_all - before,
        "n_out": sum(state.n - state.n_back for state in states),
        "n_refused": len({*delivered}) - sum(s in evaluator.asked() for s in {*delivered}),
    }
