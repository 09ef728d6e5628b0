"""What the file of webhook targets may say, what a wrong one is told, and which addresses count as public."""

from __future__ import annotations

import hmac
from base64 import b64encode
from hashlib import sha256
from pathlib import Path

import pytest
from standardwebhooks import Webhook

from presence.errors import BadSetting
from presence.webhooks.reach import is_public
from presence.webhooks.signing import signed
from presence.webhooks.targets import Target, load_targets

KEY, OLD_KEY = b"n" * 32, b"o" * 24
SECRET, OLD_SECRET = (f"whsec_{b64encode(key).decode()}" for key in (KEY, OLD_KEY))
GOOD = f'name = "billing"\nurl = "https://example.com/hook"\nsecret = "{SECRET}"\n'


def load(tmp_path: Path, text: str, **environ: str) -> tuple[Target, ...]:
    file = tmp_path / "webhooks.toml"
    file.write_text(text)
    return load_targets(file, environ)


def test_without_a_file_there_are_no_targets() -> None:
    assert load_targets(None) == ()


def test_a_target_has_what_the_file_says_and_defaults_for_the_rest(tmp_path: Path) -> None:
    more = 'types = ["leave"]\nchannels = "room-*"\nmax_deliveries = 3\nbatch = 7\nfrom = "start"\n'
    text = f"[[target]]\n{GOOD}[[target]]\n{GOOD.replace('billing', 'b2')}{more}allow_private = true\n"

    first, second = load(tmp_path, text)

    assert (first.name, first.group, first.host, first.port) == ("billing", "@webhook:billing", "example.com", 443)
    assert (first.queue.types, first.queue.pattern, first.queue.max_deliveries) == ((), "*", 50)
    assert (first.batch, first.timeout_ms, first.backoff_ms) == (100, 15_000, 1_000)
    assert (first.allow_private, first.from_start, first.secrets) == (False, False, (KEY,))
    assert (second.queue.types, second.queue.pattern, second.queue.max_deliveries) == (("leave",), "room-*", 3)
    assert (second.batch, second.allow_private, second.from_start) == (7, True, True)


def test_secrets_may_stand_in_a_file_or_in_the_environment_two_of_them_to_rotate(tmp_path: Path) -> None:
    (tmp_path / "secrets").write_text(f"{SECRET}\n{OLD_SECRET}\n")
    head = GOOD.rpartition("secret")[0]

    (filed,) = load(tmp_path, f'[[target]]\n{head}secret_file = "secrets"\n')
    (environ,) = load(tmp_path, f'[[target]]\n{head}secret_env = "HOOK"\n', HOOK=f"{SECRET}, {OLD_SECRET}")
    (listed,) = load(tmp_path, f'[[target]]\n{head}secret = ["{SECRET}", "{OLD_SECRET}"]\n')

    assert filed.secrets == environ.secrets == listed.secrets == (KEY, OLD_KEY)


BAD = {
    "name: is missing": GOOD.replace("name", "#name"),
    "url: is missing": GOOD.replace("url", "#url"),
    "secret: give one of": GOOD.replace("secret", "#secret"),
    "name: must have": GOOD.replace("billing", "a/b"),
    "url: must be an http": GOOD.replace("https:", "ftp:"),
    "url: must be an http.*": GOOD.replace("example.com", "exämple.com"),
    "url: must be an http.*ASCII": GOOD.replace("example.com/hook", "example.com/a b"),
    "url: must not hold user": GOOD.replace("example.com", "hunter2:pw@example.com"),
    "url: must not hold a fragment": GOOD.replace("/hook", "/hook#x"),
    "url: must have a port": GOOD.replace("example.com", "example.com:99999"),
    "url: must name a host": GOOD.replace("example.com", ""),
    "url: leads to a private": GOOD.replace("example.com", "127.0.0.1"),
    "url: leads to a private.*": GOOD.replace("example.com", "[::ffff:10.0.0.1]"),
    "secret: must be whsec_": GOOD.replace("whsec_", "hunter2"),
    "secret: must be whsec_ and 24": GOOD.replace(SECRET, "whsec_aHVudGVyMg=="),
    "secret: must be one": GOOD.replace(f'"{SECRET}"', "[]"),
    "types: must be a list": GOOD + 'types = ["gone"]',
    "types: must be a list.*": GOOD + "types = []",
    "channels: ": GOOD + 'channels = ""',
    "batch: must be a whole": GOOD + "batch = 501",
    "max_deliveries: must be": GOOD + "max_deliveries = true",
    "timeout_ms: must be": GOOD + "timeout_ms = 1",
    "allow_private: must be": GOOD + 'allow_private = "yes"',
    "from: must be": GOOD + 'from = "then"',
    "chanels: there is no such key; the nearest is channels": GOOD + 'chanels = "*"',
    "secret_env: must name": GOOD.rpartition("secret")[0] + 'secret_env = "NOT_SET"',
    "secret_file: cannot be read": GOOD.rpartition("secret")[0] + 'secret_file = "nowhere"',
}


