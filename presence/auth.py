"""Who is asking, and what may they do: client tokens (JWT) and back-end keys.

Nothing is trusted before the signature fits, and the algorithm comes from the key, never from the token: a
public key used as an HMAC secret, or ``none``, are how such checks are broken. Messages never hold the token.
"""

from __future__ import annotations

import hmac
import json
import re
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import jwt
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, rsa
from cryptography.hazmat.primitives.serialization import load_pem_public_key
from jwt.algorithms import ECAlgorithm, OKPAlgorithm, RSAAlgorithm

from presence import codec
from presence.errors import BadRequest, BadSetting, PresenceError, Unauthorized
from presence.settings import Settings

GRANTS = frozenset({"join", "see", "publish", "history"})
DEFAULT_GRANTS = {"*": ["join", "see"]}
MAX_TOKEN_BYTES = 16 * 1024
MIN_RSA_BITS = 2048
# The year 9999: "for ever" must stay a number that Redis and timers can reckon with.
LAST_INSTANT_S = 253_402_300_799.0

_TOKEN = re.compile(r"[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+")
_JWK_READERS: dict[object, Callable[[dict[str, Any]], Any]] = {
    "RSA": RSAAlgorithm.from_jwk,
    "EC": ECAlgorithm.from_jwk,
    "OKP": OKPAlgorithm.from_jwk,
}


class Grants:
    """What a token allows, by channel pattern; a channel has every grant of every pattern it fits."""

    def __init__(self, patterns: Mapping[str, Iterable[str]]) -> None:
        self._patterns = {pattern: frozenset(grants) for pattern, grants in patterns.items()}

    @classmethod
    def parse(cls, value: object) -> Grants:
        """Return the grants of a ``channels`` claim, or refuse it."""
        if not isinstance(value, dict):
            raise BadRequest("channels must be an object")
        for pattern, grants in value.items():
            codec.name(pattern, "a channel pattern")
            if not isinstance(grants, list) or not all(isinstance(grant, str) for grant in grants):
                raise BadRequest("the grants of a channel pattern must be a list of texts")
            if not GRANTS.issuperset(grants):
                raise BadRequest(f"grants are {', '.join(sorted(GRANTS))}")
        return cls(value)

    @classmethod
    def from_text(cls, text: str) -> Grants:
        """Return the grants another node wrote with ``to_text``."""
        return cls.parse(codec.decode_value(text, max_bytes=2 * MAX_TOKEN_BYTES, what="grants"))

    def to_text(self) -> str:
        """Return compact JSON for messages between nodes."""
        return codec.compact({pattern: sorted(grants) for pattern, grants in self._patterns.items()})

    def may(self, grant: str, channel: str) -> bool:
        """Say whether the grant holds for the channel; never for the server's own channels."""
        if channel.startswith("@"):
            return False
        return any(grant in grants and matches(pattern, channel) for pattern, grants in self._patterns.items())


@dataclass(frozen=True, slots=True)
class Identity:
    """A checked client token; ``info`` is compact JSON text, ``expires_at`` in Unix seconds."""

    user: str
    info: str
    expires_at: float
    grants: Grants

    def may(self, grant: str, channel: str) -> bool:
        """Say whether this client has the grant for the channel."""
        return self.grants.may(grant, channel)


@dataclass(frozen=True, slots=True)
class _Key:
    algorithm: str
    material: Any
    kid: str | None = None


class Authenticator:
    """Checks tokens and keys against the settings; raises BadSetting when made with an unusable key file."""

    def __init__(self, settings: Settings) -> None:
        self._secrets = settings.token_secret
        self._audience = settings.token_audience
        self._issuer = settings.token_issuer
        self._write_keys = [key.encode() for key in settings.api_keys]
        self._read_keys = [key.encode() for key in settings.read_keys]
        self._keys = [_Key("HS256", secret.encode()) for secret in settings.token_secret]
        if settings.token_key_file:
            self._keys += _load_keys(settings.token_key_file)
        self._signatures = jwt.PyJWS()

    def client(self, token: str) -> Identity:
        """Return who the token speaks for; Unauthorized when anything about it is wrong or over."""
        if len(token) > MAX_TOKEN_BYTES or not _TOKEN.fullmatch(token):
            raise Unauthorized("the token is missing or no JSON Web Token")
        try:
            claims = codec.decode_object(self._payload(token), max_bytes=MAX_TOKEN_BYTES, what="token")
            return self._identity(claims)
        except Unauthorized:
            raise
        except (ValueError, PresenceError) as error:
            raise Unauthorized(f"the token is bad: {error}") from None

    def backend(self, authorization: str | None) -> Literal["write", "read"]:
        """Return what the api key of an ``Authorization`` header opens."""
        given = bearer(authorization).encode("utf-8", "surrogatepass")
        # Compare with every key, without a way out: the time must not tell which of them was nearly right.
        writes = [hmac.compare_digest(given, key) for key in self._write_keys]
        reads = [hmac.compare_digest(given, key) for key in self._read_keys]
        if any(writes):
            return "write"
        if any(reads):
            return "read"
        raise Unauthorized("this needs a valid api key: Authorization: Bearer <key>")

    def make_token(self, user: str, channels: Mapping[str, list[str]] | None, ttl_s: float) -> str:
        """Return a token that this server accepts; without ``channels`` it may join and see everything."""
        if not self._secrets:
            raise BadSetting("PRESENCE_TOKEN_SECRET is not set: a token is signed with it")
        claims: dict[str, object] = {"sub": codec.name(user, "user"), "exp": int(time.time() + ttl_s)}
        if channels is not None:
            Grants.parse(channels)
            claims["channels"] = channels
        if self._audience:
            claims["aud"] = self._audience
        if self._issuer:
            claims["iss"] = self._issuer
        return jwt.encode(claims, self._secrets[0], algorithm="HS256")

    def _payload(self, token: str) -> bytes:
        """Return the signed text of the token, once one of the keys vouches for it."""
        header = jwt.utils.base64url_decode(token.partition(".")[0])
        fields = codec.decode_object(header, max_bytes=MAX_TOKEN_BYTES, what="token")
        algorithm, kid = fields.get("alg"), fields.get("kid")
        for key in self._keys:
            if key.algorithm != algorithm or (key.kid is not None and kid is not None and key.kid != kid):
                continue
            try:
                payload: bytes = self._signatures.decode(token, key.material, algorithms=[key.algorithm])
                return payload
            except jwt.PyJWTError:
                continue
        raise Unauthorized("the token is not signed by a key of this server")

    def _identity(self, claims: dict[str, object]) -> Identity:
        now = time.time()
        expires_at = _instant(claims, "exp")
        if expires_at <= now:
            raise Unauthorized("the token is over; get a new one")
        if "nbf" in claims and _instant(claims, "nbf") > now:
            raise Unauthorized("the token is not valid yet")
        self._check_audience(claims)
        return Identity(
            user=codec.name(claims.get("sub"), "sub"),
            info=codec.small_object(claims.get("info", {}), "info"),
            expires_at=expires_at,
            grants=Grants.parse(claims.get("channels", DEFAULT_GRANTS)),
        )

    def _check_audience(self, claims: dict[str, object]) -> None:
        if self._issuer and claims.get("iss") != self._issuer:
            raise Unauthorized("the token is of another issuer")
        audience = claims.get("aud")
        if self._audience and self._audience not in (audience if isinstance(audience, list) else [audience]):
            raise Unauthorized("the token is for another audience")


