"""The gate for input: what is let in, and under which code everything else is refused."""

from __future__ import annotations

import pytest

from presence import codec
from presence.errors import BadJson, BadName, BadRequest, Forbidden, TooLarge

BAD_JSON = {
    "empty": "",
    "trailing garbage": '{"a":1} x',
    "two values": "{}{}",
    "byte order mark": "\ufeff{}",
    "nan": '{"a":NaN}',
    "infinity": '{"a":-Infinity}',
    "float beyond every double": '{"a":1e999}',
    "integer beyond every double": '{"a":1' + "0" * 309 + "}",
    "integer of 5,000 digits": "[" + "9" * 5000 + "]",
    "lone surrogate escape": r'{"a":"\ud800"}',
    "lone low surrogate escape": r'{"a":"x\uDfFFy"}',
    "lone surrogate in a key": r'{"\ud8ff":1}',
    "surrogates the wrong way round": r'["\udc00\ud800"]',
    "raw lone surrogate": '["\ud800"]',
    "duplicate key": '{"a":1,"a":2}',
    "duplicate key by escape": r'{"a":1,"\u0061":2}',
    "duplicate key inside": '[{"b":{"a":1,"a":1}}]',
    "33 levels": "[" * 33 + "]" * 33,
    "33 levels of objects": '{"a":' * 32 + "[]" + "}" * 32,
    "100,000 open brackets": "[" * 100_000,
    "single quotes": "{'a':1}",
    "raw control character": '["\n"]',
    "comment": "{} // x",
}


@pytest.mark.parametrize("text", BAD_JSON.values(), ids=BAD_JSON.keys())
def test_text_that_is_not_strict_json_is_bad_json(text: str) -> None:
    with pytest.raises(BadJson):
        codec.decode_value(text, max_bytes=1 << 20)


@pytest.mark.parametrize(
    "data", [b'"\xff"', b'"\xed\xa0\x80"', b'"\xc0\x80"', '{"a":1}'.encode("utf-16"), b"\xef\xbb\xbf{}"]
)
def test_bytes_that_are_not_plain_utf8_are_bad_json(data: bytes) -> None:
    with pytest.raises(BadJson):
        codec.decode_value(data, max_bytes=1000)


@pytest.mark.parametrize("text", ["[]", "1", '"text"', "null", "true"])
def test_json_that_is_no_object_is_a_bad_request(text: str) -> None:
    with pytest.raises(BadRequest):
        codec.decode_object(text, max_bytes=1000)


def test_good_json_comes_through_unchanged() -> None:
    text = ' {"type":"join","n":[1,-2.5,1e3],"s":"\\ud83d\\ude00 é \\u0000","__proto__":{},"x":null}\n'
    expected: dict[str, object] = {
        "type": "join",
        "n": [1, -2.5, 1000.0],
        "s": "😀 é \0",
        "__proto__": {},
        "x": None,
    }

    assert codec.decode_object(text, max_bytes=1000) == expected
    assert codec.decode_object(text.encode(), max_bytes=1000) == expected


def test_32_levels_are_allowed_and_brackets_in_strings_are_no_levels() -> None:
    assert codec.decode_value("[" * 32 + "]" * 32, max_bytes=1000)
    assert codec.decode_value('["' + "[{" * 100 + '","\\"[[["]', max_bytes=1000)
    assert len(codec.decode_value("[" + "[]," * 99 + "[]]", max_bytes=1000)) == 100  # type: ignore[arg-type]


def test_a_long_fraction_and_the_largest_double_are_finite() -> None:
    largest = 17976931348623157 * 10**292

    assert codec.decode_value("0." + "3" * 1000, max_bytes=2000) == pytest.approx(1 / 3)
    assert codec.decode_value(str(largest), max_bytes=1000) == largest


def test_the_limit_counts_bytes_not_characters() -> None:
    assert codec.decode_value('"' + "é" * 10 + '"', max_bytes=22) == "é" * 10
    for data in ('"' + "é" * 10 + '"', ('"' + "é" * 10 + '"').encode()):
        with pytest.raises(TooLarge):
            codec.decode_value(data, max_bytes=21)


