"""Listings and what is made of them: hostile ones are refused, compared ones tell what a person would."""

from __future__ import annotations

import io
import json
import time
from hashlib import blake2b
from pathlib import Path
from typing import Any

import pytest
from tests.unit.node.test_disk_archive import ENV, PLAIN, file, line, stream, write

from hutch.errors import LimitReached
from hutch.node.disk import archive, comparing, listing, texts
from hutch.node.disk.comparing import Listed, compare
from hutch.node.disk.entries import Hostile, shown


def state(kind: str = "file", **changes: Any) -> dict[str, Any]:
    return {"type": kind, **PLAIN, **({"size": 1, "digest": "a"} if kind == "file" else {}), **changes}


def told(before: dict[str, Listed], after: dict[str, Listed], prefix: str = "") -> dict[str, str]:
    return {one.path: one.change for one in compare(before, after, prefix)}


def test_a_path_that_is_not_listed_is_as_the_image_has_it() -> None:
    image = state(digest="i")
    edited = {"f": Listed(state(), image)}
    gone = {"f": Listed(None, image)}
    assert told({}, edited) == {"f": "changed"}
    assert told({}, gone) == {"f": "removed"}
    assert told(gone, {}) == {"f": "added"}
    assert told(edited, gone) == {"f": "removed"}
    assert told({}, {"f": Listed(state(), None)}) == {"f": "added"}
    assert told(edited, edited) == {}


def test_what_lay_below_a_directory_that_is_gone_is_gone() -> None:
    gone = {"d": Listed(None, state("directory"))}
    inside = {"d/f": Listed(state(), state(digest="i"))}
    assert told(inside, gone) == {"d": "removed", "d/f": "removed"}
    replaced = {"d": Listed(state(), state("directory"))}
    assert told(inside, replaced) == {"d": "changed", "d/f": "removed"}


@pytest.mark.parametrize(
    ("change", "noticed"),
    [
        ({"mtime": 9}, False),
        ({"digest": "b"}, True),
        ({"size": 2}, True),
        ({"mode": 0o600}, True),
        ({"uid": 5}, True),
        ({"type": "fifo"}, True),
    ],
)
def test_what_counts_as_a_change(change: dict[str, Any], noticed: bool) -> None:
    assert comparing.same(state(), state(**change)) is not noticed


def test_without_digests_the_time_stands_for_the_content() -> None:
    plain = {key: value for key, value in state().items() if key != "digest"}
    assert comparing.same(plain, state()) and not comparing.same(plain, state(mtime=2))
    assert comparing.same(state("directory"), state("directory", mtime=2))


def test_a_prefix_is_a_whole_name() -> None:
    found = {path: Listed(state(), None) for path in ("a", "a/b", "ab", "c")}
    assert told({}, found, "a") == {"a": "added", "a/b": "added"}


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"x\n",
        line(path="f", now=state(), was=None),
        line(path="../f", now=state(), was=None) + line(end=True),
        line(path="f", now={"type": "file"}, was=None) + line(end=True),
        line(path="f", now=[1], was=None) + line(end=True),
        line(error="no"),
    ],
)
def test_a_listing_that_is_not_as_it_should_be_is_refused(data: bytes) -> None:
    with pytest.raises(Hostile):
        listing.from_guest(io.BytesIO(data))


def test_an_endless_listing_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listing, "MOST_PATHS", 10)
    endless = b"".join(line(path=f"f{n}", now=state(), was=None) for n in range(20))
    with pytest.raises(LimitReached):
        listing.from_guest(io.BytesIO(endless + line(end=True)))


def test_a_listing_of_long_names_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listing, "_MOST_BYTES", 20_000)
    paths = ["/".join([f"{number:0200}"] * 20) for number in range(6)]
    for told_by in (
        line(path=paths[0], now=state("symlink", target="x" * 4000), was=state("symlink", target="y" * 4000)) * 2,
        b"".join(line(path=path, now=state(), was=None) for path in paths),
    ):
        listing.from_guest(io.BytesIO(told_by[: told_by.index(b"\n") + 1] + line(end=True)))
        with pytest.raises(LimitReached):
            listing.from_guest(io.BytesIO(told_by + line(end=True)))
    touched = (file(path, 0).replace(b'"path"', b'"was": %s, "path"' % _was_empty()) for path in paths)
    write(stream(*touched), tmp_path / "archive")
    with pytest.raises(LimitReached):
        listing.from_archive(tmp_path / "archive")