def bearer(authorization: str | None) -> str:
    """Return what stands behind ``Bearer`` in an ``Authorization`` header."""
    scheme, _, value = (authorization or "").strip().partition(" ")
    if scheme.lower() != "bearer" or not value.strip():
        raise Unauthorized("this needs a header: Authorization: Bearer …")
    return value.strip()


def matches(pattern: str, channel: str) -> bool:
    """Say whether the channel fits the pattern, in which only ``*`` is special: any run of characters.

    Taking the leftmost place for each middle part is enough, so nothing is ever tried twice.
    """
    if "*" not in pattern:
        return pattern == channel
    first, *middle, last = pattern.split("*")
    end = len(channel) - len(last)
    if end < len(first) or not channel.startswith(first) or not channel.endswith(last):
        return False
    position = len(first)
    for part in middle:
        found = channel.find(part, position, end)
        if found < 0:
            return False
        position = found + len(part)
    return True


def _instant(claims: dict[str, object], claim: str) -> float:
    value = claims.get(claim)
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise BadRequest(f"{claim} must be a number of seconds since 1970")
    return min(float(value), LAST_INSTANT_S)


def _load_keys(path: Path) -> list[_Key]:
    """Return the public keys of a PEM or JWKS file."""
    try:
        content = path.read_bytes()
        keys = _jwks(json.loads(content)) if content.lstrip()[:1] == b"{" else [_pem(content)]
    except OSError as error:
        raise BadSetting(f"token_key_file={path}: cannot be read: {error.strerror}") from None
    except (ValueError, TypeError, UnsupportedAlgorithm, jwt.PyJWTError) as error:
        raise BadSetting(f"token_key_file={path}: must be a PEM public key or a JWKS file: {error}") from None
    if not keys:
        raise BadSetting(f"token_key_file={path}: holds no RSA, P-256 or Ed25519 signature key")
    return keys


def _pem(content: bytes) -> _Key:
    key = load_pem_public_key(content)
    algorithm = _algorithm(key)
    if algorithm is None:
        raise ValueError("the key must be RSA, P-256 or Ed25519")
    return _Key(algorithm, key)


def _jwks(document: object) -> list[_Key]:
    """Return the keys that can check a token; a set may well hold others, for other uses."""
    entries = document.get("keys", [document]) if isinstance(document, dict) else None
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise ValueError("`keys` must be a list of objects")
    keys = []
    for entry in entries:
        reader = _JWK_READERS.get(entry.get("kty"))
        if reader is None or entry.get("use", "sig") != "sig":
            continue
        if "d" in entry:
            raise ValueError("a key is private; give the public part only")
        material = reader(entry)
        algorithm = _algorithm(material)
        if algorithm is not None and entry.get("alg", algorithm) == algorithm:
            keys.append(_Key(algorithm, material, entry.get("kid")))
    return keys


def _algorithm(key: object) -> str | None:
    """Return the one algorithm that this key may check, None for a key of no use here."""
    if isinstance(key, rsa.RSAPublicKey):
        if key.key_size < MIN_RSA_BITS:
            raise ValueError(f"an RSA key needs at least {MIN_RSA_BITS} bits")
        return "RS256"
    if isinstance(key, ec.EllipticCurvePublicKey) and isinstance(key.curve, ec.SECP256R1):
        return "ES256"
    if isinstance(key, ed25519.Ed25519PublicKey | ed448.Ed448PublicKey):
        return "EdDSA"
    return None
