"""Templates that begin with images of other people: out of a directory, and out of a registry with tokens."""

from __future__ import annotations

import asyncio
import json
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from tests.integration.test_template_builds_killed import Builder
from tests.machine import Machine
from tests.oci_image import layout

from hutch.model.e2b import hutch_sandbox_id

pytestmark = [pytest.mark.root, pytest.mark.timeout(600)]


@asynccontextmanager
async def registry(image: Path) -> AsyncIterator[str]:
    """One that wants a token, and sends its blobs from elsewhere; where it is."""
    index = json.loads((image / "index.json").read_text())["manifests"][0]

    async def manifest(request: web.Request) -> web.StreamResponse:
        if request.headers.get("Authorization") != "Bearer let-me-in":
            realm = f'Bearer realm="http://{request.host}/token",service="here",scope="repository:some/image:pull"'
            return web.Response(status=401, headers={"WWW-Authenticate": realm})
        wanted = request.match_info["wanted"]
        digest = index["digest"] if wanted == "v1" else wanted
        path = image / "blobs/sha256" / digest.removeprefix("sha256:")
        if not path.is_file():
            return web.Response(status=404)
        kind = index["mediaType"] if wanted == "v1" else "application/vnd.oci.image.manifest.v1+json"
        return web.Response(body=path.read_bytes(), content_type=kind)

    async def blob(request: web.Request) -> web.StreamResponse:
        if request.headers.get("Authorization") != "Bearer let-me-in":
            return web.Response(status=403)
        port = request.url.port
        raise web.HTTPTemporaryRedirect(f"http://localhost:{port}/elsewhere/{request.match_info['digest'][7:]}")

    async def elsewhere(request: web.Request) -> web.StreamResponse:
        assert "Authorization" not in request.headers  # it is another host
        return web.FileResponse(image / "blobs/sha256" / request.match_info["digest"])

    async def token(request: web.Request) -> web.StreamResponse:
        if request.headers.get("Authorization") != "Basic bWU6c2VjcmV0":
            return web.Response(status=401)
        assert request.query["scope"] == "repository:some/image:pull" and request.query["service"] == "here"
        return web.json_response({"token": "let-me-in"})

    app = web.Application()
    app.add_routes([web.get("/v2/some/image/manifests/{wanted}", manifest), web.get("/token", token)])
    app.add_routes([web.get("/v2/some/image/blobs/{digest}", blob), web.get("/elsewhere/{digest}", elsewhere)])
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    try:
        yield f"127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


@pytest.fixture
def images() -> Iterator[Path]:
    """A folder that the server's user may read, as pytest's own are not."""
    with tempfile.TemporaryDirectory(prefix="ho-", dir="/tmp") as made:
        Path(made).chmod(0o755)
        yield Path(made)


async def test_an_image_becomes_a_template(standard_template: str, images: Path) -> None:
    layout(images / "small")
    machine = Machine(slots_ahead="2", oci_dir=str(images), allow_private_inputs="true")
    builder = Builder(machine)
    try:
        await machine.start()
        steps = [
            {"type": "RUN", "args": ["hello && greet && id -un && pwd && echo $FROM_IMAGE $PROFILE && sudo id -un"]},
            {"type": "RUN", "args": ["ls /etc/removed /srv/emptied/below; cat /srv/kept/below; ls /srv/emptied >list"]},
            {"type": "RUN", "args": ["stat -c '%a %u %g' /srv/emptied/new"]},
        ]
        await builder.begin("small", steps, fromImage="oci:small:v1")
        state, lines, reason = await builder.end()
        assert state == "ready", (reason, lines)
        for line in ("hello", "user", "/home/user", "yes read", "root", "below", "600 7 8"):
            assert line in lines, (line, lines)
        assert lines.count("hello") == 2 and sum("No such file" in line for line in lines) == 2
        made = (await builder.ask("POST", "/v2/sandboxes", json={"templateID": "small"})).json()
        async with machine.client() as client:
            path = f"/v1/sandboxes/{hutch_sandbox_id(made['sandboxID'])}/exec"
            found = (await client.post(path, json={"command": "cat list; hello; echo $FROM_IMAGE"})).json()
        assert found["stdout"] == "new\nhello\nyes\n", found
        await from_a_registry(builder, images / "small")
        await what_is_refused(builder, images)
    finally:
        await machine.stop()


async def from_a_registry(builder: Builder, image: Path) -> None:
    """The same image: its layers need not come again. What fails shows that it was there."""
    async with registry(image) as host:
        login = {"type": "registry", "username": "me", "password": "secret"}
        asked: dict[str, Any] = {"fromImage": f"{host}/some/image:v1", "fromImageRegistry": login}
        await builder.begin("pulled", [{"type": "RUN", "args": ["hello; exit 9"]}], **asked)
        state, lines, reason = await builder.end()
        assert (state, reason["step"]) == ("error", "1") and "hello" in lines, (reason, lines)
        await builder.begin("none", [], **asked | {"fromImage": f"{host}/some/image:v2"})
        assert "there is none" in (await builder.end())[2]["message"]
        await builder.begin("none", [], fromImage=f"{host}/some/image:v1")
        assert "login" in (await builder.end())[2]["message"]


async def what_is_refused(builder: Builder, images: Path) -> None:
    """With words, and at the base."""
    layout(images / "arm", architecture="arm64")
    manifest = layout(images / "broken", author="somebody else")
    (images / "broken/blobs/sha256" / manifest["layers"][0]["digest"][7:]).write_bytes(b"other")
    told: dict[str, Any] = {}
    for image in (
        "oci:none",
        "oci:../small",
        "oci:arm",
        "oci:broken",
        "registry.invalid/a/b:c",
        "10.0.0.1:1/x",
        "no good",
    ):
        await builder.begin("refused", [], fromImage=image)
        state, _, told[image] = await builder.end()
        assert state == "error" and told[image]["step"] == "base", (image, told[image])
        await asyncio.sleep(0)
    assert "arm64" in told["oci:arm"]["message"] and "digest" in told["oci:broken"]["message"]
    assert "Debian 12" in told["registry.invalid/a/b:c"]["message"]
