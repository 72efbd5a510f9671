"""Keys are root's to read, and the server is not root: root puts what it needs where the server finds it."""

from __future__ import annotations

import os
from pathlib import Path

from hutch.settings import Settings
from hutch.tls.certificates import Certificate, TlsProblem, read_certificate
from hutch.tls.files import find_files, host_of

_PLACE = ("tls", "served.pem")


def place_for(settings: Settings, uid: int, gid: int) -> tuple[Path, Certificate]:
    """The certificate and its key in one file below `run_dir` that this user alone can read, as they are now; replaced
    whole, and only when they have changed. Raises `TlsProblem`, and leaves what is there."""
    files = find_files(settings)
    certificate = read_certificate(files.chain, files.key, host_of(settings))
    path = settings.run_dir.joinpath(*_PLACE)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.parent.chmod(0o755)
        if not path.exists() or path.read_bytes() != certificate.pem:
            _write(path, certificate.pem, uid, gid)
    except OSError as error:
        raise TlsProblem(f"{path} cannot be written: {error.strerror}", hint="See HUTCH_RUN_DIR.") from error
    return path, certificate


def _write(path: Path, data: bytes, uid: int, gid: int) -> None:
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.unlink(missing_ok=True)
    with os.fdopen(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o400), "wb") as file:
        file.write(data)
        os.fchown(file.fileno(), uid, gid)
    temporary.replace(path)
