"""From root to the server's user: what only root can do, then `exec` of the server without privileges.

Root makes the directories, binds the listening socket, opens the first-key file and, where the code lies below a
directory that the user cannot traverse, opens a way to it (`mounts.py`). The pid stays the same throughout.
"""

from __future__ import annotations

import ctypes
import os
import pwd
import socket
import stat
import sys
from pathlib import Path
from typing import NoReturn

import hutch
from hutch.api.mounts import Need, open_paths
from hutch.settings import Settings
from hutch.tls import TlsProblem, place_for

LISTEN_FD = "HUTCH_LISTEN_FD"
GATEWAY_FD = "HUTCH_GATEWAY_FD"
TLS_FD = "HUTCH_TLS_FD"
FIRST_KEY_FILE = "HUTCH_FIRST_KEY_FILE"
SERVER_FILE = "api.json"

_KEPT = {"PATH", "LANG", "TZ", "PYTHONPATH", "PYTHONUNBUFFERED", "PYTHONWARNINGS", "PYTHONDONTWRITEBYTECODE"}
_KEPT |= {"SSL_CERT_FILE", "SSL_CERT_DIR", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY"}
_KEPT_PREFIXES = ("LC_", "GIT_SSL_")
_PR_SET_NO_NEW_PRIVS = 38


class LaunchError(Exception):
    """The server cannot start here; the message says what to do."""


def listen(host: str, port: int, setting: str = "HUTCH_PORT") -> socket.socket:
    """A listening socket. Connections notice by themselves when the other machine has vanished."""
    address_setting = "HUTCH_TLS_HOST" if setting == "HUTCH_TLS_PORT" else "HUTCH_HOST"
    try:
        family, kind, proto, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        sock = socket.socket(family, kind, proto)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        _keepalive(sock)
        sock.bind(address)
        sock.listen(2048)
    except OSError as error:
        raise LaunchError(f"cannot listen on {host}:{port}: {error}. Set {address_setting} or {setting}.") from error
    return sock


def become_user(settings: Settings) -> NoReturn:
    """Prepare as root, then run `python -m hutch.api` as `settings.server_user` in this process."""
    user = _user(settings.server_user)
    _make_directories(settings, user)
    settings = _with_certificate(settings, user)
    sockets = {
        LISTEN_FD: listen(settings.host, settings.port),
        GATEWAY_FD: listen(settings.host, settings.gateway_port, "HUTCH_GATEWAY_PORT"),
    }
    if settings.tls_wanted:
        sockets[TLS_FD] = listen(settings.tls_host, settings.tls_port, "HUTCH_TLS_PORT")
    for each in sockets.values():
        os.set_inheritable(each.fileno(), True)
    environment = _environment(settings) | {name: str(each.fileno()) for name, each in sockets.items()}
    environment["HOME"] = str(settings.server_dir)
    if fd := _first_key_fd():
        environment[FIRST_KEY_FILE] = fd
    _open_paths(settings, user)
    _drop(user)
    _check_readable(settings.server_user)
    os.chdir("/")
    os.execve(sys.executable, [sys.executable, "-P", "-m", "hutch.api"], environment)  # noqa: S606


def _with_certificate(settings: Settings, user: pwd.struct_passwd) -> Settings:
    """The settings with the certificate where the user finds it."""
    if not settings.tls_wanted:
        return settings
    try:
        path, _ = place_for(settings, user.pw_uid, user.pw_gid)
    except TlsProblem as problem:
        raise LaunchError(str(problem)) from problem
    return settings.model_copy(update={"tls_cert": path, "tls_key": path, "tls_self": False})


def _user(name: str) -> pwd.struct_passwd:
    try:
        return pwd.getpwnam(name)
    except KeyError:
        hint = f"`useradd --system --no-create-home --shell /usr/sbin/nologin {name}`, or set HUTCH_SERVER_USER"
        raise LaunchError(f"there is no system user {name!r}: {hint}.") from None


def _make_directories(settings: Settings, user: pwd.struct_passwd) -> None:
    """The server's own directories; the file that tells its address is a link into the one it may write to."""
    own_run = settings.run_dir / "server"
    for directory in (settings.data_dir, settings.run_dir):
        directory.mkdir(parents=True, exist_ok=True)
        directory.chmod(stat.S_IMODE(directory.stat().st_mode) | 0o711)
    for directory, mode in ((settings.server_dir, 0o700), (own_run, 0o755)):
        directory.mkdir(exist_ok=True)
        os.chown(directory, user.pw_uid, user.pw_gid)
        directory.chmod(mode)
    link = settings.run_dir / SERVER_FILE
    (own_run / SERVER_FILE).unlink(missing_ok=True)  # what a killed server has left
    if not link.is_symlink():
        link.unlink(missing_ok=True)
        link.symlink_to(f"server/{SERVER_FILE}")


def _environment(settings: Settings) -> dict[str, str]:
    """What the server needs and no more: the caller's environment may hold keys of model providers."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if name.upper() in _KEPT or name.upper().startswith(_KEPT_PREFIXES)
    }
    set_values = settings.model_dump(mode="json", exclude_none=True)
    return kept | {f"HUTCH_{name.upper()}": str(value) for name, value in set_values.items()}


def _first_key_fd() -> str | None:
    """The number of an open file for the first key: what `HUTCH_FIRST_KEY_FILE` says, opened while we are root."""
    target = os.environ.get(FIRST_KEY_FILE)
    if not target or target.isdecimal():
        if target:
            os.set_inheritable(int(target), True)
        return target
    fd = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    os.fchmod(fd, 0o600)
    os.set_inheritable(fd, True)
    return str(fd)


def _open_paths(settings: Settings, user: pwd.struct_passwd) -> None:
    code = _code_paths()
    needs = [Need(path) for path in code]
    needs += [Need(settings.server_dir, writable=True), Need(settings.run_dir, writable=True)]
    needs += [Need(path) for path in (settings.templates_dir, settings.prices_file) if path and path.exists()]
    try:
        open_paths(needs, user.pw_uid, user.pw_gid)
    except OSError as error:
        raise LaunchError(
            f"the user {user.pw_name!r} cannot reach Hutch's files ({code[0]}, ...), and a private mount namespace is "
            f"not to be had here ({error}). Move the checkout to a place that everyone may traverse, such as /opt."
        ) from error


def _code_paths() -> list[Path]:
    """Everything Python may load: this package, the environment, the interpreter behind its links, `sys.path`. Not the
    directory we happen to be started in, which `-m` has put first there."""
    paths = [Path(hutch.__path__[0]).parent, Path(sys.prefix), Path(sys.base_prefix)]
    paths += [Path(entry) for entry in sys.path if entry and os.path.exists(entry) and entry != os.getcwd()]
    executable = Path(sys.executable)
    while True:
        paths.append(executable.parent.parent)
        if not executable.is_symlink():
            break
        executable = executable.parent / executable.readlink()
    return [path.absolute() for path in dict.fromkeys(paths)]


def _drop(user: pwd.struct_passwd) -> None:
    os.setgroups([])
    os.setgid(user.pw_gid)
    os.setuid(user.pw_uid)
    os.umask(0o077)
    ctypes.CDLL(None).prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)


def _check_readable(user: str) -> None:
    """Say plainly what Python would say with a traceback from deep inside."""
    for path in (Path(sys.executable), Path(__file__), Path(socket.__file__)):
        if not os.access(path, os.R_OK):
            raise LaunchError(
                f"the user {user!r} may not read {path}. "
                f"Let everyone read the program: `chmod -R go+rX {path.parent.parent.parent}`."
            )


def _keepalive(sock: socket.socket) -> None:
    """Accepted connections inherit these: a peer that is gone without a word is found dead in about two minutes."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 60)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 15)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 4)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, 120_000)
