"""`E2B_DOMAIN` and a key are all that is set: API and sandboxes are found by their names, over TLS."""

from __future__ import annotations

import asyncio
import io
import os
import ssl
import urllib.error
import urllib.request

import pytest
from e2b import AsyncSandbox, CommandExitException, NotFoundException, Sandbox, TimeoutException

MIB = 1 << 20


@pytest.fixture(scope="module")
def sandbox():
    made = Sandbox.create(timeout=300, metadata={"by": "name"}, envs={"GREETING": "hello"})
    yield made
    assert made.kill()
    assert not made.is_running()


def test_life(sandbox: Sandbox) -> None:
    assert sandbox.get_info().metadata == {"by": "name"} and sandbox.is_running()
    assert sandbox.sandbox_id in [one.sandbox_id for one in Sandbox.list().next_items()]
    assert sandbox.get_host(8000) == f"8000-{sandbox.sandbox_id}.{os.environ['E2B_DOMAIN']}"
    with pytest.raises(NotFoundException):
        Sandbox.connect("i" + "a" * 22)


def test_commands(sandbox: Sandbox) -> None:
    assert sandbox.commands.run("echo $GREETING").stdout == "hello\n"
    with pytest.raises(CommandExitException):
        sandbox.commands.run("exit 7")
    with pytest.raises(TimeoutException):
        sandbox.commands.run("sleep 30", timeout=1)
    seen: list[str] = []
    sandbox.commands.run("for i in 1 2 3; do echo $i; sleep 0.1; done", on_stdout=seen.append)
    assert "".join(seen) == "1\n2\n3\n"


def test_large_files_both_ways(sandbox: Sandbox) -> None:
    data = os.urandom(24 * MIB)
    sandbox.files.write("large", io.BytesIO(data))
    assert b"".join(sandbox.files.read("large", format="stream")) == data


def test_signed_urls_and_ports_are_https(sandbox: Sandbox) -> None:
    sandbox.files.write("page", "found")
    with urllib.request.urlopen(sandbox.download_url("page")) as answer:
        assert answer.read() == b"found"
    sandbox.commands.run("exec python3 -m http.server 8000", background=True, timeout=0)
    sandbox.commands.run("for i in $(seq 50); do curl -sf localhost:8000/page && break; sleep 0.2; done")
    with urllib.request.urlopen(f"https://{sandbox.get_host(8000)}/page") as answer:
        assert answer.read() == b"found"


def test_other_names_and_old_tls_are_refused(sandbox: Sandbox) -> None:
    domain = os.environ["E2B_DOMAIN"]
    for host, status in ((f"www.{domain}", 404), ("box.example", 421)):
        request = urllib.request.Request(f"https://api.{domain}/health", headers={"Host": host})
        with pytest.raises(urllib.error.HTTPError) as caught:
            urllib.request.urlopen(request)
        assert caught.value.code == status
    context = ssl.create_default_context()
    context.minimum_version = context.maximum_version = ssl.TLSVersion.TLSv1_1
    with pytest.raises(urllib.error.URLError):
        urllib.request.urlopen(f"https://api.{domain}/health", context=context)


def test_many_at_once() -> None:
    async def all_of_it() -> None:
        made = await AsyncSandbox.create(timeout=120)
        results = await asyncio.gather(*(made.commands.run(f"echo {number}") for number in range(20)))
        assert [one.stdout for one in results] == [f"{number}\n" for number in range(20)]
        await made.kill()

    asyncio.run(all_of_it())
