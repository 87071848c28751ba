"""``run.json``: what made the results of a run, so that they can be made again and cited."""

import json
import os
import platform
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from matmill import __version__
from matmill.campaign.plan import CampaignSettings
from matmill.campaign.results import Results
from matmill.campaign.store import Store

_PACKAGES = ("torch", "numpy", "pymatgen", "chgnet", "moyopy", "vesin", "SQLAlchemy")


def write(store: Store, results: Results, settings: CampaignSettings, path: Path) -> None:
    """Write the record of the run in ``store``."""
    record = make(store, results, settings)
    temporary = path.with_suffix(".tmp")
    temporary.write_text(json.dumps(record, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    temporary.replace(path)


def make(store: Store, results: Results, settings: CampaignSettings) -> dict[str, Any]:
    """Return the record of the run in ``store``."""
    return {
        "matmill": __version__,
        "request": results.request.model_dump(mode="json"),
        "seed": results.request.seed,
        "settings": settings.model_dump(mode="json"),
        "inputs": store.setting("inputs"),
        "arguments": store.setting("arguments"),
        "rounds": store.setting("rounds"),
        "stopped_because": store.setting("stopped_because"),
        "warnings": store.setting("warnings"),
        "funnel": results.funnel,
        "fates": results.fates,
        "n_delivered": len(results.delivered),
        "n_filled": results.n_filled,
        "n_on_target": results.n_on_target,
        "seconds": store.seconds_by_stage(),
        "machine": machine(),
    }


def machine() -> dict[str, Any]:
    """Return what is known about this computer and the versions of what matters."""
    packages = {}
    for name in _PACKAGES:
        try:
            packages[name] = version(name)
        except PackageNotFoundError:
            continue
    return {
        "system": platform.platform(),
        "processor": _processor(),
        "n_cores": os.cpu_count(),
        "python": sys.version.split()[0],
        "packages": packages,
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()
