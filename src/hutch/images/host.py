"""What of this machine goes into a build: its Debian mirrors, its way to the registries, its certificates.

A machine behind a proxy, a mirror or a company's own certificate authority is set up for that once, in the usual
places. Builds use the same; nothing of it stays in an image but the mirror's address.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

from hutch.errors import TemplateBuildFailed
from hutch.images.command import output

_CA_VARIABLES = (
    *("SSL_CERT_FILE", "PIP_CERT", "NODE_EXTRA_CA_CERTS", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "GIT_SSL_CAINFO"),
    "NPM_CONFIG_CAFILE",
)
_SYSTEM_BUNDLE = Path("/etc/ssl/certs/ca-certificates.crt")
_PROXIES = ("http_proxy", "https_proxy", "ftp_proxy", "no_proxy", "all_proxy")
_LOCAL = re.compile(r"(^|\s|=)(/(?!/)|\./|~|file:)")
_APT_OPTION = re.compile(r"^Acquire::(https?|ftp|Check-|Retries|ForceIPv|Languages)[^ ]* ")
_TARGET_FORMAT = "$(REPO_URI)\t$(RELEASE)\t$(COMPONENT)"

BUILD_DIR = "/run/hutch-build"
"""Where a build finds the machine's files inside the root file system; a tmpfs of that build alone."""


@dataclass(frozen=True)
class DebianSources:
    """The machine's Debian mirrors and how apt must be told to reach them."""

    codename: str
    """The release that this machine runs."""
    repositories: tuple[tuple[str, str, tuple[str, ...]], ...]
    """(URI, suite, components)."""
    apt_options: tuple[str, ...]

    def lines(self, suite: str, *, public: bool = False) -> list[str]:
        """`sources.list` lines for a release; `public` leaves out a password in an address."""
        pattern = re.compile(rf"^{re.escape(self.codename)}(-updates|-security|/updates)?$")
        lines = []
        for uri, name, components in self.repositories:
            if match := pattern.match(name):
                shown = _without_password(uri) if public else uri
                lines.append(f"deb {shown} {suite}{match.group(1) or ''} {' '.join(components)}")
        if not lines:
            raise TemplateBuildFailed(
                f"this machine's apt has no Debian source for {self.codename}",
                hint="Templates are built from the Debian mirror in /etc/apt: add one.",
            )
        return lines


async def debian_sources() -> DebianSources:
    """Read the machine's apt configuration, through apt itself."""
    listing = await output(
        ["apt-get", "indextargets", "--format", _TARGET_FORMAT, "Created-By: Packages"], what="reading apt's sources"
    )
    found: dict[tuple[str, str], list[str]] = {}
    for line in listing.splitlines():
        uri, _, rest = line.partition("\t")
        suite, _, component = rest.partition("\t")
        if component:
            found.setdefault((uri, suite), []).append(component)
    dump = await output(["apt-config", "dump", "--no-empty"], what="reading apt's configuration")
    return DebianSources(
        codename=_os_release().get("VERSION_CODENAME", "bookworm"),
        repositories=tuple((uri, suite, tuple(dict.fromkeys(parts))) for (uri, suite), parts in found.items()),
        apt_options=tuple(line for line in dump.splitlines() if _APT_OPTION.match(line)),
    )


def build_environment(environ: dict[str, str] | None = None) -> dict[str, str]:
    """The environment of everything that runs inside a root file system while it is built."""
    environ = dict(os.environ) if environ is None else environ
    env = {
        "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        "HOME": "/root",
        "LANG": "C.UTF-8",
        "LC_ALL": "C.UTF-8",
        "DEBIAN_FRONTEND": "noninteractive",
        "APT_CONFIG": f"{BUILD_DIR}/apt.conf",
        "PIP_DISABLE_PIP_VERSION_CHECK": "1",
        "PIP_ROOT_USER_ACTION": "ignore",
        "PIP_BREAK_SYSTEM_PACKAGES": "1",
        "PIP_NO_CACHE_DIR": "1",
        "PIP_PROGRESS_BAR": "off",
        "NPM_CONFIG_UPDATE_NOTIFIER": "false",
        "NPM_CONFIG_FUND": "false",
        "NPM_CONFIG_AUDIT": "false",
        "NPM_CONFIG_USERCONFIG": f"{BUILD_DIR}/npmrc",
        "NPM_CONFIG_CACHE": "/tmp/.npm",  # noqa: S108 - the root file system's, not the host's
    }
    for name, value in environ.items():
        lower = name.lower()
        if lower in _PROXIES or (lower.startswith(("pip_", "npm_config_")) and not _LOCAL.search(value)):
            env[name] = value
    if certificates(environ):
        env |= dict.fromkeys(_CA_VARIABLES, f"{BUILD_DIR}/ca.crt")
    return env


def build_files(sources: DebianSources, environ: dict[str, str] | None = None) -> dict[str, bytes]:
    """The files that a build finds in `BUILD_DIR`."""
    bundle = certificates(environ)
    options = list(sources.apt_options)
    if bundle:
        options.append(f'Acquire::https::CAInfo "{BUILD_DIR}/ca.crt";')
    return {
        "apt.conf": "".join(f"{option}\n" for option in options).encode(),
        "ca.crt": bundle,
        "npmrc": _npmrc(),
        "resolv.conf": _read(Path("/etc/resolv.conf")),
    }


def certificates(environ: dict[str, str] | None = None) -> bytes:
    """The certificate authorities that this machine trusts, as one bundle."""
    environ = dict(os.environ) if environ is None else environ
    named = [Path(environ[name]) for name in _CA_VARIABLES if environ.get(name)]
    distinct = dict.fromkeys(_read(path) for path in [*named, _SYSTEM_BUNDLE])
    return b"\n".join(content for content in distinct if content)


def _npmrc() -> bytes:
    """The operator's npm settings (registry, token), without lines that name files of this machine."""
    lines = _read(Path.home() / ".npmrc").splitlines()
    return b"\n".join(line for line in lines if not _LOCAL.search(line.decode(errors="replace"))) + b"\n"


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:
        return b""


def _without_password(uri: str) -> str:
    parts = urlsplit(uri)
    return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2]))


def _os_release() -> dict[str, str]:
    pairs = (line.partition("=") for line in _read(Path("/etc/os-release")).decode().splitlines())
    return {name: value.strip('"') for name, _, value in pairs}
