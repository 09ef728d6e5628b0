"""Client tokens and back-end keys: what is accepted, and that nothing else is."""

from __future__ import annotations

import base64
import json
import time
from pathlib import Path
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)

from presence.auth import Authenticator, Grants, bearer, matches
from presence.errors import BadName, BadRequest, BadSetting, Unauthorized
from presence.settings import Settings

SECRET = "a-secret-of-at-least-thirty-two-bytes"
OLD_SECRET = "the-secret-before-it-with-32-bytes-too"
RSA_KEY = rsa.generate_private_key(65537, 2048)
EC_KEY = ec.generate_private_key(ec.SECP256R1())
ED_KEY = ed25519.Ed25519PrivateKey.generate()
PRIVATE_KEYS = {"RS256": RSA_KEY, "ES256": EC_KEY, "EdDSA": ED_KEY}


def sign(key: Any = SECRET, algorithm: str = "HS256", kid: str | None = None, **claims: Any) -> str:
    payload = {"sub": "ann", "exp": time.time() + 60, **claims}
    payload = {name: value for name, value in payload.items() if value is not None}
    return jwt.encode(payload, key, algorithm=algorithm, headers={"kid": kid} if kid else None)


def raw(header: object, payload: bytes, signature: bytes = b"x") -> str:
    parts = (json.dumps(header).encode(), payload, signature)
    return ".".join(base64.urlsafe_b64encode(part).rstrip(b"=").decode() for part in parts)


def with_secret(**settings: Any) -> Authenticator:
    return Authenticator(Settings(token_secret=(SECRET, OLD_SECRET), **settings))


def with_key_file(path: Path, content: bytes, **settings: Any) -> Authenticator:
    path.write_bytes(content)
    return Authenticator(Settings(token_key_file=path, **settings))


def pem(key: Any) -> bytes:
    return bytes(key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))


def jwk(algorithm: str, key: Any, **more: str) -> dict[str, Any]:
    document: dict[str, Any] = jwt.get_algorithm_by_name(algorithm).to_jwk(key.public_key(), as_dict=True)
    return {**document, **more}


def test_a_good_token_tells_who_it_is_and_until_when() -> None:
    expires_at = time.time() + 60.5
    token = sign(exp=expires_at, info={"name": "Änn", "x": []}, channels={"room:*": ["join", "publish"]})

    identity = with_secret().client(token)

    assert identity.user == "ann"
    assert identity.info == '{"name":"Änn","x":[]}'
    assert identity.expires_at == expires_at
    assert identity.may("publish", "room:1")
    assert not identity.may("see", "room:1")
    assert not identity.may("join", "hall")


def test_without_channels_a_token_may_join_and_see_everything_but_the_servers_own() -> None:
    identity = with_secret().client(sign())

    assert identity.info == "{}"
    assert identity.may("join", "anything")
    assert identity.may("see", "anything")
    assert not identity.may("publish", "anything")
    assert not identity.may("history", "anything")
    assert not identity.may("see", "@internal")


def test_tokens_of_both_secrets_are_good() -> None:
    for secret in (SECRET, OLD_SECRET):
        assert with_secret().client(sign(secret)).user == "ann"


BAD_CLAIMS: dict[str, dict[str, Any]] = {
    "over": {"exp": time.time() - 1},
    "no exp": {"exp": None},
    "exp as text": {"exp": "99999999999"},
    "exp as bool": {"exp": True},
    "exp not a number": {"exp": float("nan")},
    "exp infinite": {"exp": float("inf")},
    "no sub": {"sub": None},
    "sub of white space": {"sub": " "},
    "sub with a line break": {"sub": "a\nb"},
    "sub too long": {"sub": "x" * 201},
    "not yet": {"nbf": time.time() + 3600},
    "info is a list": {"info": [1]},
    "info is a text": {"info": "x"},
    "info over a kilobyte": {"info": {"x": "y" * 1024}},
    "channels is a list": {"channels": ["join"]},
    "channels of one text": {"channels": {"room": "join"}},
    "unknown grant": {"channels": {"room": ["join", "fly"]}},
    "grant that is a list": {"channels": {"room": [["join"]]}},
    "pattern that is no name": {"channels": {" room": ["join"]}},
    "empty pattern": {"channels": {"": ["join"]}},
}


