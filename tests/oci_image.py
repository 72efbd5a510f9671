"""A small image in the OCI layout, made of this machine's own programs: a shell, coreutils, `useradd`, `tar`."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import re
import shutil
import subprocess
import tarfile
from pathlib import Path
from typing import Any

_PROGRAMS = (
    *("bash", "sh", "cat", "ls", "mkdir", "chown", "chmod", "id", "ln", "mv", "rm", "sed", "useradd", "tar", "env"),
    *("sleep", "dirname", "touch", "gzip", "stat", "readlink"),
)
_PASSWD = "root:x:0:0:root:/root:/bin/bash\n"
_FILES = {
    "etc/passwd": _PASSWD,
    "etc/group": "root:x:0:\n",
    "etc/shadow": "root:*:19000:0:99999:7:::\n",
    "etc/profile": "export PROFILE=read\n",
    "etc/removed": "by the second layer\n",
    "srv/emptied/below": "by the second layer\n",
    "srv/kept/below": "below\n",
}


def layout(directory: Path, tag: str = "v1", **changes: Any) -> dict[str, Any]:
    """Write the image; its manifest. `changes` are put in the configuration's place."""
    (directory / "blobs/sha256").mkdir(parents=True)
    config = {
        "architecture": "amd64",
        "os": "linux",
        "config": {"Env": ["FROM_IMAGE=yes", "PATH=/opt/bin:/usr/bin:/bin"]},
    }
    manifest = {
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": blob(directory, json.dumps(config | changes).encode(), "application/vnd.oci.image.config.v1+json"),
        "layers": [
            blob(directory, gzip.compress(data, 1, mtime=0), "application/vnd.oci.image.layer.v1.tar+gzip")
            for data in (_lower(), _upper())
        ],
    }
    described = blob(directory, json.dumps(manifest).encode(), "application/vnd.oci.image.manifest.v1+json")
    platform = {"platform": {"architecture": "amd64", "os": "linux"}}
    other = {"platform": {"architecture": "arm64", "os": "linux"}}
    index = {"schemaVersion": 2, "manifests": [manifest["config"] | other, described | platform]}
    top = blob(directory, json.dumps(index).encode(), "application/vnd.oci.image.index.v1+json")
    named = top | {"annotations": {"org.opencontainers.image.ref.name": tag}}
    (directory / "index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": [named]}))
    (directory / "oci-layout").write_text('{"imageLayoutVersion": "1.0.0"}')
    return manifest


def blob(directory: Path, data: bytes, media_type: str) -> dict[str, Any]:
    """Write one; its descriptor."""
    digest = hashlib.sha256(data).hexdigest()
    (directory / "blobs/sha256" / digest).write_bytes(data)
    return {"mediaType": media_type, "digest": f"sha256:{digest}", "size": len(data)}


def tar(*members: tuple[tarfile.TarInfo, bytes]) -> bytes:
    """An archive of these."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as archive:
        for member, data in members:
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return packed.getvalue()


def member(name: str, data: bytes = b"", **fields: Any) -> tuple[tarfile.TarInfo, bytes]:
    """One member of an archive."""
    made = tarfile.TarInfo(name)
    for field, value in fields.items():
        setattr(made, field, value)
    return made, data


def _lower() -> bytes:
    members = [
        member("./usr/bin", type=tarfile.DIRTYPE, mode=0o755),
        member("./usr/sbin", type=tarfile.DIRTYPE, mode=0o755),
    ]
    members += [member(name, type=tarfile.SYMTYPE, linkname=f"usr/{name}") for name in ("bin", "sbin", "lib", "lib64")]
    for path, found in sorted(_programs().items()):
        members.append(member(path, found.read_bytes(), mode=0o755))
    members += [member(path, text.encode(), mode=0o644) for path, text in _FILES.items()]
    return tar(*members)


def _upper() -> bytes:
    return tar(
        member("etc/.wh.removed"),
        member("srv/emptied/.wh..wh..opq"),
        member("srv/emptied/new", b"new\n", mode=0o600, uid=7, gid=8),
        member("usr/bin/hello", b"#!/bin/sh\necho hello\n", mode=0o755),
        member("usr/bin/greet", type=tarfile.LNKTYPE, linkname="usr/bin/hello"),
    )


def _programs() -> dict[str, Path]:
    """Programs and the libraries that they load, by their places in the image."""
    found: dict[str, Path] = {}
    for name in _PROGRAMS:
        path = Path(shutil.which(name, path="/usr/bin:/bin:/usr/sbin:/sbin") or "")
        directory = "usr/sbin" if "sbin" in str(path) else "usr/bin"
        found[f"{directory}/{name}"] = path
        said = subprocess.run(["ldd", path], capture_output=True, text=True, check=False).stdout
        for library in re.findall(r"(/[\w./+-]+\.so[\w.+-]*)", said):
            place = library if library.startswith("/usr/") else f"/usr{library}"
            found[place.lstrip("/")] = Path(library)
    return found
