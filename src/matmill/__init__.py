"""matmill: inverse design of crystals. Property targets in, verified crystal structures out."""

from importlib import import_module
from typing import Any

__version__ = "0.1.0"

_PUBLIC = {
    "CrystalBatch": "matmill.crystals.batch",
    "concatenate": "matmill.crystals.batch",
    "read": "matmill.crystals.files",
    "write": "matmill.crystals.files",
    "LabelledCrystals": "matmill.data.table",
    "Flywheel": "matmill.steer.flywheel.driver",
    "design": "matmill.steer.design",
    "load_generator": "matmill.generate.protocol",
    "load_predictor": "matmill.predict.protocol",
    "relax": "matmill.verify.relax",
}
__all__ = ["__version__", *_PUBLIC]  # pyright: ignore[reportUnsupportedDunderAll] - lazy


def __getattr__(name: str) -> Any:  # noqa: ANN401 - any public object
    """Import a public name on first use, so that ``import matmill`` stays cheap."""
    if name in _PUBLIC:
        return getattr(import_module(_PUBLIC[name]), name)
    raise AttributeError(f"module 'matmill' has no attribute '{name}'")


def __dir__() -> list[str]:
    return sorted(__all__)
