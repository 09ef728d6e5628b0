"""Tokens and keys of the tests: good ones, and every kind of bad one, made with PyJWT directly.

Nothing here imports the server: a mistake in its own token code must not hide in the tests as well.
"""

from __future__ import annotations

import base64
import json
import time
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import jwt

SECRET = "a-test-secret-of-more-than-thirty-two-bytes"
OLD_SECRET = "the-secret-before-the-last-rotation-of-keys"
API_KEY = "test-api-key-0001"
READ_KEY = "test-read-key-0001"

Grants = Mapping[str, Sequence[str]]
EVERYTHING: Grants = {"*": ["join", "see", "publish", "history"]}


def make_token(
    user: str = "alice",
    *,
    grants: Grants | None = EVERYTHING,
    info: Any = None,
    ttl_s: float = 600.0,
    secret: str = SECRET,
    algorithm: str = "HS256",
    **claims: Any,
) -> str:
    """A client token; `grants=None` leaves the claim `channels` out, a claim given as None is left out too."""
    payload: dict[str, Any] = {"sub": user, "exp": time.time() + ttl_s}
    if grants is not None:
        payload["channels"] = grants
    if info is not None:
        payload["info"] = info
    payload.update(claims)
    payload = {name: value for name, value in payload.items() if value is not None}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # short keys are made on purpose here
        return jwt.encode(payload, secret, algorithm=algorithm)


def unsigned_token(user: str = "alice") -> str:
    """A token of the algorithm `none`: well formed, and never acceptable."""
    return f"{_part({'alg': 'none', 'typ': 'JWT'})}.{_part({'sub': user, 'exp': int(time.time()) + 600})}."


def tampered_token(user: str = "alice") -> str:
    """A good token whose payload was exchanged after signing: another user with all grants."""
    head, _, signature = make_token("somebody-else").split(".")
    return f"{head}.{_part({'sub': user, 'exp': int(time.time()) + 600})}.{signature}"


def bad_tokens() -> dict[str, str]:
    """One token for each way of being bad, by the reason (the key doubles as test id)."""
    return {
        "empty": "",
        "garbage": "not.a.token",
        "unsigned": unsigned_token(),
        "tampered": tampered_token(),
        "foreign-secret": make_token(secret="some-other-secret-of-thirty-two-bytes-or-more"),
        "other-algorithm": make_token(algorithm="HS512"),
        "expired": make_token(ttl_s=-60),
        "without-exp": make_token(exp=None),
        "without-sub": make_token(sub=None),
        "sub-is-no-id": make_token(" padded "),
        "sub-is-a-number": make_token(sub=7),
        "info-is-no-object": make_token(info="text"),
        "info-too-large": make_token(info={"x": "y" * 1100}),
        "channels-is-a-list": make_token(channels=["*"]),
        "unknown-grant": make_token(channels={"*": ["join", "fly"]}),
        "not-yet-valid": make_token(nbf=int(time.time()) + 600),
    }


def bearer(token: str) -> dict[str, str]:
    """The header that carries a token or a key."""
    return {"Authorization": f"Bearer {token}"}


def _part(value: Mapping[str, Any]) -> str:
    return base64.urlsafe_b64encode(json.dumps(value).encode()).rstrip(b"=").decode()
