"""The header bindings and URLs of contract section 5."""

from __future__ import annotations

import re
from urllib.parse import urlsplit

import pytest
import requests
from hypothesis import given
from hypothesis import strategies as st

from asynch.domain.bindings import check_base_url, join, mask, parse

NAMES = st.from_regex(r"[A-Za-z][A-Za-z0-9_-]{0,12}", fullmatch=True).map(lambda name: f"K-{name}")
VALUES = st.text(st.characters(min_codepoint=0x20, max_codepoint=0x7E, exclude_characters='"'), min_size=1)
TRICKY = st.text(st.sampled_from('Aa1é-_:=,"; \t\r\n\0\x85•'), max_size=40)


@pytest.mark.parametrize(
    ("text", "headers"),
    [
        ("", {}),
        ("  ", {}),
        ("Authorization:Bearer abc", {"Authorization": "Bearer abc"}),
        ("X-Key=abc", {"X-Key": "abc"}),
        ("X-Key:a=b:c", {"X-Key": "a=b:c"}),
        ("X-Key=a:b", {"X-Key": "a:b"}),
        ('A:1,B:"2,3:4"', {"A": "1", "B": "2,3:4"}),
        (' A : 1 , B = " 2 " ', {"A": "1", "B": "2"}),
        ('If-None-Match:W/"a,b"', {"If-None-Match": 'W/"a,b"'}),
        ("A:1,a:2,B:3", {"a": "2", "B": "3"}),
        ("X-Name:é", {"X-Name": "é"}),
    ],
)
def test_bindings_become_headers(text: str, headers: dict[str, str]) -> None:
    assert parse(text) == headers


@pytest.mark.parametrize(
    "text",
    [
        "secretvalue",
        "A:1,secretvalue",
        "A:1,",
        "A:",
        'A:""',
        'A:"  "',
        ":secretvalue",
        "A B:secretvalue",
        '"A":secretvalue',
        "Ä:secretvalue",
        'A:"secretvalue',
        'A:"secretvalue"x',
        "A:secretvalue\r\nB:1",
        "A:secretvalue\n",
        "A:secret\0value",
        "A:secret\tvalue",
        "A:secret\x85value",
        "A:secretvalue€",
        f"A:{'1' * 1023}",
    ],
)
def test_what_is_no_binding_is_refused_without_showing_it(text: str) -> None:
    with pytest.raises(ValueError, match=r".") as refusal:
        parse(text)
    assert "secret" not in str(refusal.value)


@pytest.mark.parametrize(
    "name",
    [
        *(
            "Host",
            "content-length",
            "Transfer-Encoding",
            "CONNECTION",
            "TE",
            "Trailer",
            "Upgrade",
            "Keep-Alive",
        ),
        *(
            "Proxy-Authorization",
            "proxy-connection",
            "Expect",
            "X-Asynch-Task-Id",
            "x-asynch-new",
            "Idempotency-Key",
        ),
    ],
)
def test_headers_of_the_connection_and_of_asynch_cannot_be_bound(name: str) -> None:
    with pytest.raises(ValueError, match="cannot be bound"):
        parse(f"{name}:1")


def test_bindings_may_be_exactly_as_long_as_the_limit() -> None:
    assert len(parse(f"A:{'1' * 1022}")["A"]) == 1022


@given(st.lists(st.tuples(NAMES, VALUES.filter(str.strip)), max_size=8, unique_by=lambda pair: pair[0].lower()))
def test_quoted_values_come_back_as_they_were(pairs: list[tuple[str, str]]) -> None:
    text = ",".join(f'{name}:"{value}"' for name, value in pairs)
    if len(text) <= 1024:
        assert parse(text) == {name: value.strip() for name, value in pairs}


@given(TRICKY | st.text(max_size=60))
def test_any_text_gives_sendable_headers_or_a_value_error(text: str) -> None:
    try:
        headers = parse(text)
    except ValueError:
        return
    prepared = requests.Request("GET", "http://h/", headers=headers).prepare()
    for name, value in headers.items():
        assert prepared.headers[name] == value
        assert not re.search(r"[\x00-\x1f\x7f-\x9f]", f"{name}{value}".encode("latin-1").decode("latin-1"))


@pytest.mark.parametrize(
    ("text", "masked"),
    [
        ("", ""),
        ("A:short", "A:••••"),
        ("A:12345678901", "A:••••"),
        ("A:123456789012", "A:••••9012"),
        ('Authorization:"Bearer sk,1234",B=2', "Authorization:••••1234,B:••••"),
        ("no separator", "••••"),
    ],
)
def test_a_mask_keeps_names_and_hides_values(text: str, masked: str) -> None:
    assert mask(text) == masked


