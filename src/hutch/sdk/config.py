"""Where the server is and with which key: arguments, over the environment, over the credentials file."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path

from hutch.errors import Unauthorized

DEFAULT_URL = "http://127.0.0.1:8700"


@dataclass(frozen=True)
class Server:
    """A server and the key to it."""

    url: str
    api_key: str


def credentials_path() -> Path:
    """`~/.config/hutch/credentials.json`, or below `XDG_CONFIG_HOME`."""
    home = os.environ.get("XDG_CONFIG_HOME")
    return (Path(home) if home else Path.home() / ".config") / "hutch" / "credentials.json"


def load_credentials() -> Server | None:
    """What `hutch up` has saved; None when there is nothing usable."""
    try:
        saved = json.loads(credentials_path().read_text())
        return Server(str(saved["url"]), str(saved["api_key"]))
    except (OSError, ValueError, KeyError, TypeError):
        return None


def save_credentials(server: Server) -> Path:
    """Write the file, readable by this user only."""
    path = credentials_path()
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.unlink(missing_ok=True)
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
    with os.fdopen(descriptor, "w") as file:
        json.dump({"url": server.url, "api_key": server.api_key}, file)
        file.write("\n")
    temporary.replace(path)
    return path


def find_server(url: str | None = None, api_key: str | None = None) -> Server:
    """The server to talk to. A saved key is only ever sent to the server it was saved for."""
    saved = load_credentials()
    url = (url or os.environ.get("HUTCH_URL") or (saved.url if saved else DEFAULT_URL)).rstrip("/")
    api_key = api_key or os.environ.get("HUTCH_API_KEY")
    if api_key is None and saved is not None and saved.url.rstrip("/") == url:
        api_key = saved.api_key
    if not api_key:
        raise Unauthorized(
            f"there is no API key for {url}",
            hint="Set HUTCH_API_KEY, or run `hutch up`, which makes the first key and saves it for this user.",
        )
    return Server(url, api_key)
