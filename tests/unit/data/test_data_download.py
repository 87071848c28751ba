import hashlib
import json
import socket
import time

import pytest
from local_server import Answer, serve, with_ranges

from matmill.data.download import Patience, cache_folder, fetch_file, fetch_json
from matmill.errors import DataError, InputError

BODY = bytes(range(256)) * 4096  # 1 MiB
SHA = hashlib.sha256(BODY).hexdigest()


class Naps(list):
    """Records waits instead of waiting."""

    def patience(self, **changes):
        return Patience(**{"timeout": 5.0, "tries": 4, "sleep": self.append, **changes})


@pytest.fixture
def naps():
    return Naps()


def test_a_file_arrives_and_is_not_asked_for_again(tmp_path, naps):
    events = []
    with serve({"/f": lambda asked: with_ranges(BODY, asked)}) as site:
        for _ in range(2):
            path = fetch_file(
                f"{site.url}/f",
                tmp_path / "deep" / "f.bin",
                sha256=SHA,
                patience=naps.patience(),
                on_event=events.append,
            )
            assert path.read_bytes() == BODY
        assert len(site.asked) == 1
    assert events[-1].done == events[-1].total == len(BODY)
    assert [file.name for file in path.parent.iterdir()] == ["f.bin"]


def test_a_broken_connection_goes_on_where_it_broke(tmp_path, naps):
    with serve({}) as site:
        # Three connections die after 300 kB each, the fourth lives.
        site.routes["/f"] = lambda asked: with_ranges(
            BODY, asked, cut=300_000 if len(site.asked) < 4 else None
        )
        path = fetch_file(f"{site.url}/f", tmp_path / "f", sha256=SHA, patience=naps.patience())
        assert path.read_bytes() == BODY
        spans = [asked.headers.get("range") for asked in site.asked]
    assert spans == [None, "bytes=300000-", "bytes=600000-", "bytes=900000-"]
    # Every try made progress, so the waits never grew.
    assert naps == [1.0, 1.0, 1.0]


def test_a_killed_run_is_continued_by_the_next(tmp_path, naps):
    (tmp_path / "f.part").write_bytes(BODY[:700_000])
    with serve({"/f": lambda asked: with_ranges(BODY, asked)}) as site:
        fetch_file(f"{site.url}/f", tmp_path / "f", sha256=SHA, patience=naps.patience())
        assert site.asked[0].headers["range"] == "bytes=700000-"
    assert (tmp_path / "f").read_bytes() == BODY


def test_a_complete_part_is_accepted(tmp_path, naps):
    (tmp_path / "f.part").write_bytes(BODY)
    with serve({"/f": lambda asked: with_ranges(BODY, asked)}) as site:
        fetch_file(f"{site.url}/f", tmp_path / "f", sha256=SHA, patience=naps.patience())
    assert (tmp_path / "f").read_bytes() == BODY


def test_a_part_longer_than_the_file_is_thrown_away(tmp_path, naps):
    (tmp_path / "f.part").write_bytes(BODY + b"more")
    with serve({"/f": lambda asked: with_ranges(BODY, asked)}) as site:
        fetch_file(f"{site.url}/f", tmp_path / "f", sha256=SHA, patience=naps.patience())
    assert (tmp_path / "f").read_bytes() == BODY


def test_a_server_without_ranges_starts_over(tmp_path, naps):
    (tmp_path / "f.part").write_bytes(b"something else entirely")
    with serve({"/f": lambda _: Answer(BODY)}) as site:
        fetch_file(f"{site.url}/f", tmp_path / "f", sha256=SHA, patience=naps.patience())
    assert (tmp_path / "f").read_bytes() == BODY


def test_halves_of_two_versions_are_noticed_and_fetched_again(tmp_path, naps):
    (tmp_path / "f.part").write_bytes(b"x" * 1000)
    with serve({"/f": lambda asked: with_ranges(BODY, asked)}) as site:
        fetch_file(f"{site.url}/f", tmp_path / "f", sha256=SHA, patience=naps.patience())
        assert [asked.headers.get("range") for asked in site.asked] == ["bytes=1000-", None]
    assert (tmp_path / "f").read_bytes() == BODY


