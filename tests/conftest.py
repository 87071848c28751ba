"""Settings for the whole test run."""

import os
from pathlib import Path

import pytest
from hypothesis import settings

os.environ.setdefault("OMP_NUM_THREADS", "1")
settings.register_profile("matmill", deadline=None, derandomize=True, max_examples=50)
settings.load_profile("matmill")

SHARED = Path(os.environ.get("MATMILL_DATA", Path(__file__).parents[2] / "shared" / "data"))


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of given data, where it is at hand."""
    if not (SHARED / "mp_20.parquet").exists():
        pytest.skip(f"the given data are not at {SHARED}")
    return SHARED