@pytest.mark.parametrize("claims", BAD_CLAIMS.values(), ids=BAD_CLAIMS.keys())
@pytest.mark.filterwarnings("ignore::jwt.warnings.InsecureKeyLengthWarning")
def test_a_token_with_a_bad_claim_is_unauthorized(claims: dict[str, Any]) -> None:
    payload = {"sub": "ann", "exp": time.time() + 60, **claims}
    body = json.dumps({name: value for name, value in payload.items() if value is not None}).encode()

    with pytest.raises(Unauthorized):
        with_secret().client(jwt.PyJWS().encode(body, SECRET, algorithm="HS256"))


def test_null_is_neither_info_nor_channels() -> None:
    for claim in ("info", "channels"):
        body = json.dumps({"sub": "ann", "exp": time.time() + 60, claim: None}).encode()
        with pytest.raises(Unauthorized):
            with_secret().client(jwt.PyJWS().encode(body, SECRET, algorithm="HS256"))


CLAIMS = json.dumps({"sub": "ann", "exp": time.time() + 600}).encode()
BAD_TOKENS = {
    "empty": "",
    "one part": "abc",
    "not base64": "aaaaa.bbbbb.ccccc",
    "umlauts": "ä.ö.ü",
    "huge": sign(info={"x": "y" * 20_000}),
    "none": raw({"alg": "none"}, CLAIMS),
    "none unsigned": jwt.encode({"sub": "ann", "exp": time.time() + 60}, "", algorithm="none"),
    "no algorithm": raw({}, CLAIMS),
    "algorithm as list": raw({"alg": ["HS256"]}, CLAIMS),
    "forged signature": raw({"alg": "HS256"}, CLAIMS),
    "foreign secret": sign("another-secret-of-thirty-two-bytes-and-more"),
    "other algorithm": sign(SECRET + SECRET, algorithm="HS512"),
    "unknown critical header": jwt.encode(
        {"sub": "ann", "exp": time.time() + 60}, SECRET, algorithm="HS256", headers={"crit": ["x"], "x": 1}
    ),
    "deep header": base64.urlsafe_b64encode(b"[" * 9000).decode() + ".e30.eA",
    "huge number in header": base64.urlsafe_b64encode(b"9" * 9000).decode() + ".e30.eA",
    "duplicate claim": jwt.PyJWS().encode(b'{"sub":"ann","sub":"bob","exp":99999999999}', SECRET, algorithm="HS256"),
    "claims are a list": jwt.PyJWS().encode(b"[]", SECRET, algorithm="HS256"),
    "claims are no json": jwt.PyJWS().encode(b"hello", SECRET, algorithm="HS256"),
}


@pytest.mark.parametrize("token", BAD_TOKENS.values(), ids=BAD_TOKENS.keys())
def test_a_bad_token_is_unauthorized_and_not_repeated(token: str) -> None:
    with pytest.raises(Unauthorized) as caught:
        with_secret().client(token)

    assert not any(part and part in str(caught.value) for part in token.split("."))


def test_changing_any_part_of_a_good_token_makes_it_bad() -> None:
    header, payload, signature = sign().split(".")
    other_header, other_payload, other_signature = sign(sub="bob", exp=time.time() + 90).split(".")

    assert header == other_header
    for token in (f"{header}.{other_payload}.{signature}", f"{header}.{payload}.{other_signature}"):
        with pytest.raises(Unauthorized):
            with_secret().client(token)


def test_audience_and_issuer_are_checked_when_configured() -> None:
    strict = with_secret(token_audience="presence", token_issuer="shop")

    assert strict.client(sign(aud="presence", iss="shop")).user == "ann"
    assert strict.client(sign(aud=["web", "presence"], iss="shop")).user == "ann"
    for claims in ({}, {"aud": "presence"}, {"aud": "web", "iss": "shop"}, {"aud": "presence", "iss": "x"}):
        with pytest.raises(Unauthorized):
            strict.client(sign(**claims))


