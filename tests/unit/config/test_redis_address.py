"""Addresses of a Redis: what is accepted, and refusals that name the part and the cure but repeat no password."""

from __future__ import annotations

import string

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from vllama_pool.config.redis_address import MAX_SOCKET_PATH, InvalidAddress, RedisAddress, at_socket, parse


def refusal(text: str) -> str:
    with pytest.raises(InvalidAddress) as refused:
        parse(text)
    return str(refused.value)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("redis://h", "redis://h:6379/0"),
        ("REDIS://H.example:7000/2/", "redis://H.example:7000/2"),
        ("redis://h?db=3", "redis://h:6379/3"),
        ("redis://h/3?db=3", "redis://h:6379/3"),
        ("rediss://10.0.0.1:1", "rediss://10.0.0.1:1/0"),
        ("redis://[::1]:7000/1", "redis://[::1]:7000/1"),
        ("redis://[fe80::1%25eth0]", "redis://[fe80::1%eth0]:6379/0"),
        ("unix:///run/r.sock", "unix:///run/r.sock"),
        ("unix:///run/a%20b.sock?db=2", "unix:///run/a b.sock"),
        ("/run/r.sock", "unix:///run/r.sock"),
        ("/run/r.sock?db=2", "unix:///run/r.sock"),
        ("redis://redis_1", "redis://redis_1:6379/0"),
    ],
)
def test_an_address_has_a_form_for_output(text: str, shown: str) -> None:
    assert str(parse(text)) == shown


@pytest.mark.parametrize(
    ("text", "credentials"),
    [
        ("redis://:p@ss@h", {"password": "p@ss"}),
        ("redis://:p:ss@h", {"password": "p:ss"}),
        ("redis://u:p%2Fss@h", {"username": "u", "password": "p/ss"}),
        ("redis://u:100%@h", {"username": "u", "password": "100%"}),
        ("redis://u@h", {"username": "u"}),
        ("redis://h?username=u&password=p%26ss", {"username": "u", "password": "p&ss"}),
        ("redis://:a@h?password=b", {"password": "a"}),
        ("unix://u:p@/run/r.sock", {"username": "u", "password": "p"}),
        ("redis://:pässword@h", {"password": "pässword"}),
    ],
)
def test_credentials_are_read_and_never_shown(text: str, credentials: dict[str, str]) -> None:
    address = parse(text)
    assert address.options == credentials
    for shown in (str(address), repr(address), f"{address}", address.endpoint):
        assert not any(value in shown for value in credentials.values() if len(value) > 1)


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("", "not a Redis address"),
        ("localhost:6379", "not a Redis address"),
        ("http://h", "not a Redis address"),
        ("redis+other://h", "not a Redis address"),
        ("redis+sentinel://h", "the name of the master is missing"),
        ("redis+sentinel://h//0", "the name of the master is missing"),
        ("redis+sentinel://h/a%20b", "the name of the master is not one"),
        ("redis+sentinel://h/m/x", "the database is not a number"),
        ("redis+sentinel://a,,b/m", "the host is missing"),
        ("redis+cluster://a:1,a:1", "names a host twice"),
        ("redis+cluster://" + ",".join(f"h{n}" for n in range(65)), "more than 64 hosts"),
        ("redis://h?sentinel_password=x", "sentinel_password is for Sentinels"),
        ("redis:/h", "not a Redis address"),
        ("redis://", "the host is missing"),
        ("redis://:6379/0", "the host is missing"),
        ("redis://:pass@/0", "the host is missing"),
        ("redis://h:99999", "the port is not a number between 1 and 65535"),
        ("redis://h:0", "the port"),
        ("redis://h:abc", "the port"),
        ("redis://h:", "the port"),
        ("redis://h:٣", "the port"),
        ("redis://h:6379/x", "the database is not a number"),
        ("redis://h/-1", "the database is not a number"),
        ("redis://h/1/2", "the database is not a number"),
        ("redis://h/1?db=2", "two databases"),
        ("redis://h?db=x", "the option db is not a number"),
        ("redis://h?db=", "the option db is not a number"),
        ("redis://h?db=1&db=1", "the option db twice"),
        ("redis://h?family=0", "unknown option family; remove it"),
        ("redis://h?passwort=x", "unknown option passwort; did you mean password?"),
        ("redis://h?password=a&b=c", "an unknown option; remove it, and write & in a value as %26"),
        ("redis://h?x", "not an option; write NAME=VALUE"),
        ("redis://h?decode_responses=true", "decode_responses is set by vLLama; remove it"),
        ("redis://h?protocol=3", "protocol is set by vLLama"),
        ("redis://h?encoding=latin-1", "encoding is set by vLLama"),
        ("redis://h?single_connection_client=1", "single_connection_client is set by vLLama"),
        ("redis://h?health_check_interval=1", "health_check_interval is set by vLLama"),
        ("redis://h?socket_timeout=x", "socket_timeout is set by vLLama"),
        ("redis://h?host=other", "host is set by vLLama"),
        ("redis://h?client_name=a%20b", "the option client_name has blanks"),
        ("redis://h?socket_keepalive=maybe", "the option socket_keepalive is not true or false"),
        ("redis://h?ssl_cert_reqs=none", "ssl_cert_reqs is for TLS; write rediss://"),
        ("rediss://h?ssl_cert_reqs=maybe", "ssl_cert_reqs is not none, optional or required"),
        ("redis://h?ssl=true", "unknown option ssl; write rediss://"),
        ("redis://h1:1,h2:2", "several hosts"),
        ("redis://::1", "the host is missing"),
        ("redis://fe80::1", "no brackets"),
        ("redis://[::1", "not an IPv6 address"),
        ("redis://[h]", "not an IPv6 address"),
        ("redis://[::1]x", "not an IPv6 address"),
        ("redis://-h", "the host is not a name"),
        ("redis://" + "h" * 64, "the host is not a name"),
        ("redis://h h", "has blanks"),
        ("redis://h\n", "has a control character"),
        ("redis://h\udcff", "is not UTF-8 text"),
        ("redis://:%ff@h", "escapes that are not UTF-8"),
        ("unix://run/r.sock", "does not begin with '/'"),
        ("unix://", "the path of the socket is missing"),
        ("/", "the path of the socket is missing"),
        ("/run/%00?password=" + "x" * 90 + "&x", "not an option"),
        ("unix:///run/%00", "has a NUL character"),
        ("/" + "a" * MAX_SOCKET_PATH, "longer than 107 bytes"),
    ],
)
def test_an_unusable_address_is_refused_with_the_part_and_the_cure(text: str, part: str) -> None:
    message = refusal(text)
    assert part in message
    assert ";" in message
    assert "\n" not in message


