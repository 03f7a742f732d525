"""Ollama's CORS rules (R181): the origins that are allowed, and the response headers."""

from __future__ import annotations

import pytest

from vllama_pool.router.server.cors import Origins, same_host


@pytest.mark.rule(181)
@pytest.mark.parametrize(
    "origin",
    [
        "http://localhost",
        "https://localhost",
        "http://localhost:3000",
        "HTTP://LOCALHOST:3000",
        "http://127.0.0.1:8080",
        "https://0.0.0.0:1",
        "app://obsidian.md",
        "file://",
        "tauri://localhost",
        "vscode-webview://1abc",
        "vscode-file://vscode-app",
    ],
)
def test_local_and_desktop_app_origins_are_allowed(origin: str) -> None:
    assert Origins().allows(origin)


@pytest.mark.rule(165, 181)
@pytest.mark.parametrize(
    "origin",
    [
        "null",
        "https://evil.com",
        "http://localhost.evil.com",
        "http://localhost.evil.com:3000",
        "http://evil.com/http://localhost",
        "http://xlocalhost:3000",
        "http://[::1]:3000",
        "chrome-extension://abcdef",
        "moz-extension://abcdef",
        "localhost:3000",
        "",
    ],
)
def test_unlisted_origins_are_not_allowed(origin: str) -> None:
    assert not Origins().allows(origin)


@pytest.mark.rule(181, 186)
@pytest.mark.parametrize(
    ("pattern", "origin", "allowed"),
    [
        ("chrome-extension://*", "chrome-extension://abcdef", True),
        ("https://*.example.com", "https://a.example.com", True),
        ("https://*.Example.com", "https://A.example.com", True),
        ("https://*.example.com", "https://example.com", False),
        ("https://*.example.com", "https://a.example.com.evil.com", False),
        ("https://*.example.com", "https://a.example.com\n.evil.com", False),
        ("https://*.example.com", "https://a.exampleXcom", False),
        ("https://*.example.com", "https://a.example.com\n", False),
        ("https://*.example.com", "http://a.example.com", False),
        ("https://a-*.example.com:*", "https://a-1.example.com:8443", True),
        ("https://chat.example.com", "https://chat.example.com", True),
        ("https://chat.example.com", "https://chatXexample.com", False),
        ("*", "null", True),
        ("*", "https://anything.example", True),
    ],
)
def test_a_configured_origin_is_allowed_and_its_star_matches_any_part(pattern: str, origin: str, allowed: bool) -> None:
    assert Origins([pattern]).allows(origin) is allowed


def test_configured_origins_do_not_replace_the_local_ones() -> None:
    assert Origins(["https://chat.example.com"]).allows("http://localhost:3000")


def test_an_allowed_origin_is_echoed_and_the_response_varies_by_it() -> None:
    headers = Origins().headers("http://localhost:3000")
    assert headers == ((b"vary", b"Origin"), (b"access-control-allow-origin", b"http://localhost:3000"))


def test_with_any_origin_allowed_the_response_says_a_star_and_does_not_vary() -> None:
    assert Origins(["*"]).headers("https://a.example") == ((b"access-control-allow-origin", b"*"),)


def test_an_origin_outside_latin_1_is_echoed_with_replacements() -> None:
    assert Origins(["*.example"]).headers("http://\u4e2d.example")[1][1] == b"http://?.example"


@pytest.mark.rule(181)
def test_a_preflight_lists_methods_headers_and_a_lifetime() -> None:
    headers = Origins().preflight("http://localhost:3000")
    named = dict(headers)
    assert named[b"access-control-allow-methods"] == b"GET,POST,PUT,PATCH,DELETE,HEAD,OPTIONS"
    assert named[b"access-control-max-age"] == b"43200"
    names = named[b"access-control-allow-headers"].lower().split(b",")
    assert {b"authorization", b"content-type", b"openai-beta", b"x-stainless-os"} <= set(names)
    assert not {b"x-api-key", b"anthropic-version", b"anthropic-beta"} & set(names)
    varies = [value for name, value in headers if name == b"vary"]
    assert varies == [b"Origin", b"Access-Control-Request-Method, Access-Control-Request-Headers"]


SDK_HEADERS = (
    *("arch", "async", "custom-event-handler", "custom-poll-interval", "helper", "helper-method", "lang", "os"),
    *("package-version", "poll-helper", "raw-response", "read-timeout", "retry-count", "runtime", "runtime-version"),
    *("stream-helper", "timeout"),
)
"""Requests as the SDKs of OpenAI and Anthropic send them, in Python and JavaScript."""


@pytest.mark.rule(181)
@pytest.mark.parametrize("name", SDK_HEADERS)
def test_a_preflight_allows_the_headers_of_the_sdks(name: str) -> None:
    allowed = dict(Origins().preflight("http://localhost"))[b"access-control-allow-headers"].lower().split(b",")
    assert f"x-stainless-{name}".encode() in allowed


def test_a_preflight_with_any_origin_allowed_does_not_vary() -> None:
    headers = dict(Origins(["*"]).preflight("https://a.example"))
    assert headers[b"access-control-allow-origin"] == b"*"
    assert b"vary" not in headers


@pytest.mark.parametrize("origins", [Origins(), Origins(["*"])])
def test_credentials_are_never_allowed(origins: Origins) -> None:
    assert b"access-control-allow-credentials" not in dict(origins.preflight("http://localhost"))


@pytest.mark.parametrize(
    ("origin", "host", "same"),
    [
        ("http://a.example:8443", "a.example:8443", True),
        ("https://A.example", "a.Example", True),
        ("http://a.example:1", "a.example:2", False),
        ("http://a.example", "a.example:80", False),
        ("app://a.example", "a.example", False),
        ("http://", "", True),
    ],
)
def test_an_origin_is_the_addressed_host_if_name_and_port_are_equal(origin: str, host: str, same: bool) -> None:
    assert same_host(origin, host) is same