@pytest.mark.parametrize("message", BAD)
def test_what_is_wrong_is_named_by_target_and_key_and_no_secret_is_shown(tmp_path: Path, message: str) -> None:
    with pytest.raises(BadSetting, match=rf"webhooks_file=.*: target \S+: {message}") as caught:
        load(tmp_path, f"[[target]]\n{BAD[message]}")

    assert "hunter2" not in str(caught.value)
    assert SECRET[6:] not in str(caught.value)


def test_a_file_that_is_none_is_said_so(tmp_path: Path) -> None:
    for text, message in (
        ("[[target", "is not TOML"),
        ("[target]\n", "must hold"),
        ("x = 1\n", "must hold"),
        (f"[[target]]\n{GOOD}[[target]]\n{GOOD}", "billing is used twice"),
    ):
        with pytest.raises(BadSetting, match=message):
            load(tmp_path, text)
    with pytest.raises(BadSetting, match="cannot be read"):
        load_targets(tmp_path / "nowhere")


def test_neither_secret_nor_query_is_in_what_is_shown_of_a_target(tmp_path: Path) -> None:
    (target,) = load(tmp_path, f"[[target]]\n{GOOD.replace('/hook', '/hook?token=hunter2')}")

    assert target.shown_url == "https://example.com/hook?***"
    assert "hunter2" not in repr(target)
    assert repr(KEY)[2:-1] not in repr(target)


def test_the_signature_is_that_of_the_standard_for_each_secret() -> None:
    headers = signed((KEY, OLD_KEY), "msg_1", 1_700_000_000, b'{"a":1}')

    assert headers["webhook-id"] == "msg_1"
    assert headers["webhook-timestamp"] == "1700000000"
    expected = [
        "v1," + b64encode(hmac.new(key, b'msg_1.1700000000.{"a":1}', sha256).digest()).decode()
        for key in (KEY, OLD_KEY)
    ]
    assert headers["webhook-signature"].split(" ") == expected


def test_the_example_of_the_standard_is_signed_as_its_library_does() -> None:
    from datetime import UTC, datetime

    instant = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
    headers = signed((KEY,), "msg_p5jXN8AQM9LWM0D4loKWxJek", int(instant.timestamp()), b'{"test": 2432232314}')

    theirs = Webhook(SECRET).sign("msg_p5jXN8AQM9LWM0D4loKWxJek", instant, '{"test": 2432232314}')
    assert headers["webhook-signature"] == theirs


PRIVATE = [
    "127.0.0.1",
    "127.8.8.8",
    "0.0.0.0",
    "0.1.2.3",
    "10.1.2.3",
    "100.64.0.1",
    "168.63.129.16",
    "169.254.169.254",
    "172.16.0.1",
    "172.31.255.255",
    "192.0.0.8",
    "192.0.2.1",
    "192.88.99.1",
    "192.168.1.1",
    "198.18.0.1",
    "198.51.100.7",
    "203.0.113.7",
    "224.0.0.1",
    "239.255.255.250",
    "240.0.0.1",
    "255.255.255.255",
    "::1",
    "::",
    "::7f00:1",
    "::ffff:127.0.0.1",
    "::ffff:169.254.169.254",
    "64:ff9b::7f00:1",
    "64:ff9b::a9fe:a9fe",
    "64:ff9b:1::808:808",
    "100::1",
    "2001::1",
    "2001:db8::1",
    "2002:7f00:1::",
    "2002:808:808::",
    "3fff::1",
    "5f00::1",
    "fc00::1",
    "fd12::1",
    "fe80::1",
    "fe80::1%lo",
    "fec0::1",
    "ff02::1",
    "ff0e::1",
    "localhost",
    "127.1",
    "2130706433",
    "0x7f.1",
]
PUBLIC = [
    "8.8.8.8",
    "93.184.216.34",
    "172.32.0.1",
    "2606:4700:4700::1111",
    "2a00:1450::1",
    "::ffff:8.8.8.8",
    "64:ff9b::808:808",
]


@pytest.mark.parametrize("address", PRIVATE)
def test_what_is_not_certainly_public_is_private(address: str) -> None:
    assert not is_public(address)


@pytest.mark.parametrize("address", PUBLIC)
def test_addresses_of_the_internet_are_public(address: str) -> None:
    assert is_public(address)