@pytest.mark.parametrize("character", ["/", "?", "#", "/0?", "?db=", "#/", "?password="])
@pytest.mark.parametrize("scheme", ["redis", "rediss", "unix"])
@pytest.mark.parametrize("user", ["", "user"])
def test_an_unescaped_character_in_a_password_is_refused_without_repeating_it(
    scheme: str, user: str, character: str
) -> None:
    for first in ("hunter", "1234"):
        message = refusal(f"{scheme}://{user}:{first}{character}tiger@host:6379/0")
        assert "write @ as %40" in message
        assert first not in message
        assert "tiger" not in message


@pytest.mark.parametrize("first", ["hunter", "6379"])
def test_no_part_of_a_password_without_a_host_behind_it_is_repeated(first: str) -> None:
    for text in (f"redis://:{first}", f"redis://:{first}@", f"redis://user:{first}@:tiger", f"{first}@tiger:6379"):
        message = refusal(text).replace("such as 6379", "").replace("HOST:6379", "").replace("HOST:26379", "")
        assert first not in message
        assert "tiger" not in message


@pytest.mark.parametrize(
    ("text", "shown", "nodes"),
    [
        ("redis+sentinel://a,b:1/m", "redis+sentinel://a:26379,b:1/m/0", (("a", 26379), ("b", 1))),
        ("rediss+sentinel://u:p@[::1]/m.x/3", "rediss+sentinel://[::1]:26379/m.x/3", (("::1", 26379),)),
        ("redis+cluster://a,b:7", "redis+cluster://a:6379,b:7/0", (("a", 6379), ("b", 7))),
    ],
)
def test_sentinels_and_clusters_have_several_hosts(text: str, shown: str, nodes: tuple[tuple[str, int], ...]) -> None:
    address = parse(text)
    assert str(address) == shown
    assert address.nodes == nodes
    assert (address.host, address.port) == nodes[0]


def test_the_password_of_sentinels_is_not_that_of_the_primary() -> None:
    address = parse("redis+sentinel://user:tiger@a/m?sentinel_password=hunter")
    assert address.options == {"username": "user", "password": "tiger", "sentinel_password": "hunter"}
    assert "tiger" not in repr(address)
    assert "hunter" not in repr(address)


def test_a_socket_path_is_taken_as_it_is() -> None:
    assert at_socket("/run/a?b%20@c#d") == RedisAddress(path="/run/a?b%20@c#d")
    assert at_socket("/run/x").is_local
    assert not parse("redis://h").is_local


@given(st.text(max_size=40) | st.text(alphabet=string.printable + "é\udcff", max_size=60).map("redis://".__add__))
@example("redis://[")
@example("redis://℀@h")
def test_any_text_is_an_address_or_refused_in_one_line(text: str) -> None:
    message = ""
    try:
        address = parse(text)
    except InvalidAddress as error:
        message = str(error)
    assert message.isprintable()
    assert ";" in message if message else address.path or (address.host and 1 <= address.port <= 65535)


@given(
    st.sampled_from(["redis", "rediss", "unix", "http"]),
    st.text(alphabet="@:/%#?&=[]\\ '\"éäZQX", min_size=1, max_size=12),
    st.sampled_from(["{s}://:{p}@h:1/2", "{s}://u:{p}@h", "{s}://h?password={p}", "{s}://h:1/2?db=1&password={p}"]),
)
def test_no_form_of_a_password_is_shown(scheme: str, password: str, form: str) -> None:
    secret = f"hunter{password}tiger"
    text = form.format(s=scheme, p=secret)
    try:
        address = parse(text)
    except InvalidAddress as error:
        shown = str(error)
    else:
        shown = f"{address} {address!r} {address.endpoint}"
    assert "hunter" not in shown
    assert "tiger" not in shown
