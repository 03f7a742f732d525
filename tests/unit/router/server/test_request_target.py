"""Request targets: paths, absolute URLs, "*", authorities, and what is none of these."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vllama_pool.router.server.request_target import InvalidTarget, Target, parse_target


@pytest.mark.parametrize(
    ("raw", "origin"),
    [
        (b"/", b"/"),
        (b"//api/tags", b"//api/tags"),
        (b"/a?b=/../c&%zz", b"/a?b=/../c&%zz"),
        (b"/a#b", b"/a%23b"),
        (b"/\xc3\xa4?\xff", b"/%C3%A4?%FF"),
        (b'/a"<>`{}', b"/a%22%3C%3E`{}"),
        (b"/a%2fb", b"/a%2fb"),
        (b"/a?b?c", b"/a?b%3Fc"),
    ],
)
def test_a_path_is_kept_with_other_characters_encoded(raw: bytes, origin: bytes) -> None:
    assert parse_target(b"GET", raw) == Target(origin)


@pytest.mark.parametrize(
    ("raw", "target"),
    [
        (b"http://localhost", Target(b"/", b"localhost")),
        (b"http://localhost?a", Target(b"/?a", b"localhost")),
        (b"HTTP://u:p@a.b:9/c", Target(b"/c", b"a.b:9")),
        (b"https://[::1]:80/c", Target(b"/c", b"[::1]:80")),
        (b"ftp://a/b", Target(b"/b", b"a")),
        (b"http:///a", Target(b"/a")),
        (b"http://a//b", Target(b"//b", b"a")),
    ],
)
def test_an_absolute_url_gives_path_and_host(raw: bytes, target: Target) -> None:
    assert parse_target(b"GET", raw) == target


def test_options_may_ask_about_the_server_as_a_whole() -> None:
    assert parse_target(b"OPTIONS", b"*") == Target(b"/", path="*")


def test_connect_names_an_authority_or_a_path() -> None:
    assert parse_target(b"CONNECT", b"a.b:443") == Target(b"/", path="")
    assert parse_target(b"CONNECT", b"/api/tags") == Target(b"/api/tags")


@pytest.mark.parametrize(
    "raw",
    [
        *(b"*", b"api/tags", b"?x", b"#", b"%2Fapi", b"a.b:443", b"mailto:x", b"/%", b"/%zz", b"/%4", b"http://a/%zz"),
        *(
            b"/\x00",
            b"/\x7f",
            b"/a\tb",
            b"http://[::1/x",
            b"http://a#b/x",
            b"http://a@b@c/x",
            b"http://a%zz/",
            b"://a/",
        ),
        b"http://\xe4/",
    ],
)
def test_other_targets_are_refused(raw: bytes) -> None:
    with pytest.raises(InvalidTarget):
        parse_target(b"GET", raw)


@given(st.binary())
def test_every_target_becomes_printable_ascii_or_is_refused(raw: bytes) -> None:
    try:
        target = parse_target(b"GET", raw)
    except InvalidTarget:
        return
    assert target.origin.startswith(b"/")
    assert all(0x20 < byte < 0x7F for byte in target.origin + target.host)
