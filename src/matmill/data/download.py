"""Fetching files and JSON over HTTP: resumed, retried, checked, kept; clear when offline."""

import hashlib
import http.client
import json
import os
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any

from matmill.errors import DataError, InputError
from matmill.progress import Event, OnEvent, ignore

_CHUNK = 1 << 18  # bytes
_RETRIED = frozenset({408, 425, 429, 500, 502, 503, 504})
_REFUSED = frozenset({401, 403})
_LONGEST_WAIT = 60.0  # seconds, also where a server asks for more
_AGENT = "matmill (https://pypi.org/project/matmill)"


class _TryAgainError(Exception):
    """Something that may pass: ``wait`` is what the server asked for, in seconds."""

    def __init__(self, reason: str, wait: float | None = None) -> None:
        super().__init__(reason)
        self.wait = wait


@dataclass(frozen=True, slots=True, kw_only=True)
class Patience:
    """How long to insist.

    Attributes:
        timeout: Seconds without a byte before a try counts as failed.
        tries: Attempts in all; a try that made progress starts the count again.
        wait: Seconds before the second try; doubled each time.
        sleep: What waits.
    """

    timeout: float = 30.0
    tries: int = 5
    wait: float = 1.0
    sleep: Any = field(default=time.sleep)


def cache_folder() -> Path:
    """Return where downloads are kept: ``MATMILL_CACHE``, else the platform's cache folder."""
    chosen = os.environ.get("MATMILL_CACHE")
    if chosen:
        return Path(chosen).expanduser()
    home = Path.home()
    if sys.platform == "darwin":
        return home / "Library" / "Caches" / "matmill"
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA", home / "AppData" / "Local")) / "matmill"
    return Path(os.environ.get("XDG_CACHE_HOME", home / ".cache")) / "matmill"


def fetch_file(
    url: str,
    path: Path,
    *,
    sha256: str | None = None,
    patience: Patience | None = None,
    on_event: OnEvent = ignore,
) -> Path:
    """Download ``url`` to ``path`` unless it is there; an interrupted download goes on.

    Args:
        url: ``http`` or ``https``.
        path: Where the file ends up; it appears only when complete.
        sha256: Checksum, hex, where it is known.
        patience: Time-outs and retries.
        on_event: Told about bytes.

    Raises:
        DataError: If the server cannot be reached, or the file is not what was expected.
    """
    patience = patience or Patience()
    if path.exists():
        if sha256 is None or _digest(path) == sha256:
            return path
        path.unlink()
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f"{path.name}.part")
    for attempt in range(2):
        was_partial = part.exists()
        _insist(url, patience, lambda: _append(url, part, patience.timeout, on_event), part)
        found = _digest(part) if sha256 is not None else None
        if found == sha256:
            part.replace(path)
            return path
        part.unlink()
        # Two halves of different versions may have been joined: start over, but only then.
        if not was_partial or attempt:
            raise DataError(
                f"{url} has the checksum {found}, but {sha256} was expected. The file was "
                "removed; try again, and if it stays so, the publisher has changed the file."
            )
    raise AssertionError("unreachable")


def fetch_json(
    url: str,
    *,
    query: Mapping[str, str | int] | None = None,
    headers: Mapping[str, str] | None = None,
    keep_at: Path | None = None,
    patience: Patience | None = None,
) -> Any:  # noqa: ANN401 - JSON can be anything
    """Return the JSON at ``url``.

    Args:
        url: ``http`` or ``https``.
        query: Added to the address.
        headers: Sent along, e.g. a key; never written anywhere.
        keep_at: File to answer from when it exists, and to keep the answer in.
        patience: Time-outs and retries.

    Raises:
        InputError: If the server refuses the key, or finds the query wrong.
        DataError: If it cannot be reached or answers something else than JSON.
    """
    patience = patience or Patience()
    if keep_at is not None and keep_at.exists():
        return json.loads(keep_at.read_bytes())
    if query:
        url += ("&" if "?" in url else "?") + urllib.parse.urlencode(query)

    def ask() -> bytes:
        with _open(url, {"Accept": "application/json", **(headers or {})}, patience.timeout) as r:
            return r.read()

    body = _insist(url, patience, ask)
    try:
        answer = json.loads(body)
    except ValueError as error:
        start = body[:80].decode("utf-8", "replace")
        raise DataError(f"{url} answered something else than JSON: '{start}…'.") from error
    if keep_at is not None:
        keep_at.parent.mkdir(parents=True, exist_ok=True)
        part = keep_at.with_name(f"{keep_at.name}.part")
        part.write_bytes(body)
        part.replace(keep_at)
    return answer


