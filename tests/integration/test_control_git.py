"""A git repository as an input: fetched by the server with git itself, checked out inside."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any
from urllib.parse import urlsplit

import pytest
from tests.integration.control_host import controlled, printed, run_task
from tests.node_host import NodeHost

from hutch.model import TaskState

pytestmark = [pytest.mark.root, pytest.mark.timeout(240)]


class _Backend(BaseHTTPRequestHandler):
    """`git http-backend` as a CGI, the way every git server of one's own does it."""

    root: Path

    def do_GET(self) -> None:
        if self.path.startswith("/old.git"):
            self.send_response(301)
            self.send_header("Location", self.path.replace("/old.git", "/repo.git"))
            self.end_headers()
            return
        self._run()

    def do_POST(self) -> None:
        self._run()

    def _run(self) -> None:
        parts = urlsplit(self.path)
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        env = os.environ | {
            "GIT_PROJECT_ROOT": str(self.root), "GIT_HTTP_EXPORT_ALL": "1", "REQUEST_METHOD": self.command,
            "PATH_INFO": parts.path, "QUERY_STRING": parts.query, "CONTENT_LENGTH": str(len(body)),
            "CONTENT_TYPE": self.headers.get("Content-Type", ""), "HTTP_CONTENT_ENCODING":
            self.headers.get("Content-Encoding", ""), "GIT_PROTOCOL": self.headers.get("Git-Protocol", ""),
        }  # fmt: skip
        ran = subprocess.run(["git", "http-backend"], input=body, capture_output=True, env=env, check=True)
        head, _, data = ran.stdout.partition(b"\r\n\r\n")
        fields = dict(line.split(": ", 1) for line in head.decode().split("\r\n"))
        self.send_response(int(fields.pop("Status", "200").split()[0]))
        for name, value in fields.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, format: str, *args: Any) -> None:
        pass


def git(*arguments: str, cwd: Path) -> str:
    identity = ["-c", "user.name=t", "-c", "user.email=t@example.com", "-c", "init.defaultBranch=main"]
    return subprocess.run(
        ["git", *identity, *arguments], cwd=cwd, check=True, capture_output=True, text=True
    ).stdout.strip()


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, str, str]]:
    """Its URL without `/repo.git`, its first commit, its second."""
    root = tmp_path_factory.mktemp("git")
    work = root / "repo.git"
    work.mkdir()
    git("init", "--quiet", cwd=work)
    commits = []
    for text in ("one", "two"):
        (work / "file").write_text(text + "\n")
        git("add", "file", cwd=work)
        git("commit", "--quiet", "-m", text, cwd=work)
        commits.append(git("rev-parse", "HEAD", cwd=work))
    git("config", "uploadpack.allowAnySHA1InWant", "true", cwd=work)
    handler = type("Backend", (_Backend,), {"root": root})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_address[1]}", commits[0], commits[1]
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.mark.parametrize("commit", ["HEAD", "main", "first", "second"])
@pytest.mark.parametrize("name", ["repo.git", "old.git"])
async def test_a_commit_is_checked_out(
    shared_node: NodeHost, repository: tuple[str, str, str], commit: str, name: str
) -> None:
    url, first, second = repository
    wanted = {"first": first, "second": second}.get(commit, commit)
    async with controlled(shared_node) as control:
        task, events = await run_task(
            control,
            "cat src/file && cd src && git rev-parse HEAD && git status --porcelain && git config remote.origin.url",
            inputs=[{"type": "git", "url": f"{url}/{name}", "commit": wanted, "path": "src"}],
        )
    expected = first if commit == "first" else second
    assert printed(events) == ["one" if commit == "first" else "two", expected, f"{url}/{name}"]
    assert task.state is TaskState.SUCCEEDED
    assert not list((control._settings.server_dir / "scratch").iterdir())


@pytest.mark.parametrize(("name", "commit"), [("repo.git", "nope"), ("none.git", "HEAD"), ("repo.git", "f" * 40)])
async def test_what_is_not_there_is_an_input_that_failed(
    shared_node: NodeHost, repository: tuple[str, str, str], name: str, commit: str
) -> None:
    async with controlled(shared_node) as control:
        task, _ = await run_task(
            control, "true", inputs=[{"type": "git", "url": f"{repository[0]}/{name}", "commit": commit}]
        )
    assert task.result is not None
    assert (task.state, task.result.error) == (TaskState.FAILED, "input_failed")


async def test_credentials_of_the_url_stay_outside(shared_node: NodeHost, repository: tuple[str, str, str]) -> None:
    url = repository[0].replace("http://", "http://user:hunter2@")
    async with controlled(shared_node) as control:
        task, events = await run_task(
            control,
            "cat .git/config; grep -r hunter2 .git && echo leaked; true",
            inputs=[{"type": "git", "url": f"{url}/repo.git"}],
        )
    assert task.state is TaskState.SUCCEEDED
    assert not any("hunter2" in line or line == "leaked" for line in printed(events))
