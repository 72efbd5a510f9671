"""Writes `docs/reference/openapi.json` from the routes. `--check` only says whether it is current."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from hutch.api.app import create_app
from hutch.control.service import Control
from hutch.settings import Settings

TARGET = Path(__file__).parent.parent / "docs" / "reference" / "openapi.json"


def document() -> str:
    """The OpenAPI document as it is served at `/openapi.json`, laid out for reading."""
    settings = Settings()
    app = create_app(settings, Control(settings), lambda key: None)
    return json.dumps(app.openapi(), indent=1, ensure_ascii=False) + "\n"


def main() -> int:
    """Write it; with `--check`, 1 when it is out of date."""
    current = TARGET.exists() and TARGET.read_text() == document()
    if "--check" not in sys.argv:
        TARGET.write_text(document())
        return 0
    if not current:
        print(f"out of date: {TARGET}; run scripts/export_openapi.py", file=sys.stderr)
    return 0 if current else 1


if __name__ == "__main__":
    sys.exit(main())