def test_audience_and_issuer_are_free_when_not_configured() -> None:
    assert with_secret().client(sign(aud="web", iss="x", iat=time.time() + 5)).user == "ann"


def test_a_token_for_ever_has_an_end_that_can_be_reckoned_with() -> None:
    assert with_secret().client(sign(exp=10**300)).expires_at < 10**12


@pytest.mark.parametrize("algorithm", PRIVATE_KEYS)
def test_a_public_key_in_a_pem_file_checks_its_one_algorithm(tmp_path: Path, algorithm: str) -> None:
    key = PRIVATE_KEYS[algorithm]
    authenticator = with_key_file(tmp_path / "key.pem", pem(key))

    assert authenticator.client(sign(key, algorithm)).user == "ann"
    for other in PRIVATE_KEYS.keys() - {algorithm}:
        with pytest.raises(Unauthorized):
            authenticator.client(sign(PRIVATE_KEYS[other], other))
    with pytest.raises(Unauthorized):
        authenticator.client(sign())


def test_a_public_key_is_never_taken_for_a_secret(tmp_path: Path) -> None:
    authenticator = with_key_file(tmp_path / "key.pem", pem(RSA_KEY), token_secret=(SECRET,))
    signing_input = raw({"alg": "HS256", "typ": "JWT"}, CLAIMS).rpartition(".")[0]
    digest = jwt.get_algorithm_by_name("HS256").sign(signing_input.encode(), pem(RSA_KEY))
    forged = signing_input + "." + base64.urlsafe_b64encode(digest).rstrip(b"=").decode()

    with pytest.raises(Unauthorized):
        authenticator.client(forged)
    assert authenticator.client(sign()).user == "ann"
    assert authenticator.client(sign(RSA_KEY, "RS256")).user == "ann"
    with pytest.raises(Unauthorized):
        authenticator.client(sign(RSA_KEY, "RS512"))


def test_a_key_set_holds_several_keys_and_the_kid_selects(tmp_path: Path) -> None:
    newer = rsa.generate_private_key(65537, 2048)
    keys = [
        jwk("RS256", RSA_KEY, kid="old", use="sig"),
        jwk("RS256", newer, kid="new"),
        jwk("ES256", EC_KEY, kid="ec"),
        jwk("EdDSA", ED_KEY),
        jwk("RS256", rsa.generate_private_key(65537, 2048), use="enc"),
        {"kty": "oct", "k": base64.urlsafe_b64encode(SECRET.encode()).decode()},
    ]
    authenticator = with_key_file(tmp_path / "jwks.json", json.dumps({"keys": keys}).encode())

    for key, algorithm, kid in (
        (RSA_KEY, "RS256", "old"),
        (newer, "RS256", "new"),
        (newer, "RS256", None),
        (EC_KEY, "ES256", "ec"),
        (ED_KEY, "EdDSA", None),
    ):
        assert authenticator.client(sign(key, algorithm, kid)).user == "ann"
    for token in (sign(newer, "RS256", "old"), sign(newer, "RS256", "unknown"), sign()):
        with pytest.raises(Unauthorized):
            authenticator.client(token)


def test_an_unusable_key_file_is_named_when_the_server_starts(tmp_path: Path) -> None:
    private = RSA_KEY.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    private_jwk = jwt.get_algorithm_by_name("ES256").to_jwk(EC_KEY)
    contents = [
        b"",
        b"hello",
        private,
        pem(ec.generate_private_key(ec.SECP384R1())),
        pem(rsa.generate_private_key(65537, 1024)),
        b"{",
        b'{"keys":[]}',
        b'{"keys":[1]}',
        b'{"keys":[{"kty":"RSA"}]}',
        b'{"keys":[{"kty":["RSA"]}]}',
        str(private_jwk).encode(),
    ]
    for content in contents:
        with pytest.raises(BadSetting, match="token_key_file"):
            with_key_file(tmp_path / "key", content)
    with pytest.raises(BadSetting, match="cannot be read"):
        Authenticator(Settings(token_key_file=tmp_path / "absent"))


