"""Responses that do not depend on the pool."""

import json

import pytest

from vllama_pool.router.errors import ClientError
from vllama_pool.router.protocol.ollama.fixed_routes import FIXED_ROUTES, FixedRequest, FixedRoute
from vllama_pool.router.protocol.operation import DirectResponse

DIGEST = "sha256:" + "a" * 64
BY_PATH = {route.path: route for route in FIXED_ROUTES}


def respond(method: str, path: str, body: bytes = b"") -> DirectResponse:
    route = BY_PATH.get(path) or next(each for each in FIXED_ROUTES if "{" in each.path and _parent(each) == _up(path))
    assert method in route.methods
    return route.answer(FixedRequest(method, path, body))


def _parent(route: FixedRoute) -> str:
    return _up(route.path)


def _up(path: str) -> str:
    return path.rpartition("/")[0]


@pytest.mark.rule(2)
def test_the_root_returns_ollamas_banner() -> None:
    reply = respond("GET", "/")
    assert (reply.status, reply.body, reply.content_type) == (200, b"Ollama is running", "text/plain; charset=utf-8")


@pytest.mark.rule(5)
def test_status_says_that_the_cloud_is_disabled() -> None:
    assert respond("GET", "/api/status").body == b'{"cloud":{"disabled":true,"source":"config"}}'


@pytest.mark.rule(7, 37)
@pytest.mark.parametrize("body", [b'{"name":"m","model":""}', b'{"MODEL":"m","stream":false,"x":1}'])
def test_push_is_a_501_without_the_words_that_the_cli_searches_for(body: bytes) -> None:
    reply = respond("POST", "/api/push", body)
    assert reply.status == 501
    text = json.loads(reply.body)["error"]
    assert "not found" not in text
    assert "unauthorized" not in text


@pytest.mark.rule(146, 150, 151, 152)
@pytest.mark.parametrize(
    ("body", "text"),
    [
        (b"", "missing request body"),
        (b"{}", "model is required"),
        (b'{"model":" ","name":null}', "model is required"),
        (b"nope", "invalid character 'n' looking for beginning of value"),
        (b'{"model":1}', "json: cannot unmarshal number into Go struct field PushRequest.model of type string"),
    ],
)
def test_an_invalid_push_is_refused_in_ollamas_words(body: bytes, text: str) -> None:
    with pytest.raises(ClientError) as raised:
        respond("POST", "/api/push", body)
    assert (raised.value.status, raised.value.text) == (400, text)


@pytest.mark.rule(12, 13, 14)
@pytest.mark.parametrize(
    ("method", "path", "text"),
    [
        ("POST", "/api/me", "unauthorized"),
        ("POST", "/api/signout", "you are not currently signed in"),
        ("DELETE", "/api/user/keys/c3NoLWVk", "you are not currently signed in"),
    ],
    ids=["r012", "r013", "r014"],
)
def test_account_endpoints_are_a_401(method: str, path: str, text: str) -> None:
    reply = respond(method, path)
    assert (reply.status, json.loads(reply.body)) == (401, {"error": text})


@pytest.mark.rule(16, 17)
@pytest.mark.parametrize(
    ("method", "digest", "status", "text"),
    [
        ("HEAD", DIGEST, 404, f'blob "{DIGEST}" not found'),
        ("HEAD", DIGEST.replace(":", "-"), 404, f'blob "{DIGEST.replace(":", "-")}" not found'),
        ("POST", DIGEST, 501, "'files' is not supported"),
    ],
)
def test_a_blob_does_not_exist_and_cannot_be_uploaded(method: str, digest: str, status: int, text: str) -> None:
    reply = respond(method, f"/api/blobs/{digest}")
    assert reply.status == status
    assert json.loads(reply.body)["error"].startswith(text)


@pytest.mark.rule(16, 17)
@pytest.mark.parametrize("digest", ["x", "sha256:", DIGEST + "a", DIGEST[:-1], "md5:" + "a" * 64, "sha256:" + "g" * 64])
@pytest.mark.parametrize("method", ["HEAD", "POST"])
def test_an_invalid_digest_is_refused(method: str, digest: str) -> None:
    with pytest.raises(ClientError, match="invalid digest format") as raised:
        respond(method, f"/api/blobs/{digest}")
    assert raised.value.status == 400


@pytest.mark.rule(37)
def test_texts_avoid_the_words_that_the_cli_searches_for() -> None:
    for route in FIXED_ROUTES:
        path = route.path.replace("{digest:str}", DIGEST)
        reply = route.answer(FixedRequest("POST", path, b'{"model":"m"}'))
        if reply.status == 501:
            text = str(json.loads(reply.body)["error"])
            assert not any(word in text for word in ("not found", "unauthorized")), path


@pytest.mark.rule(19, 20)
@pytest.mark.parametrize("what", ["search", "fetch"])
def test_web_search_and_fetch_are_disabled(what: str) -> None:
    reply = respond("POST", f"/api/experimental/web_{what}")
    assert reply.status == 403
    assert json.loads(reply.body) == {"error": f"ollama cloud is disabled: web {what} is unavailable"}


@pytest.mark.parametrize("method", ["GET", "DELETE"])
def test_no_response_is_stored(method: str) -> None:
    reply = respond(method, "/v1/responses/resp_1")
    assert reply.status == 404
    error = json.loads(reply.body)["error"]
    assert (error["type"], error["message"].startswith("no response is stored")) == ("not_found_error", True)
