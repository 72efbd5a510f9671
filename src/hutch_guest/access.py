"""Who may call: the access token, and signatures over file URLs."""

from __future__ import annotations

import time
from _operator import _compare_digest  # `hmac`'s own, without importing OpenSSL

from hutch_guest.errors import Unauthorized
from hutch_guest.http.messages import Request


def same_text(left: str, right: str) -> bool:
    """Compare in constant time."""
    return bool(_compare_digest(left.encode("utf-8", "surrogateescape"), right.encode("utf-8", "surrogateescape")))


def check_token(request: Request, token: str | None) -> None:
    """Refuse a request without the access token (a guest without one is open)."""
    if token is None:
        return
    given = request.headers.get("x-access-token")
    if given is None:
        raise Unauthorized("missing X-Access-Token header")
    if not same_text(given, token):
        raise Unauthorized("invalid access token")


def check_file_access(request: Request, token: str | None, operation: str) -> None:
    """For `/files`: the token, or a signature made with it over path, operation, user and expiration."""
    if token is None:
        return
    if "x-access-token" in request.headers:
        check_token(request, token)
        return
    signature = request.query.get("signature")
    if not signature:
        raise Unauthorized("missing signature query parameter")
    expiration = request.query.get("signature_expiration")
    wanted = sign(request.query.get("path", ""), operation, request.query.get("username", ""), token, expiration)
    if not same_text(signature, wanted):
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
