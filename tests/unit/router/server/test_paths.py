"""Served paths and methods, and Ollama's responses to all others."""

import pytest

from vllama_pool.router.server.paths import NotAllowed, NotFound, Paths, Redirect, clean_path

PATHS = Paths(
    [
        ("/", ("GET", "HEAD")),
        ("/api/tags", ("GET",)),
        ("/api/tags", ("HEAD",)),
        ("/api/chat", ("POST",)),
        ("/api/blobs/{digest:str}", ("HEAD", "POST")),
        ("/v1/models", ("GET",)),
        ("/v1/models/{name:path}", ("GET",)),
    ]
)


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/"),
        ("HEAD", "/api/tags"),
        ("GET", "/api/tags"),
        ("POST", "/api/chat"),
        ("HEAD", "/api/blobs/sha256:1"),
        ("GET", "/v1/models/m"),
        ("GET", "/v1/models/org/m:8b"),
    ],
)
def test_served_paths_and_methods_are_accepted(method: str, path: str) -> None:
    assert PATHS.check(method, path) is None


@pytest.mark.rule(36)
@pytest.mark.parametrize(
    "path",
    [
        "",
        "/api",
        "/api/",
        "/API/chat",
        "//api/chat",
        "/api//chat",
        "/api/chat//",
        "/api/blobs/",
        "/api/blobs/a/b",
    ],
)
@pytest.mark.parametrize("method", ["GET", "POST", "BREW"])
def test_an_unknown_path_is_not_found(method: str, path: str) -> None:
    assert PATHS.check(method, path) == NotFound()


@pytest.mark.rule(36)
@pytest.mark.parametrize(
    ("method", "path", "allow"),
    [
        ("GET", "/api/chat", "POST"),
        ("HEAD", "/v1/models", "GET"),
        ("POST", "/", "HEAD, GET"),
        ("GET", "/api/blobs/x", "HEAD, POST"),
        ("DELETE", "/v1/models/org/m", "GET"),
        ("BREW", "/api/tags", "HEAD, GET"),
    ],
)
def test_a_wrong_method_gets_the_allowed_methods(method: str, path: str, allow: str) -> None:
    assert PATHS.check(method, path) == NotAllowed(allow)


@pytest.mark.rule(36)
@pytest.mark.parametrize(
    ("method", "path", "rejection"),
    [
        ("GET", "/api/tags/", Redirect(301, "/api/tags")),
        ("HEAD", "/api/tags/", Redirect(307, "/api/tags")),
        ("POST", "/api/chat/", Redirect(307, "/api/chat")),
        ("GET", "/v1/models/", Redirect(301, "/v1/models")),
        ("GET", "//", Redirect(301, "/")),
        ("GET", "/v1/models/a b\r\nc/", Redirect(301, "/v1/models/a%20b%0D%0Ac")),
        ("GET", "/api/chat/", NotFound()),
        ("GET", "//evil.example/", NotFound()),
    ],
)
def test_a_trailing_slash_is_redirected_if_the_method_is_served(
    method: str, path: str, rejection: Redirect | NotFound
) -> None:
    assert PATHS.check(method, path) == rejection


@pytest.mark.rule(36)
def test_a_redirect_keeps_the_query_string() -> None:
    assert PATHS.check("GET", "/api/tags/", "a=%20b&c") == Redirect(301, "/api/tags?a=%20b&c")


@pytest.mark.parametrize(
    ("path", "clean"),
    [
        ("/", "/"),
        ("//", "/"),
        ("///", "/"),
        ("/api/tags", "/api/tags"),
        ("//api/tags", "/api/tags"),
        ("/api//tags", "/api/tags"),
        ("/api/tags//", "/api/tags/"),
        ("/./api/tags", "/api/tags"),
        ("/api/./tags/.", "/api/tags"),
        ("/x/../api/tags", "/api/tags"),
        ("/../../api/tags", "/api/tags"),
        ("/api/tags/x/..", "/api/tags"),
        ("/api/tags/../", "/api/"),
        ("/..", "/"),
        ("/.hidden/...", "/.hidden/..."),
        ("/api\\..\\tags", "/api\\..\\tags"),
        ("", ""),
        ("*", "*"),
    ],
)
def test_unclean_paths_are_resolved(path: str, clean: str) -> None:
    assert clean_path(path) == clean
