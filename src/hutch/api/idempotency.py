"""How the `Idempotency-Key` header stands in the OpenAPI document."""

from __future__ import annotations

KEY_HEADER = {
    "name": "Idempotency-Key",
    "in": "header",
    "description": "The same key with the same body gives the same answer, however often it is sent.",
    "schema": {"type": "string", "minLength": 1, "maxLength": 255, "pattern": "^[ -~]+$"},
}