def test_a_wrong_checksum_is_an_error_and_leaves_nothing(tmp_path, naps):
    with (
        serve({"/f": lambda asked: with_ranges(BODY, asked)}) as site,
        pytest.raises(DataError, match=f"checksum {SHA}, but 0000"),
    ):
        fetch_file(f"{site.url}/f", tmp_path / "f", sha256="0000", patience=naps.patience())
    assert list(tmp_path.iterdir()) == []


def test_a_changed_cached_file_is_fetched_again(tmp_path, naps):
    (tmp_path / "f").write_bytes(b"damaged on disk")
    with serve({"/f": lambda asked: with_ranges(BODY, asked)}) as site:
        fetch_file(f"{site.url}/f", tmp_path / "f", sha256=SHA, patience=naps.patience())
    assert (tmp_path / "f").read_bytes() == BODY


def test_a_busy_server_is_given_the_time_it_asks_for(naps):
    def busy_twice(_):
        if len(site.asked) <= 2:
            return Answer(b"slow down", 429, {"Retry-After": "7"})
        return Answer(b'{"a": 1}')

    with serve({"/j": busy_twice}) as site:
        assert fetch_json(f"{site.url}/j", patience=naps.patience()) == {"a": 1}
    assert naps == [7.0, 7.0]


def test_waits_double_and_end(naps):
    with serve({"/j": lambda _: Answer(b"", 503)}) as site:
        with pytest.raises(DataError, match=r"503 .*tried 4 times.*online"):
            fetch_json(f"{site.url}/j", patience=naps.patience())
        assert len(site.asked) == 4
    assert naps == [1.0, 2.0, 4.0]


def test_a_silent_server_is_a_time_out(naps):
    with (
        serve({"/j": lambda _: time.sleep(0.6) or Answer(b"{}")}) as site,
        pytest.raises(DataError, match="timed out"),
    ):
        fetch_json(f"{site.url}/j", patience=naps.patience(timeout=0.1, tries=2))


def test_offline_is_one_clear_error(tmp_path, naps):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with pytest.raises(DataError, match=rf"Is this machine online.*127\.0\.0\.1:{port}"):
        fetch_file(f"http://127.0.0.1:{port}/f", tmp_path / "f", patience=naps.patience())


@pytest.mark.parametrize(
    ("status", "kind", "message"),
    [
        (401, InputError, "Check the key"),
        (403, InputError, "Check the key"),
        (400, InputError, "does not understand the query: bad filter"),
        (404, DataError, "may have moved"),
    ],
)
def test_what_waiting_cannot_mend_fails_at_once(naps, status, kind, message):
    with serve({"/j": lambda _: Answer(b"bad filter", status)}) as site:
        with pytest.raises(kind, match=message):
            fetch_json(f"{site.url}/j", patience=naps.patience())
        assert len(site.asked) == 1
    assert naps == []


def test_json_is_kept_and_html_is_refused(tmp_path, naps):
    with serve({"/j": lambda _: Answer(b'{"a": 1}'), "/h": lambda _: Answer(b"<html>")}) as site:
        for _ in range(2):
            kept = fetch_json(
                f"{site.url}/j",
                query={"q": "a b"},
                keep_at=tmp_path / "x" / "j.json",
                patience=naps.patience(),
            )
            assert kept == {"a": 1}
        assert [asked.query for asked in site.asked] == [{"q": "a b"}]
        with pytest.raises(DataError, match="something else than JSON: '<html>"):
            fetch_json(f"{site.url}/h", patience=naps.patience())
    assert json.loads((tmp_path / "x" / "j.json").read_text()) == {"a": 1}


def test_other_addresses_are_refused(naps):
    with pytest.raises(InputError, match="not an http"):
        fetch_json("file:///etc/hosts", patience=naps.patience())


def test_the_cache_is_where_the_user_says(monkeypatch, tmp_path):
    monkeypatch.setenv("MATMILL_CACHE", str(tmp_path))
    assert cache_folder() == tmp_path
    monkeypatch.delenv("MATMILL_CACHE")
    monkeypatch.setattr("sys.platform", "linux")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_folder() == tmp_path / "xdg" / "matmill"