@given(st.lists(st.tuples(st.from_regex("[A-Z]{1,5}", fullmatch=True), st.from_regex("[0-9]{1,40}", fullmatch=True))))
def test_a_mask_never_shows_more_than_four_characters_of_a_value(pairs: list[tuple[str, str]]) -> None:
    assert not re.search(r"[0-9]{5}", mask(",".join(f"{name}:{value}" for name, value in pairs)))


@given(st.lists(st.tuples(NAMES, VALUES.filter(str.strip)), min_size=1, max_size=4))
def test_a_mask_can_never_be_taken_for_bindings(pairs: list[tuple[str, str]]) -> None:
    masked = mask(",".join(f'{name}:"{value}"' for name, value in pairs))
    with pytest.raises(ValueError, match="character"):
        parse(masked)


@pytest.mark.parametrize(
    "url",
    [
        "http://h",
        "https://model.example.com/v1?key=1",
        "HTTP://h:65535/",
        "http://127.0.0.1:8080",
        "http://[::1]:80/a",
        "http://model_1.lan.",
        "http://xn--mnchen-3ya.de/ü",
    ],
)
def test_a_usable_base_url_passes(url: str) -> None:
    check_base_url(url)


@pytest.mark.parametrize(
    "url",
    [
        *(
            "",
            "h",
            "/a",
            "//h/a",
            "ftp://h",
            "file:///etc/passwd",
            "javascript:alert(1)",
            "http:h",
            "http://",
        ),
        *(
            "http:///a",
            "http://?a",
            "http://:80",
            "http://user@h",
            "http://u:p@h",
            "http://@h",
            "http://h\\@x",
        ),
        *(
            "http://h#",
            "http://h/#a",
            "http://h/a b",
            "http://h/\r\nX:1",
            " http://h",
            "http://h\n",
            "http://h\t/",
        ),
        *(
            "http://h/\0",
            "http://h/\u200b",
            "http://h:0",
            "http://h:65536",
            "http://h:x",
            "http://h:-1",
            "http://[::1",
        ),
        *(
            "http://[::1%25eth0]/",
            "http://[v1.x]/",
            "http://a..b",
            "http://.",
            "http://h%41",
            "http://<h>",
            "http://münchen.de",
        ),
        *(f"http://{'a' * 64}.com", f"http://h/{'a' * 256}"),
    ],
)
def test_an_unusable_base_url_is_refused(url: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        check_base_url(url)


@given(st.text(st.sampled_from("ab1.:/@?[]%-_\\#é \u3002①"), max_size=24).map("http://{}".format))
def test_every_accepted_base_url_can_be_called_at_the_host_it_names(url: str) -> None:
    try:
        check_base_url(url)
    except ValueError:
        return
    prepared = requests.Request("POST", url).prepare()
    assert urlsplit(prepared.url or "").hostname == urlsplit(url).hostname


@pytest.mark.parametrize(
    ("base", "route", "joined"),
    [
        ("http://h", "", "http://h"),
        ("http://h/a/", "", "http://h/a/"),
        ("http://h", "b", "http://h/b"),
        ("http://h/", "/b", "http://h/b"),
        ("http://h/a", "b/c", "http://h/a/b/c"),
        ("http://h/a/", "/b/", "http://h/a/b/"),
        ("http://h/a?x=1", "b", "http://h/a/b?x=1"),
        ("http://h/a", "b?y=2", "http://h/a/b?y=2"),
        ("http://h/a?x=1&x=2", "b?y=http://z//..", "http://h/a/b?x=1&x=2&y=http://z//.."),
        ("http://h", "v1/models/tts:predict", "http://h/v1/models/tts:predict"),
        ("http://h", "a..b/...", "http://h/a..b/..."),
        ("http://[::1]:80", "b", "http://[::1]:80/b"),
    ],
)
def test_a_route_is_joined_with_exactly_one_slash(base: str, route: str, joined: str) -> None:
    assert join(base, route) == joined


@pytest.mark.parametrize(
    "route",
    [
        *(
            "..",
            "../a",
            "a/..",
            "a/../b",
            "%2e%2e/a",
            "a/.%2E",
            "a%2f..%2fb",
            "a%5c..",
            "//evil",
            "a//b",
            "/a//",
        ),
        *("http://evil/", "https:/evil", "a#b", "a\\b", "a b", "a\r\nb", "a\0"),
    ],
)
def test_a_route_that_could_leave_its_base_is_refused(route: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        join("http://h/base", route)


@given(st.text(st.sampled_from("ab./:%2eEfF5cC\\?#@&="), min_size=1, max_size=16))
def test_every_accepted_route_is_called_below_its_base(route: str) -> None:
    try:
        url = join("http://h:81/base", route)
    except ValueError:
        return
    called = urlsplit(requests.Request("POST", url).prepare().url or "")
    assert called.netloc == "h:81"
    assert called.path.startswith("/base/")
