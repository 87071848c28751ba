"""Settings for the whole test run."""

import itertools
import os
import sys
from contextlib import ExitStack
from pathlib import Path

import pytest
from hypothesis import settings

os.environ.setdefault("OMP_NUM_THREADS", "1")
settings.register_profile("matmill", deadline=None, derandomize=True, max_examples=50)
settings.load_profile("matmill")

sys.path.append(str(Path(__file__).parent))  # for the helpers beside this file
_numbers = itertools.count()
SHARED = Path(os.environ.get("MATMILL_DATA", Path(__file__).parents[2] / "shared" / "data"))


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of given data, where it is at hand."""
    if not (SHARED / "mp_20.parquet").exists():
        pytest.skip(f"the given data are not at {SHARED}")
    return SHARED


@pytest.fixture(scope="session")
def postgres():
    """URL of a PostgreSQL server of this test run; skips where none is installed."""
    pytest.importorskip("psycopg", reason="psycopg is not installed")
    from postgres_server import NoServerError, serve

    with ExitStack() as stack:
        try:
            url = stack.enter_context(serve())
        except NoServerError as reason:
            pytest.skip(str(reason))
        yield url


@pytest.fixture(params=["sqlite", "postgresql"])
def store_url(request, tmp_path):
    """Where an empty store may be made: a file, then a schema of its own on a server."""
    if request.param == "sqlite":
        return str(tmp_path / "store.sqlite")
    return f"{request.getfixturevalue('postgres')}&schema=s{next(_numbers)}"
