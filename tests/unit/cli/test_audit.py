"""`hutch audit` and `hutch identity` against a scripted server, and exports in files."""

from __future__ import annotations

import json
from base64 import b64encode
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from hutch.cli import audit as audit_command
from hutch.model.audit import GENESIS, AuditHead, AuditKey, AuditRecord, digest_of
from tests.unit.cli.conftest import Hutch
from tests.unit.sdk.server import Server

KEY = Ed25519PrivateKey.from_private_bytes(bytes(32))
PUBLIC = b64encode(KEY.public_key().public_bytes_raw()).decode()


def log_of(records: int) -> list[dict[str, Any]]:
    lines: list[dict[str, Any]] = [AuditKey(public=PUBLIC).model_dump()]
    prev = GENESIS
    for seq in range(1, records + 1):
        fields: dict[str, Any] = {
            "org": "o", "seq": seq, "time": "2026-01-01T00:00:00.000Z", "actor": "key_a", "action": "call",
            "subject": "sbx_a", "outcome": "200", "request": "r", "detail": {"path": "/v1/\x1b[2Jx"}, "prev": prev,
        }  # fmt: skip
        prev = digest_of(fields)
        lines.append({"type": "record", **fields, "hash": prev})
    head = AuditHead(org="o", seq=records, hash=prev, time="2026-01-01T00:00:00.000Z", signature="")
    signature = b64encode(KEY.sign(head.signed())).decode()
    return [*lines, head.model_copy(update={"signature": signature}).model_dump()]


def happened(*events: dict[str, Any]) -> AuditRecord:
    """A record of what went on in a sandbox."""
    return AuditRecord.model_validate(log_of(1)[1] | {"detail": {"events": list(events), "lost": 2}})


def test_what_went_on_inside_is_told_in_words() -> None:
    started = {"path": "/bin/ls", "argv": ["ls", "-l"], "pid": 7, "uid": 0, "count": 3}
    tried = {"name": "curl", "path": "/bin/curl", "address": "1.2.3.4", "port": 443, "pid": 8}
    refused = {"kind": "connection", "name": "evil.test", "port": 443, "reason": "not in policy"}
    used = {"kind": "secret", "name": "api.test", "port": 443, "secret": "TOKEN", "pid": 9, "process": "/bin/x\x1b"}
    line = str(audit_command._line(happened(started, tried, refused, used)))
    assert line.endswith(
        "lost=2 /bin/ls (7) ls -l ×3; /bin/curl (8) 1.2.3.4:443; evil.test:443 (not in policy); "
        "/bin/x (9) api.test:443 (TOKEN)"
    )


def written(path: Path, lines: list[dict[str, Any]]) -> str:
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return str(path)


@pytest.fixture
def audited(at: Server) -> Server:
    @at.on("GET", "/v1/audit/export")
    async def export(_: web.Request) -> web.Response:
        return web.Response(text="".join(json.dumps(line) + "\n" for line in log_of(3)))

    @at.on("GET", "/v1/audit")
    async def page(request: web.Request) -> web.Response:
        after = int(request.query["after"])
        found = [line for line in log_of(3) if line.get("type") == "record" and line["seq"] > after][:2]
        return web.json_response({"records": found, "next": found[-1]["seq"] if found else after})

    return at


def test_an_export_is_what_verify_reads(audited: Server, hutch: Hutch, tmp_path: Path) -> None:
    exported = hutch("audit", "export")
    assert exported.code == 0 and exported.lines == log_of(3)
    path = tmp_path / "audit.jsonl"
    path.write_text(exported.out)
    for arguments in ((), (str(path),)):
        said = hutch("audit", "verify", *arguments)
        assert said.code == 0 and f"3 records, 1 signed heads, key {PUBLIC}" in said.err
    said = hutch("audit", "verify", str(path), "--json")
    assert said.json == {"records": 3, "heads": 1, "key": PUBLIC, "problems": []}


def test_what_is_wrong_is_said_with_exit_code_1(hutch: Hutch, tmp_path: Path) -> None:
    lines = log_of(3)
    del lines[2]
    said = hutch("audit", "verify", written(tmp_path / "a", lines))
    assert said.code == 1 and "records 2 to 2 are missing" in said.err
    said = hutch("audit", "verify", written(tmp_path / "b", log_of(3)), "--key", PUBLIC[::-1])
    assert said.code == 1 and "another key" in said.err
    old, cut = written(tmp_path / "old", log_of(3)), written(tmp_path / "cut", log_of(2))
    assert hutch("audit", "verify", cut).code == 0
    assert "records 3 to 3 are missing" in hutch("audit", "verify", cut, "--against", old).err
    assert hutch("audit", "verify", old, "--against", cut).code == 0
    assert hutch("audit", "verify", written(tmp_path / "c", [{"type": "record"}])).code == 1
    (tmp_path / "d").write_text("no JSON\n")
    assert hutch("audit", "verify", str(tmp_path / "d")).code == 2


def test_records_are_listed_page_by_page_and_move_no_cursor(audited: Server, hutch: Hutch) -> None:
    said = hutch("audit", "ls", "--subject", "sbx_a")
    assert [line.split()[0] for line in said.out.splitlines()] == ["1", "2", "3"]
    assert "\x1b" not in said.out
    assert all("subject=sbx_a" in path for method, path, _ in audited.seen)


def test_keys_are_shown_and_rotated(at: Server, hutch: Hutch) -> None:
    issuer = {
        "issuer": "https://api.box.example", "jwks_url": "https://api.box.example/.well-known/jwks.json",
        "token_seconds": 300,
        "keys": [{"id": "kid-1", "state": "current", "created_at": "2026-01-01T00:00:00Z"}],
    }  # fmt: skip
    bodies = []

    @at.on("GET", "/v1/identity")
    async def show(_: web.Request) -> web.Response:
        return web.json_response(issuer)

    @at.on("POST", "/v1/identity/rotate")
    async def rotate(request: web.Request) -> web.Response:
        bodies.append(await request.json())
        return web.json_response(issuer)

    said = hutch("identity", "show")
    assert "kid-1" in said.out and "issuer https://api.box.example" in said.err
    assert hutch("identity", "rotate").code == hutch("identity", "rotate", "--grace", "0s").code == 0
    assert bodies == [{}, {"grace": 0}]


def test_an_identity_of_another_form_is_wrong_usage(at: Server, hutch: Hutch) -> None:
    for wrong in ("app", "nothing=x", "app=Not An App"):
        assert hutch("run", "--identity", wrong, "--", "ls").code == 2
    assert at.seen == []
