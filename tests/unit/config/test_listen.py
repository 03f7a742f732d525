import pytest
from hypothesis import given
from hypothesis import strategies as st

from vllama_pool.config.listen import Listen, is_loopback, parse_listen


@pytest.mark.parametrize(
    ("text", "host", "port"),
    [
        ("", "127.0.0.1", 11434),
        ("1.2.3.4", "1.2.3.4", 11434),
        (":1234", "", 1234),
        ("1.2.3.4:1234", "1.2.3.4", 1234),
        ("example.com", "example.com", 11434),
        ("example.com:1234", "example.com", 1234),
        (":0", "", 0),
        (":66000", "", 11434),
        (":-1", "", 11434),
        (":+80", "", 80),
        ("x:", "x", 11434),
        ("x:port", "x", 11434),
        ("x:" + "9" * 5000, "x", 11434),
        ("[::1]", "::1", 11434),
        ("[::]", "::", 11434),
        ("::1", "::1", 11434),
        ("0:0::1", "::1", 11434),
        ("::ffff:10.0.0.1", "10.0.0.1", 11434),
        ("[::1]:1337", "::1", 1337),
        (" 1.2.3.4 ", "1.2.3.4", 11434),
        ("http://1.2.3.4", "1.2.3.4", 80),
        ("http://1.2.3.4:4321", "1.2.3.4", 4321),
        ("http://:bad", "", 80),
        ("https://1.2.3.4", "1.2.3.4", 443),
        ("https://1.2.3.4:4321", "1.2.3.4", 4321),
        ("ftp://1.2.3.4", "1.2.3.4", 11434),
    ],
)
def test_ollama_host_is_parsed_as_ollama_parses_it(text: str, host: str, port: int) -> None:
    listen = parse_listen(text)
    assert (listen.host, listen.port) == (host, port)


def test_scheme_and_path_of_ollama_host_are_parsed() -> None:
    assert parse_listen("https://example.com/ollama/x") == Listen("example.com", 443, "https", "ollama/x")


@given(st.text(max_size=40) | st.text(alphabet="[]:/.1af ", max_size=30))
def test_parsing_ollama_host_never_fails(text: str) -> None:
    assert 0 <= parse_listen(text).port <= 65535


@pytest.mark.parametrize(
    "host", ["127.0.0.1", "127.8.9.1", "::1", "localhost", "LOCALHOST", "a.localhost", "::ffff:127.0.0.1"]
)
def test_loopback_addresses_are_recognised(host: str) -> None:
    assert is_loopback(host)


@pytest.mark.parametrize(
    "host", ["", "0.0.0.0", "::", "10.0.0.1", "example.com", "localhost.example.com", "::ffff:10.0.0.1"]
)
def test_private_and_public_addresses_are_not_loopback(host: str) -> None:
    assert not is_loopback(host)
