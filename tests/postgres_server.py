"""A private PostgreSQL server for the time of a test run, on a socket in a folder of its own."""

import os
import pwd
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

START_S = 60.0


class NoServerError(Exception):
    """Why there is no server."""


@contextmanager
def serve() -> Iterator[str]:
    """Yield the URL of a fresh server, and stop it at the end.

    Raises:
        NoServerError: If none can be started here.
    """
    initdb, postgres = _program("initdb"), _program("postgres")
    folder = Path(tempfile.mkdtemp(prefix="matmill-pg-"))
    who = _unprivileged(folder)
    data = str(folder / "data")
    command = [initdb, "-D", data, "-A", "trust", "-U", "matmill", "-E", "UTF8", "--no-sync"]
    process = None
    try:
        made = subprocess.run(
            command, capture_output=True, text=True, check=False, cwd=folder, **who
        )
        if made.returncode:
            raise NoServerError(f"initdb failed: {made.stderr.strip()}")
        settings = ["listen_addresses=", "fsync=off", "shared_buffers=16MB", "max_connections=30"]
        command = [postgres, "-D", data, "-k", str(folder)]
        for setting in settings:
            command += ["-c", setting]
        with (folder / "log").open("wb") as log:
            process = subprocess.Popen(command, stdout=log, stderr=log, cwd=folder, **who)
        _wait(process, folder)
        yield f"postgresql+psycopg://matmill@/postgres?host={folder}"
    finally:
        if process is not None:
            process.terminate()
            process.wait()
        shutil.rmtree(folder, ignore_errors=True)


def _wait(process: subprocess.Popen[bytes], folder: Path) -> None:
    import psycopg

    last = time.monotonic() + START_S
    while True:
        try:
            psycopg.connect(host=str(folder), user="matmill", dbname="postgres").close()
        except psycopg.OperationalError as error:
            if process.poll() is not None or time.monotonic() > last:
                log = (folder / "log").read_text(encoding="utf-8", errors="replace")
                raise NoServerError(f"postgres did not start: {log or error}") from error
            time.sleep(0.05)
        else:
            return


def _program(name: str) -> str:
    found = shutil.which(name)
    if found is None:  # Debian keeps the programs of each version out of the path
        places = sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{name}"))
        found = str(places[-1]) if places else None
    if found is None:
        raise NoServerError(
            "no PostgreSQL server is installed (Debian: apt-get install postgresql)"
        )
    return found


def _unprivileged(folder: Path) -> dict[str, object]:
    """Return how to start what refuses to run as root, and give it the folder."""
    if os.getuid() != 0:
        return {}
    for name in ("postgres", "nobody"):
        try:
            user = pwd.getpwnam(name)
        except KeyError:
            continue
        os.chown(folder, user.pw_uid, user.pw_gid)
        return {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []}
    raise NoServerError("PostgreSQL refuses to run as root, and there is no other user")
