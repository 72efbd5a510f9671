"""Files."""

from __future__ import annotations

import hashlib
import io
import urllib.error
import urllib.request
from collections.abc import Callable

import pytest
from e2b import (
    FilesystemEventType,
    FileType,
    InvalidArgumentException,
    NotFoundException,
    Sandbox,
)


def test_write_read_and_info(sandbox: Sandbox) -> None:
    written = sandbox.files.write("files/a b.txt", "héllo")
    assert written.path == "/home/user/files/a b.txt"
    assert sandbox.files.read("files/a b.txt") == "héllo"
    assert bytes(sandbox.files.read("files/a b.txt", format="bytes")) == "héllo".encode()
    info = sandbox.files.get_info("files/a b.txt")
    assert (info.type, info.size, info.owner, info.permissions) == (FileType.FILE, 6, "user", "-rw-r--r--")
    sandbox.files.write("/tmp/roots", b"", user="root")
    assert sandbox.files.get_info("/tmp/roots").owner == "root" and sandbox.files.read("/tmp/roots") == ""


def test_large_files_stream_both_ways(sandbox: Sandbox) -> None:
    data = hashlib.shake_256(b"seed").digest(24 << 20)
    sandbox.files.write("files/large", io.BytesIO(data))
    digest = hashlib.sha256()
    for piece in sandbox.files.read("files/large", format="stream"):
        digest.update(piece)
    assert digest.digest() == hashlib.sha256(data).digest()


def test_several_files_and_gzip(sandbox: Sandbox) -> None:
    files = [{"path": f"files/many/{number}", "data": f"{number}" * 1000} for number in range(5)]
    assert [one.name for one in sandbox.files.write_files(files)] == ["0", "1", "2", "3", "4"]
    assert [one.name for one in sandbox.files.list("files/many")] == ["0", "1", "2", "3", "4"]
    if "gzip" in type(sandbox.files).write.__code__.co_varnames:
        sandbox.files.write("files/zipped", "z" * 100_000, gzip=True)
        assert sandbox.files.read("files/zipped", gzip=True) == "z" * 100_000


def test_directories(sandbox: Sandbox) -> None:
    assert sandbox.files.make_dir("tree/one/two") and not sandbox.files.make_dir("tree/one/two")
    sandbox.files.write("tree/one/file", "1")
    assert [one.path.removeprefix("/home/user/tree/") for one in sandbox.files.list("tree", depth=2)] == [
        "one",
        "one/file",
        "one/two",
    ]
    assert sandbox.files.rename("tree/one/file", "tree/moved").path == "/home/user/tree/moved"
    assert sandbox.files.exists("tree/moved") and not sandbox.files.exists("tree/one/file")
    sandbox.files.remove("tree")
    assert not sandbox.files.exists("tree")


def test_errors(sandbox: Sandbox) -> None:
    for call in (sandbox.files.read, sandbox.files.get_info, sandbox.files.list):
        with pytest.raises(NotFoundException):
            call("no/such/file")
    with pytest.raises(InvalidArgumentException):
        sandbox.files.read("/tmp")


def test_metadata(sandbox: Sandbox) -> None:
    if "metadata" not in type(sandbox.files).write.__code__.co_varnames:
        pytest.skip("an option of newer clients")
    sandbox.files.write("files/tagged", "1", metadata={"author": "me"})
    assert sandbox.files.get_info("files/tagged").metadata == {"author": "me"}


def test_watch(sandbox: Sandbox, eventually: Callable[..., None]) -> None:
    sandbox.files.make_dir("watched")
    sandbox.files.write("watched/old", "1")
    watch = sandbox.files.watch_dir("watched", recursive=True)
    seen: list[tuple[str, FilesystemEventType]] = []

    def found(*wanted: tuple[str, FilesystemEventType]) -> bool:
        seen.extend((event.name, event.type) for event in watch.get_new_events())
        return set(wanted) <= set(seen)

    sandbox.files.write("watched/old", "2")
    eventually(lambda: found(("old", FilesystemEventType.WRITE)))
    sandbox.commands.run("cd ~/watched; mkdir deep; sleep 0.3; echo 1 > deep/new; rm old")
    eventually(lambda: found(("deep/new", FilesystemEventType.CREATE), ("old", FilesystemEventType.REMOVE)))
    assert not [name for name, _ in seen if name.endswith(".part")]
    watch.stop()


def test_signed_urls(sandbox: Sandbox) -> None:
    sandbox.files.write("files/signed", "secret")
    with urllib.request.urlopen(sandbox.download_url("files/signed", use_signature_expiration=60)) as answer:
        assert answer.read() == b"secret"
    body = b'--b\r\nContent-Disposition: form-data; name="file"; filename="x"\r\n\r\nuploaded\r\n--b--\r\n'
    request = urllib.request.Request(
        sandbox.upload_url("files/uploaded"), body, {"Content-Type": "multipart/form-data; boundary=b"}
    )
    with urllib.request.urlopen(request) as answer:
        assert answer.status == 200
    assert sandbox.files.read("files/uploaded") == "uploaded"
    for spoilt in (
        sandbox.download_url("files/signed").replace("signed", "other"),
        sandbox.download_url("files/signed", use_signature_expiration=-5),
    ):
        with pytest.raises(urllib.error.HTTPError) as caught:
            urllib.request.urlopen(spoilt)
        assert caught.value.code == 401


def test_files_without_a_size(sandbox: Sandbox) -> None:
    assert len(sandbox.files.read("/proc/sys/kernel/random/boot_id").strip()) == 36
