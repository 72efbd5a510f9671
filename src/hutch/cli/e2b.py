"""`hutch e2b`."""

from __future__ import annotations

import shlex

import typer

from hutch.cli.common import Json, connection
from hutch.cli.console import out, print_json
from hutch.errors import InvalidRequest
from hutch.model.e2b import e2b_key
from hutch.sdk.config import find_server


def e2b(ctx: typer.Context, json: Json = False) -> None:
    """Print the environment that leads programs written for E2B to this Hutch: `eval "$(hutch e2b)"`.

    It has the API key in it, in the form that E2B's clients take.
    """
    given = connection(ctx)
    server = find_server(given.url, given.api_key)
    key = e2b_key(server.api_key)
    if key is None:
        raise InvalidRequest("the API key is none of Hutch's: those look like hk_<id>_<secret>", field="api_key")
    with given.client() as client:
        gateway = client.gateway()
    values = {"E2B_API_KEY": key, "E2B_API_URL": server.url, "E2B_SANDBOX_URL": gateway.url}
    values["E2B_VOLUME_API_URL"] = server.url
    if gateway.domain:
        values["E2B_DOMAIN"] = gateway.domain
    if json:
        return print_json(values)
    for name, value in values.items():
        out.print(f"export {name}={shlex.quote(value)}", soft_wrap=True, highlight=False, markup=False)
