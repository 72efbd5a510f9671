"""Who may call: the access token, and signatures over file URLs."""

from __future__ import annotations

import time
from _operator import _compare_digest  # `hmac`'s own, without importing OpenSSL
from collections.abc import Sequence

from hutch_guest.errors import Unauthorized
from hutch_guest.http.messages import Request


def same_text(left: str, right: str) -> bool:
    """Compare in constant time."""
    return bool(_compare_digest(left.encode("utf-8", "surrogateescape"), right.encode("utf-8", "surrogateescape")))


def check_token(request: Request, tokens: Sequence[str]) -> None:
    """Refuse a request without one of the access tokens (a guest without any is open)."""
    if not tokens:
        return
    given = request.headers.get("x-access-token")
    if given is None:
        raise Unauthorized("missing X-Access-Token header")
    if not any([same_text(given, token) for token in tokens]):
        raise Unauthorized("invalid access token")


def is_signed(request: Request) -> bool:
    """Whether it stands on a signature, and so on nothing that was not signed."""
    return "x-access-token" not in request.headers and "signature" in request.query


def check_file_access(request: Request, tokens: Sequence[str], operation: str) -> None:
    """For `/files`: a token, or a signature made with it over path, operation, user and expiration."""
    if not tokens:
        return
    if "x-access-token" in request.headers:
        check_token(request, tokens)
        return
    signature = request.query.get("signature")
    if not signature:
        raise Unauthorized("missing signature query parameter")
    expiration = request.query.get("signature_expiration")
    path, user = request.query.get("path", ""), request.query.get("username", "")
    if not any([same_text(signature, sign(path, operation, user, token, expiration)) for token in tokens]):
        raise Unauthorized("invalid signature")
    if expiration is not None and not (expiration.isdigit() and int(expiration[:18]) >= time.time()):
        raise Unauthorized("signature is already expired")


def sign(path: str, operation: str, username: str, token: str, expiration: str | None = None) -> str:
    """The signature of a file URL."""
    import base64
    import hashlib

    text = f"{path}:{operation}:{username}:{token}" + (f":{expiration}" if expiration is not None else "")
    digest = hashlib.sha256(text.encode("utf-8", "surrogateescape")).digest()
    return "v1_" + base64.b64encode(digest).decode().rstrip("=")