def _was_empty() -> bytes:
    digest = blake2b(digest_size=20).hexdigest()
    return json.dumps({**PLAIN, "type": "file", "size": 0, "digest": digest}).encode()


def test_a_kept_listing_is_not_unpacked_without_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kept = listing.Kept(tmp_path)
    bomb = {"f": Listed(state(), None), "x" * 4000: Listed(None, state())}
    kept.put("snp_1", bomb)
    assert kept.get("snp_1") == bomb
    monkeypatch.setattr(listing, "_MOST_BYTES", 1000)
    assert kept.get("snp_1") is None
    kept.put("snp_2", bomb)
    assert not (tmp_path / "snp_2").exists()


def test_deep_paths_are_compared_in_time() -> None:
    deep = "/".join(["a"] * 2000)
    many = {f"{deep}{number}": Listed(None, state()) for number in range(3000)}
    started = time.process_time()
    assert len(list(compare({}, many))) == 3000
    assert time.process_time() - started < 1.5


def test_what_only_begins_alike_is_not_below(tmp_path: Path) -> None:
    gone = {"d": Listed(None, state("directory"))}
    beside = {path: Listed(state(), state(digest="i")) for path in ("d-e", "d/f/g", "d0")}
    assert told(beside, gone) == {"d": "removed", "d/f/g": "removed", "d-e": "changed", "d0": "changed"}


def test_an_archive_lists_what_its_guest_would(tmp_path: Path) -> None:
    was = {"type": "file", "size": 5, **PLAIN}
    write(
        stream(
            file("new", 5, (0, b"hello")),
            line(path="second", type="hardlink", target="new"),
            line(path="gone", type="gone", was=was),
            line(path="d", type="gone", was={"type": "directory", **PLAIN}),
            line(path="d/f", type="hidden", was=was),
        ),
        tmp_path / "archive",
    )
    found = listing.from_archive(tmp_path / "archive")
    assert told({}, found) == {"new": "added", "second": "added", "gone": "removed", "d": "removed", "d/f": "removed"}
    assert found["second"].now == found["new"].now


def test_what_was_only_touched_is_not_listed(tmp_path: Path) -> None:
    write(stream(file("f", 5, (0, b"hello"))), tmp_path / "one")
    (entry,) = archive.read_index(tmp_path / "one")
    touched = json.loads(file("f", 5).split(b"\n")[0]) | {"was": {**PLAIN, "type": "file", "size": 5, "mtime": 77}}
    touched["was"]["digest"] = entry["digest"]
    packed = ENV + json.dumps(touched).encode() + b"\n" + file("f", 5, (0, b"hello")).split(b"\n", 1)[1]
    write(packed + line(end=True, entries=1), tmp_path / "two")
    assert listing.from_archive(tmp_path / "two") == {}


def test_listings_are_kept_and_the_oldest_go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kept = listing.Kept(tmp_path / "listings")
    monkeypatch.setattr(listing, "_KEPT", 3)
    found = {"odd \udcff\n": Listed(state(), None), "f": Listed(None, state())}
    for number in range(5):
        kept.put(f"snp_{number}", found)
        time.sleep(0.01)
    assert kept.get("snp_4") == found and kept.get("snp_0") is None
    assert len(list((tmp_path / "listings").iterdir())) == 3
    (tmp_path / "listings/snp_4").write_bytes(b"damaged")
    assert kept.get("snp_4") is None


def test_names_are_shown_without_ambiguity() -> None:
    assert shown("a\udcffb") == "a\\xffb"
    assert shown("näme") == "näme"


def test_texts_are_compared() -> None:
    text = texts.unified("d/f", b"one\ntwo\n", b"one\n2\n")
    assert text == "--- a/d/f\n+++ b/d/f\n@@ -1,2 +1,2 @@\n one\n-two\n+2\n"
    assert (texts.unified("f", None, b"x\n") or "").startswith("--- /dev/null\n+++ b/f\n")
    assert "\n+++ b/new\\nline\n" in (texts.unified("new\nline", b"", b"x") or "")
    assert not texts.is_text(b"a\0b") and not texts.is_text(b"\xff") and texts.is_text("ä".encode())


def test_texts_that_were_made_to_keep_us_busy_do_not() -> None:
    before = b"".join(b"%d\n" % (n % 7) for n in range(60_000))
    after = b"".join(b"%d\n" % (n % 5) for n in range(60_000))
    started = time.monotonic()
    texts.unified("f", before, after)
    assert time.monotonic() - started < 15