def test_hostile_megabytes_are_refused_without_searching_them_twice() -> None:
    for text in ("{" * 40 + '"' + '\\"' * 500_000, '"' * 33 + "[" * 33 + '"\\' * 400_000):
        with pytest.raises(BadJson):
            codec.decode_value(text, max_bytes=2 << 20)


def test_messages_about_bad_json_do_not_repeat_it() -> None:
    with pytest.raises(BadJson) as caught:
        codec.decode_value('{"a": secret-text}', max_bytes=1000)

    assert "secret" not in caught.value.message


def test_compact_text_is_short_literal_and_on_one_line() -> None:
    assert codec.compact({"a": [1, "é"], "b": "\n\r\x00\x7f"}) == '{"a":[1,"é"],"b":"\\n\\r\\u0000\x7f"}'
    with pytest.raises(ValueError):
        codec.compact(float("nan"))


@pytest.mark.parametrize(
    "name", ["a", "*", "{x}", "/", "|", "__proto__", "a b", "x" * 200, "é" * 100, "👩", "日本", "@own", "\\"]
)
def test_ordinary_names_are_taken_literally(name: str) -> None:
    assert codec.name(name, "channel") == name


BAD_NAMES = {
    "number": 7,
    "none": None,
    "empty": "",
    "201 bytes": "x" * 201,
    "202 bytes of two each": "é" * 101,
    "leading space": " a",
    "trailing tab": "a\t",
    "trailing wide space": "a\u3000",
    "no-break space at the end": "é\xa0",
    "nul": "a\0b",
    "delete": "a\x7fb",
    "unit separator": "a\x1fb",
    "next line": "a\x85b",
    "zero width joiner": "a\u200db",
    "byte order mark": "\ufeffa",
    "line separator": "a\u2028b",
    "paragraph separator": "a\u2029b",
    "surrogate": "a\ud800b",
    "private use": "a\ue000b",
    "not normal form C": "e\u0301",
}


@pytest.mark.parametrize("name", BAD_NAMES.values(), ids=BAD_NAMES.keys())
def test_any_other_name_is_a_bad_name(name: object) -> None:
    with pytest.raises(BadName):
        codec.name(name, "channel")


def test_channels_of_the_server_are_forbidden_and_user_ids_may_look_like_them() -> None:
    with pytest.raises(Forbidden):
        codec.channel_name("@internal")
    assert codec.channel_name("room@home") == "room@home"
    assert codec.name("@ann", "user") == "@ann"


@pytest.mark.parametrize("text", ["short", "x" * 65, "eight ch", "sessioné1", "session-1\n", 12345678, None])
def test_a_session_of_another_form_is_a_bad_request(text: object) -> None:
    with pytest.raises(BadRequest):
        codec.session_id(text)


def test_new_session_ids_are_valid_and_differ() -> None:
    first, second = codec.new_session_id(), codec.new_session_id()

    assert codec.session_id(first) == first
    assert len(first) == 22
    assert first != second


def test_info_and_state_are_objects_of_a_kilobyte_at_most() -> None:
    assert codec.small_object({"a": [], "é": 1.5}, "info") == '{"a":[],"é":1.5}'
    assert len(codec.small_object({"x": "é" * 508}, "info").encode()) == 1024
    with pytest.raises(TooLarge):
        codec.small_object({"x": "é" * 508 + "a"}, "info")
    with pytest.raises(BadRequest):
        codec.small_object([], "info")


@pytest.mark.parametrize("value", [True, 5.0, "5", None, 0, 11])
def test_a_number_that_is_not_whole_or_out_of_bounds_is_a_bad_request(value: object) -> None:
    with pytest.raises(BadRequest):
        codec.integer(value, "limit", 1, 10)


def test_numbers_at_the_bounds_are_good() -> None:
    assert [codec.integer(n, "limit", 1, 10) for n in (1, 10)] == [1, 10]
