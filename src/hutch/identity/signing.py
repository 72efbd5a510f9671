"""RSA keys that sign JSON Web Tokens: RS256 is what all clouds take (Azure takes nothing else)."""

from __future__ import annotations

import json
from typing import Any

import jwt
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey, generate_private_key
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)
from jwt.algorithms import RSAAlgorithm

ALGORITHM = "RS256"
LEEWAY = 60.0
"""Seconds by which clocks may differ."""
_BITS = 2048
_REQUIRED = ["iss", "sub", "aud", "exp", "iat", "jti"]


def make_key() -> tuple[str, dict[str, Any]]:
    """A new key: the secret one as PEM, the public one as a JSON Web Key. Takes some 100 ms of CPU."""
    key = generate_private_key(public_exponent=65537, key_size=_BITS)
    pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()
    public = RSAAlgorithm.to_jwk(key.public_key(), as_dict=True)
    return pem, {"kty": "RSA", "use": "sig", "alg": ALGORITHM, "n": public["n"], "e": public["e"]}


def load_key(pem: str) -> RSAPrivateKey:
    """The secret key in this PEM, one of ours: that its parts are primes which belong together is not looked at again,
    as that takes 50 ms of CPU."""
    key = load_pem_private_key(pem.encode(), None, unsafe_skip_rsa_key_validation=True)
    if not isinstance(key, RSAPrivateKey):
        raise ValueError("not an RSA key")
    return key


def sign(claims: dict[str, Any], key: RSAPrivateKey, key_id: str) -> str:
    """The claims as a token. About a millisecond of CPU."""
    return jwt.encode(claims, key, algorithm=ALGORITHM, headers={"kid": key_id})


def key_of(token: str) -> str | None:
    """The key that it says it was signed with; None for what is no token."""
    try:
        found = jwt.get_unverified_header(token).get("kid")
    except jwt.InvalidTokenError:
        return None
    return found if isinstance(found, str) else None


def verify(token: str, public: dict[str, Any], issuer: str, now: float) -> dict[str, Any] | None:
    """What a token of ours says, whoever it is for; None for one that is forged or has expired by `now`."""
    key = jwt.PyJWK.from_json(json.dumps(public), ALGORITHM)
    options: jwt.types.Options = {"verify_aud": False, "verify_exp": False, "require": _REQUIRED}
    try:
        said = jwt.decode(token, key, algorithms=[ALGORITHM], issuer=issuer, leeway=LEEWAY, options=options)
    except jwt.InvalidTokenError:
        return None
    return said if now < float(said["exp"]) + LEEWAY else None
