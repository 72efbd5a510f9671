"""Has the programs of this sandbox trust one more authority: the one with which its broker vouches for hosts."""

from __future__ import annotations

import contextlib
import glob
import json
import os
import stat
from collections.abc import Iterator

DIRECTORY = "/run/hutch/trust"
_BUNDLES = (
    "/etc/ssl/certs/ca-certificates.crt",  # Debian, Alpine
    "/etc/pki/tls/certs/ca-bundle.crt",  # Fedora
    "/etc/ssl/ca-bundle.pem",  # SUSE
    "/etc/ssl/cert.pem",  # OpenSSL's own
)
_HASHED = ("/etc/ssl/certs", "/etc/pki/tls/certs")
_LOCAL = "/usr/local/share/ca-certificates"
"""From which Debian makes its bundle anew."""
_CARRIED = tuple(
    f"{base}/{packages}/{copy}/cacert.pem"
    for base in ("/usr/lib/python3*", "/usr/local/lib/python3*", "/home/*/.local/lib/python3*", "/opt/*/lib/python3*")
    for packages in ("site-packages", "dist-packages")
    for copy in ("certifi", "pip/_vendor/certifi")
)
"""Lists that Python packages carry with them."""
_JAVA = (
    "/etc/ssl/certs/java/cacerts",  # Debian: that of all its Javas
    "/etc/pki/java/cacerts",  # Fedora
    *(
        f"{home}/{inner}lib/security/cacerts"
        for home in (
            *("/usr/lib/jvm/*", "/opt/*", "/opt/java/*", "/usr/local/*"),
            *("/home/*/.sdkman/candidates/java/*", "/home/*/.jdks/*", "/root/.sdkman/candidates/java/*"),
        )
        for inner in ("", "jre/")
    ),
)
"""A Java's own."""
_BROWSERS = ("/etc/chromium/policies/managed", "/etc/opt/chrome/policies/managed")
"""Where policies of Chromium and Chrome are, whose list is in the program. What is new there counts at once."""
_MOST = 8 << 20


def install(authority: str, hashed: str) -> None:
    """In every list that there is. `hashed`: what OpenSSL calls its file by. Twice does no harm, and what cannot be
    written is left: the sandbox's owner may have put anything in these places."""
    pem = authority.encode()
    os.makedirs(DIRECTORY, exist_ok=True)
    bundle = next(filter(None, map(_read, _BUNDLES)), b"")
    _write(f"{DIRECTORY}/authority.pem", pem)
    whole = bundle if pem in bundle else _joined(bundle, pem)
    _write(f"{DIRECTORY}/bundle.pem", whole)
    for path in {os.path.realpath(path) for pattern in (*_BUNDLES, *_CARRIED) for path in glob.glob(pattern)}:
        _append(path, pem)
    _install_java(whole, pem)
    certificate = "".join(line for line in authority.split("\n") if not line.startswith("-"))
    policy = json.dumps({"CACertificates": [certificate]}).encode()
    for directory in filter(os.path.isdir, _BROWSERS):
        _write(f"{directory}/hutch-authority.json", policy)
    for directory in _HASHED:
        if os.path.isdir(directory):
            _write_beside(f"{directory}/{hashed}", pem)
    if os.path.isdir(os.path.dirname(_LOCAL)):
        with contextlib.suppress(OSError):
            os.makedirs(_LOCAL, exist_ok=True)
        _write(f"{_LOCAL}/hutch-{hashed}.crt", pem)
        _link(f"{_HASHED[0]}/hutch-{hashed}.pem", f"{_LOCAL}/hutch-{hashed}.crt")


def _install_java(bundle: bytes, pem: bytes) -> None:
    """In the lists of the Javas that are here, and all of the bundle in one for those that are told where it is."""
    from hutch_guest import keystores

    _write(f"{DIRECTORY}/java.jks", keystores.from_pem(bundle))
    for path in {os.path.realpath(path) for pattern in _JAVA for path in glob.glob(pattern)}:
        with contextlib.suppress(ValueError):
            if (changed := keystores.with_authority(_read(path), pem)) is not None:
                _write(path, changed)


def _link(path: str, to: str) -> None:
    """As Debian's `update-ca-certificates` does: a Java that is installed later makes its list of these links."""
    with contextlib.suppress(OSError):
        os.symlink(to, path)


def _joined(bundle: bytes, pem: bytes) -> bytes:
    return bundle + b"\n" * (not bundle.endswith(b"\n")) + pem if bundle else pem


def _read(path: str) -> bytes:
    with contextlib.suppress(OSError), _opened(path, os.O_RDONLY) as fd:
        data = b""
        while len(data) <= _MOST and (more := os.read(fd, 1 << 20)):
            data += more
        return data
    return b""


def _append(path: str, pem: bytes) -> None:
    known = _read(path)
    if not known or pem in known:
        return
    with contextlib.suppress(OSError), _opened(path, os.O_WRONLY | os.O_APPEND) as fd:
        os.write(fd, b"\n" * (not known.endswith(b"\n")) + pem)


def _write_beside(path: str, pem: bytes) -> None:
    """Under the first number that is free, or has it."""
    for number in range(10):
        known = _read(f"{path}.{number}")
        if known == pem:
            return
        if not known and not os.path.lexists(f"{path}.{number}"):
            _write(f"{path}.{number}", pem)
            return


def _write(path: str, data: bytes) -> None:
    with contextlib.suppress(OSError), _opened(path + ".new", os.O_WRONLY | os.O_CREAT | os.O_TRUNC) as fd:
        os.fchmod(fd, 0o644)
        view = memoryview(data)
        while view:
            view = view[os.write(fd, view) :]
        os.replace(path + ".new", path)


@contextlib.contextmanager
def _opened(path: str, flags: int) -> Iterator[int]:
    """A plain file: no link is followed, and nothing is waited for."""
    fd = os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, 0o644)
    try:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            raise OSError(f"{path} is no file")
        yield fd
    finally:
        os.close(fd)
