"""`hutch systemd`: the two daemons as units, for hosts where systemd starts and watches them instead of `hutch up`."""

from __future__ import annotations

import pwd
import shlex
import sys
from pathlib import Path
from typing import Annotated

import typer

from hutch.cli.common import Json
from hutch.cli.console import note, print_json
from hutch.errors import InvalidRequest
from hutch.settings import Settings, get_settings

ENVIRONMENT = Path("/etc/hutch/environment")
"""Where the units find further settings, as `HUTCH_NAME=value`."""

_NODE = """\
[Unit]
Description=Hutch: the node daemon
After=network-online.target
Wants=network-online.target

[Service]
Type=exec
ExecStart={python} -P -m hutch.node
{settings}
EnvironmentFile=-{environment}
Restart=always
RestartSec=1
# Sandboxes go on when the daemon stops, and the next one takes them over.
KillMode=process
Delegate=yes
OOMScoreAdjust=-900
LimitNOFILE=1048576
RestrictRealtime=yes
LockPersonality=yes
UMask=0022

[Install]
WantedBy=multi-user.target
"""

_SERVER = """\
[Unit]
Description=Hutch: the API server
After=hutch-node.service
Wants=hutch-node.service

[Service]
Type=exec
User={user}
Group={group}
# The two directories that it may write to, and where programs of this machine look for its address.
ExecStartPre=+/usr/bin/install -d -m 0711 {data_dir} {run_dir}
ExecStartPre=+/usr/bin/install -d -o {user} -g {group} -m 0700 {data_dir}/server
ExecStartPre=+/usr/bin/install -d -o {user} -g {group} -m 0755 {run_dir}/server
ExecStartPre=+/usr/bin/ln -sfn server/api.json {run_dir}/api.json
ExecStart={python} -P -m hutch.api
{settings}
Environment=HUTCH_FIRST_KEY_FILE={run_dir}/server/first-key HOME={data_dir}/server
EnvironmentFile=-{environment}
Restart=always
RestartSec=1
TimeoutStopSec=30
LimitNOFILE=1048576
UMask=0077

# It parses what strangers send, so it may do nothing but that.
NoNewPrivileges=yes
CapabilityBoundingSet=
AmbientCapabilities=
SystemCallArchitectures=native
SystemCallFilter=@system-service
SystemCallFilter=~@privileged
SystemCallErrorNumber=EPERM
RestrictAddressFamilies=AF_UNIX AF_INET AF_INET6 AF_NETLINK
RestrictNamespaces=yes
RestrictRealtime=yes
RestrictSUIDSGID=yes
LockPersonality=yes
ProtectSystem=strict
ReadWritePaths={data_dir}/server {run_dir}/server
ProtectHome=read-only
PrivateTmp=yes
PrivateDevices=yes
ProtectProc=invisible
ProtectClock=yes
ProtectControlGroups=yes
ProtectHostname=yes
ProtectKernelLogs=yes
ProtectKernelModules=yes
ProtectKernelTunables=yes
RemoveIPC=yes

[Install]
WantedBy=multi-user.target
"""


def systemd(
    to: Annotated[
        Path | None, typer.Option(metavar="DIRECTORY", help="Write them there, for example /etc/systemd/system.")
    ] = None,
    json: Json = False,
) -> None:
    """Print systemd units for the node daemon (root) and the API server (its own user, without privileges).

    Directories and user are those of the settings now; further settings go into /etc/hutch/environment. The first API
    key is then in `server/first-key` of the run directory. TLS needs `hutch up`, or a proxy in front.
    """
    made = units(get_settings())
    if to is not None:
        for name, text in made.items():
            (to / name).write_text(text)
        note(f"written to {to}: `systemctl daemon-reload && systemctl enable --now {' '.join(made)}`")
    if json:
        print_json(made)
    elif to is None:
        typer.echo("\n".join(f"# {name}\n{text}" for name, text in made.items()), nl=False)


def units(settings: Settings) -> dict[str, str]:
    """The text of each unit, by its name. Raises `InvalidRequest` for settings that a unit cannot serve."""
    if settings.tls_wanted:
        raise InvalidRequest(
            "a server that has no privileges reads no certificates of root's, and has no port 443",
            hint="Run `hutch up` in a unit, or a proxy that ends TLS in front of the server.",
        )
    paths = (settings.data_dir, settings.run_dir, Path(sys.executable))
    if unfit := next((path for path in paths if set(str(path)) & set(" \t\"'\\%$;")), None):
        raise InvalidRequest(f"{unfit} cannot stand in a unit: it has blanks or signs that mean something there")
    values = {
        "python": sys.executable,
        "user": settings.server_user,
        "group": _group(settings.server_user),
        "data_dir": settings.data_dir,
        "run_dir": settings.run_dir,
        "environment": ENVIRONMENT,
        "settings": _environment(settings),
    }
    return {"hutch-node.service": _NODE.format(**values), "hutch-server.service": _SERVER.format(**values)}


def _environment(settings: Settings) -> str:
    named = {"HUTCH_DATA_DIR": settings.data_dir, "HUTCH_RUN_DIR": settings.run_dir}
    named |= {"HUTCH_SERVER_USER": Path(settings.server_user)}
    return "Environment=" + " ".join(shlex.quote(f"{name}={value}") for name, value in named.items())


def _group(user: str) -> int | str:
    """The user's first group, whose the node's sockets are."""
    try:
        return pwd.getpwnam(user).pw_gid
    except KeyError:
        return user  # `hutch up`, or the operator, makes it later