def _append(url: str, part: Path, timeout: float, on_event: OnEvent) -> int:
    """Add what is missing to ``part``; return its size when complete."""
    start = part.stat().st_size if part.exists() else 0
    headers = {"Accept-Encoding": "identity"}
    if start:
        headers["Range"] = f"bytes={start}-"
    try:
        response = _open(url, headers, timeout)
    except urllib.error.HTTPError as error:
        if error.code != 416:
            raise
        # Nothing lies beyond our end: complete, or longer than the file has become.
        total = error.headers.get("Content-Range", "").rpartition("/")[2]
        if total == str(start):
            return start
        part.unlink()
        raise _TryAgainError("the partial file does not fit the server's") from error
    with response:
        span = response.headers.get("Content-Range", "")
        is_continued = response.status == 206 and span.startswith(f"bytes {start}-")
        done = start if is_continued else 0
        length = response.headers.get("Content-Length")
        total = done + int(length) if length is not None else None
        with part.open("ab" if is_continued else "wb") as file:
            while chunk := response.read(_CHUNK):
                file.write(chunk)
                done += len(chunk)
                on_event(Event(stage="download", done=done, total=total, message=part.stem))
    if total is not None and done < total:
        raise _TryAgainError(f"the connection ended after {done} of {total} bytes")
    return done


def _open(url: str, headers: Mapping[str, str], timeout: float) -> http.client.HTTPResponse:
    if urllib.parse.urlsplit(url).scheme not in {"http", "https"}:
        raise InputError(f"'{url}' is not an http or https address.")
    request = urllib.request.Request(url, headers={"User-Agent": _AGENT, **headers})
    return urllib.request.urlopen(request, timeout=timeout)


def _insist(url: str, patience: Patience, action: Any, part: Path | None = None) -> Any:  # noqa: ANN401
    """Run ``action`` until it works or patience ends; turn every failure into one message."""
    host = urllib.parse.urlsplit(url).netloc
    failed, size, waits = 0, _size(part), 0.0
    while True:
        try:
            return action()
        except urllib.error.HTTPError as error:
            reason, wait = _explain(error, url, host)
        except _TryAgainError as error:
            reason, wait = str(error), error.wait
        except (OSError, http.client.HTTPException) as error:
            # URLError and time-outs are OSError; dropped connections are of either family.
            cause = getattr(error, "reason", None) or error
            reason, wait = str(cause) or type(cause).__name__, None
        grown = _size(part) > size
        size, failed = _size(part), 1 if grown else failed + 1
        if failed >= patience.tries:
            raise DataError(
                f"Cannot get {url}: {reason} (tried {patience.tries} times). Is this machine "
                f"online, and may it reach {host}? What has been downloaded is kept; the same "
                "command goes on from there."
            )
        waits = patience.wait * 2 ** (failed - 1)
        patience.sleep(min(_LONGEST_WAIT, waits if wait is None else wait))


def _explain(error: urllib.error.HTTPError, url: str, host: str) -> tuple[str, float | None]:
    """Return why a server refused and how long to wait; raise where waiting is of no use."""
    with error:
        text = error.read(500).decode("utf-8", "replace").strip()
        headers = error.headers
    if error.code in _RETRIED:
        return f"{host} answered {error.code} {error.reason}", _retry_after(headers)
    if error.code in _REFUSED:
        raise InputError(
            f"{host} refused access ({error.code} {error.reason}). Check the key: it may be "
            "missing, mistyped or expired."
        ) from error
    if error.code in {400, 422}:
        raise InputError(f"{host} does not understand the query: {text or error.reason}") from error
    raise DataError(
        f"{url} answered {error.code} {error.reason}. The publisher may have moved the file."
    ) from error


def _retry_after(headers: Any) -> float | None:  # noqa: ANN401 - email.message.Message
    value = headers.get("Retry-After") if headers else None
    if value is None:
        return None
    try:
        return max(0.0, float(value))
    except ValueError:
        pass
    try:
        return max(0.0, parsedate_to_datetime(value).timestamp() - time.time())
    except ValueError:
        return None


def _size(part: Path | None) -> int:
    return part.stat().st_size if part is not None and part.exists() else 0


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