def test_api_keys_write_and_read_keys_read() -> None:
    authenticator = with_secret(api_keys=("key-one", "key-two"), read_keys=("dashboard",))

    assert authenticator.backend("Bearer key-two") == "write"
    assert authenticator.backend("bearer  key-one ") == "write"
    assert authenticator.backend("Bearer dashboard") == "read"


@pytest.mark.parametrize(
    "header", [None, "", "Bearer", "Bearer ", "Basic key-one", "key-one", "Bearer key", "Bearer ké\udcff"]
)
def test_another_key_opens_no_backend_endpoint(header: str | None) -> None:
    with pytest.raises(Unauthorized):
        with_secret(api_keys=("key-one",)).backend(header)
    with pytest.raises(Unauthorized):
        with_secret().backend(header)


def test_tokens_and_keys_are_not_interchangeable() -> None:
    authenticator = with_secret(api_keys=("key-one",))

    with pytest.raises(Unauthorized):
        authenticator.backend("Bearer " + sign())
    with pytest.raises(Unauthorized):
        authenticator.client("key-one")


def test_a_token_made_here_is_good_here() -> None:
    authenticator = with_secret(token_audience="presence", token_issuer="shop")

    limited = authenticator.client(authenticator.make_token("ann", {"room:*": ["see"]}, 60))
    free = authenticator.client(authenticator.make_token("ann", None, 60))

    assert limited.may("see", "room:1")
    assert not limited.may("join", "room:1")
    assert free.may("join", "anything")
    assert 50 < limited.expires_at - time.time() <= 60


def test_no_token_is_made_that_would_be_refused() -> None:
    with pytest.raises(BadName):
        with_secret().make_token(" ann", None, 60)
    with pytest.raises(BadRequest):
        with_secret().make_token("ann", {"room": ["fly"]}, 60)
    with pytest.raises(BadSetting, match="PRESENCE_TOKEN_SECRET"):
        Authenticator(Settings()).make_token("ann", None, 60)


@pytest.mark.parametrize(
    ("pattern", "channel", "fits"),
    [
        ("room", "room", True),
        ("room", "Room", False),
        ("room", "room:1", False),
        ("*", "anything", True),
        ("room:*", "room:", True),
        ("room:*", "room", False),
        ("*:chat", "room:chat", True),
        ("a*a", "a", False),
        ("a*a", "aa", True),
        ("a*b*c", "aXbYc", True),
        ("a*b*c", "acb", False),
        ("ab*bc", "abc", False),
        ("*ab*ab*", "abab", True),
        ("*ab*ab*", "aba", False),
        ("**", "x", True),
        ("a.c", "abc", False),
        ("[ab]", "a", False),
        ("?", "a", False),
        ("{x}*", "{x}y", True),
    ],
)
def test_only_the_asterisk_is_special_in_a_pattern(pattern: str, channel: str, fits: bool) -> None:
    assert matches(pattern, channel) is fits


def test_a_hostile_pattern_costs_no_more_than_any_other() -> None:
    started_s = time.perf_counter()

    assert not matches("*a" * 99 + "*b", "a" * 200)

    assert time.perf_counter() - started_s < 0.1


def test_grants_survive_the_way_to_another_node() -> None:
    grants = Grants.parse({"room:*": ["see", "join"], "é": ["publish"], "@x": ["see"], "none": []})

    copy = Grants.from_text(grants.to_text())

    assert copy.to_text() == grants.to_text()
    assert copy.may("join", "room:1")
    assert copy.may("publish", "é")
    assert not copy.may("see", "@x")
    assert not copy.may("see", "none")


def test_several_patterns_add_up() -> None:
    grants = Grants.parse({"*": ["see"], "room:*": ["join"], "room:1": ["publish"]})

    assert all(grants.may(grant, "room:1") for grant in ("see", "join", "publish"))
    assert not grants.may("publish", "room:2")


def test_the_bearer_is_what_stands_behind_the_word() -> None:
    assert bearer("Bearer abc") == "abc"
    with pytest.raises(Unauthorized):
        bearer("Token abc")
