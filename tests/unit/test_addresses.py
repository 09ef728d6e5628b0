"""What PRESENCE_REDIS_URL may say, and what is said of it where it is wrong."""

from __future__ import annotations

import asyncio

import pytest

from presence.addresses import OPTIONS, Address, parse_redis_url
from presence.settings import masked_url
from presence.topology import connection_options, make_client


def test_a_plain_address_is_left_to_the_client_library() -> None:
    url = parse_redis_url("rediss://user:secret@host:1/3")

    assert (url.kind, url.plain, url.database) == ("redis", "rediss://user:secret@host:1/3", 3)


@pytest.mark.parametrize(
    ("text", "database"),
    [("redis://h", 0), ("redis://h/2", 2), ("redis://h/2?db=5", 5), ("unix:///a/b.sock", 0), ("unix:///9?db=4", 4)],
)
def test_the_database_is_the_one_that_the_client_library_reads(text: str, database: int) -> None:
    assert parse_redis_url(text).database == database
    assert int(connection_options(text).get("db") or 0) == database


def test_sentinels_have_their_own_login_and_the_same_tls() -> None:
    text = "rediss+sentinel://user:p%40ss@a,b:7,[::1]:8/my%20name?db=2&sentinel_user=s&sentinel_password=x%2Fy&ssl_ca_certs=c"
    url = parse_redis_url(text)

    assert url.kind == "redis+sentinel"
    assert url.seeds == (Address("a", 26379), Address("b", 7), Address("::1", 8))
    assert (url.name, url.database) == ("my name", 2)
    redis, sentinel = connection_options(url.plain), connection_options(url.sentinel_plain)
    assert (redis["username"], redis["password"], redis["db"]) == ("user", "p@ss", 2)
    assert (sentinel["username"], sentinel["password"]) == ("s", "x/y")
    assert redis["ssl_ca_certs"] == sentinel["ssl_ca_certs"] == "c"
    assert redis["connection_class"] is sentinel["connection_class"]
    assert "SSL" in redis["connection_class"].__name__


def test_sentinels_without_a_login_are_not_shown_that_of_redis() -> None:
    sentinel = connection_options(parse_redis_url("redis+sentinel://user:secret@a/name").sentinel_plain)

    assert not {"username", "password"} & set(sentinel)


def test_a_cluster_is_named_by_some_of_its_servers() -> None:
    url = parse_redis_url("redis+cluster://user:secret@a,b:7000, a")

    assert (url.kind, url.seeds) == ("redis+cluster", (Address("a", 6379), Address("b", 7000)))
    assert connection_options(url.plain)["password"] == "secret"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("http://a", "must begin with"),
        ("redis+sentinel://a,b", "name the primary"),
        ("redis+sentinel://a/x/y", "name the primary"),
        ("redis+sentinel://a/x?db=one", "db must be a number"),
        ("redis+sentinel:///x", "at least one host"),
        ("redis+cluster://a/1", "one database"),
        ("redis+cluster://a?db=1", "one database"),
        ("redis+cluster://", "at least one host"),
        ("redis+cluster://a:0", "host:port"),
        ("redis+cluster://a:70000", "host:port"),
        ("redis+cluster://u:secret@a b", "host:port"),
        ("redis+cluster://[::1", "host:port"),
        ("redis://host/name", "number of the database"),
        ("redis://a,b", "redis\\+cluster://h1,h2"),
        ("redis://a:70000", "host:port"),
        ("unix://run/redis.sock", "three slashes"),
        ("unix://", "three slashes"),
        ("redis://a?db=1&db=2", "db stands twice"),
        ("redis://a?db=one", "db must be a number"),
        ("redis://a?no_such_option=1", "no option"),
        ("redis+cluster://a?sentinel_user=x", "no option"),
        ("redis://a?ssl_ca_certs=c", "needs TLS"),
        ("rediss://a?ssl_cert_reqs=maybe", "ssl_cert_reqs has a value"),
        ("redis+sentinel://a/x?socket_timeout=long", "socket_timeout has a value"),
    ],
)
def test_what_is_wrong_is_said_without_a_password(text: str, said: str) -> None:
    with pytest.raises(ValueError, match=said) as caught:
        parse_redis_url(text)

    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    "password", ["12/secret", "the/secret", "12?secret", "12?x=secret", "12#secret", "se[cret]", "/se@cret"]
)
@pytest.mark.parametrize("rest", ["host", "host:1", "host:1/0"])
@pytest.mark.parametrize("scheme", ["redis", "rediss", "redis+sentinel", "rediss+cluster"])
def test_a_password_that_is_not_encoded_is_refused_and_not_taken_for_something_else(
    scheme: str, rest: str, password: str
) -> None:
    with pytest.raises(ValueError, match=r"percent-encode|needs TLS") as caught:
        parse_redis_url(f"{scheme}://user:{password}@{rest}")

    assert "secret" not in str(caught.value)
    assert "cret" not in masked_url(f"{scheme}://user:{password}@{rest}")


@pytest.mark.parametrize("scheme", ["rediss", "rediss+sentinel", "rediss+cluster"])
@pytest.mark.parametrize("option", OPTIONS)
def test_an_option_behind_the_question_mark_is_one_of_the_client_library(scheme: str, option: str) -> None:
    values = {"ssl_cert_reqs": "optional", "ssl_min_version": "772", "protocol": "3", "db": "0"}
    url = parse_redis_url(
        f"{scheme}://host{'/name' if 'sentinel' in scheme else ''}?{option}={values.get(option, '1')}"
    )

    for plain in filter(None, (url.plain, url.sentinel_plain)):
        asyncio.run(_try_out(plain))


async def _try_out(plain: str) -> None:
    client = make_client(connection_options(plain), 1.0)
    client.connection_pool.make_connection()  # not opened
    await client.aclose()


def test_the_login_of_redis_in_the_query_is_not_shown_to_the_sentinels() -> None:
    url = parse_redis_url("redis+sentinel://a/name?username=user&password=secret")

    assert connection_options(url.plain)["password"] == "secret"
    assert not {"username", "password"} & set(connection_options(url.sentinel_plain))


def test_an_address_reads_as_it_is_written() -> None:
    assert [str(Address("a", 1)), str(Address("::1", 2)), str(Address("/a/b.sock", 0))] == [
        "a:1",
        "[::1]:2",
        "/a/b.sock",
    ]
