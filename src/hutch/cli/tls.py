"""`hutch tls`: the local authority that `hutch up --tls self` makes, and how clients trust it."""

from __future__ import annotations

import typer

from hutch.cli.common import Json
from hutch.cli.console import out, print_json
from hutch.cli.host import HostProblem, said_url
from hutch.settings import Settings, get_settings
from hutch.tls import authority_file, host_of

app = typer.Typer(help="The local certificate authority of `hutch up --tls self`.", no_args_is_help=True)

_HOW = """\
# Linux, system-wide (curl, git, Go programs):
hutch tls ca | sudo tee /usr/local/share/ca-certificates/hutch-{host}.crt >/dev/null
sudo update-ca-certificates

# macOS:
hutch tls ca > hutch-ca.pem
sudo security add-trusted-cert -d -r trustRoot -k /Library/Keychains/System.keychain hutch-ca.pem

# Python programs (E2B's clients, httpx, requests), after the Linux step:
export SSL_CERT_FILE=/etc/ssl/certs/ca-certificates.crt REQUESTS_CA_BUNDLE=/etc/ssl/certs/ca-certificates.crt
# or this authority and no other:
export SSL_CERT_FILE={path}

# Node:
export NODE_EXTRA_CA_CERTS={path}

# On another machine, use a copy of the file there. It can vouch for {host} and the names below it only.
"""


@app.command("ca")
def ca(json: Json = False) -> None:
    """Print the certificate of the authority (PEM), which is no secret."""
    settings = _with_domain(get_settings())
    text = _read(settings)
    if json:
        return print_json({"path": str(authority_file(settings)), "pem": text})
    out.print(text, end="", soft_wrap=True, highlight=False, markup=False)


@app.command("trust")
def trust(json: Json = False) -> None:
    """Say how programs on this machine and on others are made to trust it."""
    settings = _with_domain(get_settings())
    _read(settings)
    path, host = authority_file(settings), host_of(settings)
    if json:
        return print_json({"path": str(path), "domain": host})
    text = _HOW.format(path=path, host=host)
    out.print(text, end="", soft_wrap=True, highlight=False, markup=False)


def _read(settings: Settings) -> str:
    path = authority_file(settings)
    try:
        return path.read_text()
    except OSError as error:
        raise HostProblem(
            f"there is no local authority ({path}: {error.strerror})",
            hint="`hutch up --domain box.example.org --tls self` makes it.",
        ) from error


def _with_domain(settings: Settings) -> Settings:
    """The domain that is served now, when the settings here do not say one."""
    names = said_url(settings, "tls")
    if settings.domain is not None or names is None:
        return settings
    return settings.model_copy(update={"domain": names.partition("://api.")[2]})
