"""`Sandbox.create(mcp=...)` as its users write it, and a real MCP client at what it starts."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator
from typing import Any

import httpx2
import pytest
from e2b import BuildException, CommandExitException, Sandbox, SandboxException, Template
from mcp import Client
from mcp.client.streamable_http import streamable_http_client

SERVER = """
import os, sys
from mcp.server.mcpserver import Context, MCPServer

server = MCPServer("notes")

@server.tool()
async def note(text: str, context: Context) -> str:
    await context.report_progress(1, 2)
    open("notes", "a").write(text)
    return f"{os.environ['SIGNED']} has {open('notes').read()} in {os.getcwd()} as {os.environ['USER']}"

@server.tool(name=f"only_{sys.argv[1]}")
def only() -> str:
    return sys.argv[1]

@server.resource("notes://all")
def notes() -> str:
    return open("notes").read()

@server.prompt()
def remember(what: str) -> str:
    return f"Remember {what}."

server.run()
"""
MAKE = """
for name in notes words; do
    mkdir -p source/acme/$name && cd source/acme/$name && cp ~/server.py .
    git init -q && git add . && git -c user.name=a -c user.email=a@b commit -qm all && cd ~
done
"""
ENVS = {
    "GIT_CONFIG_COUNT": "1",
    "GIT_CONFIG_KEY_0": "url.file:///home/user/source/.insteadOf",
    "GIT_CONFIG_VALUE_0": "https://github.com/",
}
LIBRARY = {"PYTHONPATH": "/opt/hutch/mcp-packages"}


def server(name: str) -> dict[str, Any]:
    return {"installCmd": "touch notes", "runCmd": f"python3 server.py {name}", "envs": {"SIGNED": name, **LIBRARY}}


@pytest.fixture(scope="module")
def repositories() -> Iterator[str]:
    """A snapshot in which what would be cloned from GitHub is at hand: there is no GitHub here."""
    with Sandbox.create("mcp-gateway", timeout=300) as made:
        made.files.write("server.py", SERVER)
        made.commands.run(MAKE)
        snapshot = made.create_snapshot()
        made.kill()
    yield snapshot.snapshot_id
    Sandbox.delete_snapshot(snapshot.snapshot_id)


@pytest.fixture(scope="module")
def sandbox(repositories: str) -> Iterator[Sandbox]:
    servers = {"github/acme/notes": server("notes"), "github/acme/words": server("words")}
    made = Sandbox.create(repositories, mcp=servers, envs=ENVS, timeout=300)
    yield made
    made.kill()


def connected(sandbox: Sandbox) -> Client:
    headers = {"E2b-Sandbox-Id": sandbox.sandbox_id, "E2b-Sandbox-Port": "50005"}
    headers["Authorization"] = f"Bearer {sandbox.get_mcp_token()}"
    http = httpx2.AsyncClient(headers=headers, timeout=30)
    return Client(streamable_http_client(f"{os.environ['E2B_SANDBOX_URL']}/mcp", http_client=http))


async def tools(sandbox: Sandbox) -> set[str]:
    async with connected(sandbox) as client:
        return {tool.name for tool in (await client.list_tools()).tools}


def test_all_servers_are_one(sandbox: Sandbox) -> None:
    async def use() -> None:
        told = []

        async def progress(at: float, total: float | None, message: str | None) -> None:
            told.append((at, total))

        async with connected(sandbox) as client:
            names = {tool.name for tool in (await client.list_tools()).tools}
            assert names == {"only_notes", "only_words", "notes_note", "words_note"}
            assert (await client.call_tool("only_words")).content[0].text == "words"
            said = (await client.call_tool("words_note", {"text": "x"}, progress_callback=progress)).content[0].text
            assert said == "words has x in /home/user/mcp-servers/acme/words as user"
            assert told == [(1, 2)]
            assert {str(each.uri) for each in (await client.list_resources()).resources} == {"notes://all"}
            assert (await client.get_prompt("words_remember", {"what": "it"})).messages[
                0
            ].content.text == "Remember it."
            with pytest.raises(Exception, match="no server here has the tool 'nope'"):
                await client.call_tool("nope")

    asyncio.run(use())


def test_where_it_is_and_who_may(sandbox: Sandbox) -> None:
    assert sandbox.get_mcp_url() == f"https://{sandbox.get_host(50005)}/mcp"
    assert Sandbox.connect(sandbox.sandbox_id).get_mcp_token() == sandbox.get_mcp_token()
    headers = {"E2b-Sandbox-Id": sandbox.sandbox_id, "E2b-Sandbox-Port": "50005"}
    for token in ("", "Bearer wrong", sandbox.get_mcp_token()):
        asked = httpx2.post(f"{os.environ['E2B_SANDBOX_URL']}/mcp", headers=headers | {"Authorization": token})
        assert asked.status_code == 401
    with pytest.raises(CommandExitException):
        sandbox.commands.run("cat /etc/mcp-gateway/.token")


def test_a_pause_and_another_configuration(sandbox: Sandbox) -> None:
    sandbox.pause()
    sandbox.connect()
    assert "only_words" in asyncio.run(tools(sandbox))
    with pytest.raises(CommandExitException) as told:
        sandbox.commands.run("""mcp-gateway --config '{"time": {"zone": "UTC"}}'""", user="root")
    assert "time: has no options; zone is not known" in told.value.stderr
    assert "only_words" in asyncio.run(tools(sandbox)), "what is wrong changes nothing"
    again = """mcp-gateway --config '{"github/acme/notes": {"runCmd": "python3 server.py again", "envs": %s}}'"""
    envs = '{"SIGNED": "again", "PYTHONPATH": "/opt/hutch/mcp-packages"}'
    sandbox.commands.run(again % envs, user="root", envs={"GATEWAY_ACCESS_TOKEN": sandbox.get_mcp_token() or ""})
    assert asyncio.run(tools(sandbox)) == {"only_again", "note"}


def test_what_cannot_be_started(repositories: str) -> None:
    before = len(Sandbox.list().next_items())
    with pytest.raises(SandboxException, match=r"(?s)no MCP server 'nowhere' here\. There are: .*filesystem"):
        Sandbox.create(mcp={"nowhere": {}}, timeout=60)
    failing = {"installCmd": "true", "runCmd": "echo not today >&2; exit 3"}
    with pytest.raises(SandboxException, match=r"(?s)github/acme/notes did not start.*not today"):
        Sandbox.create(repositories, mcp={"github/acme/notes": failing}, envs=ENVS, timeout=60)
    with pytest.raises(SandboxException, match="mcp-gateway"):
        Sandbox.create("base", mcp={"time": {}}, timeout=60)
    assert len(Sandbox.list().next_items()) == before


def test_a_template_with_servers_in_it() -> None:
    """There is no registry here: of what is installed ahead, the command is tested, and who runs it."""
    template = Template().from_template("mcp-gateway").add_mcp_server(["nowhere", "time"])
    logs: list[Any] = []
    with pytest.raises(BuildException, match="mcp-gateway pull nowhere time"):
        Template.build(template, "with-servers", on_build_logs=logs.append)
    assert any("there is no MCP server 'nowhere' here" in each.message for each in logs)
