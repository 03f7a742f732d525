"""The gate: access control, request ids and response headers around any app."""

from __future__ import annotations

import pytest

from tests.support.asgi import FakeClient, Message, Scope, body_part, http_scope
from vllama_pool.config.api_keys import ApiKey, by_digest, digest
from vllama_pool.router.server.access import Access
from vllama_pool.router.server.asgi import Receive, Send
from vllama_pool.router.server.gate import Gate, choose_request_id

KEYS = by_digest([ApiKey("anna", digest("annas-key"))])


class App:
    """Records the scopes it is called with and answers 200."""

    def __init__(self) -> None:
        self.scopes: list[Scope] = []
        self.messages: list[Message] = [
            {"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/plain")]},
            {"type": "http.response.body", "body": b"a", "more_body": True},
            {"type": "http.response.body", "body": b"b", "more_body": False},
        ]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.scopes.append(scope)
        for message in self.messages:
            await send(dict(message))


async def respond(scope: Scope, access: Access, *sent: Message) -> tuple[App, FakeClient]:
    app, client = App(), FakeClient(*sent)
    await Gate(app, access)(scope, client.receive, client.send)
    return app, client


async def test_an_admitted_request_reaches_the_app_with_its_id_and_key_name() -> None:
    access = Access(keys=KEYS, allow_anonymous=False)
    app, _ = await respond(
        http_scope("POST", "/api/chat", authorization="Bearer annas-key", x_request_id="mine"), access
    )
    (scope,) = app.scopes
    assert (scope["vllama.request_id"], scope["vllama.key_name"]) == ("mine", "anna")


async def test_an_anonymous_request_has_an_empty_key_name() -> None:
    app, _ = await respond(http_scope("GET", "/"), Access())
    assert app.scopes[0]["vllama.key_name"] == ""


async def test_a_refused_request_does_not_reach_the_app() -> None:
    app, client = await respond(http_scope("GET", "/api/tags", host="evil.com"), Access())
    assert app.scopes == []
    assert (client.status, client.body) == (403, b"")
    assert client.headers == {b"content-length": b"0"}


async def test_the_body_of_a_refused_request_is_read_to_its_end() -> None:
    scope = http_scope("POST", "/api/chat", content_length="2")
    _, client = await respond(scope, Access(allow_anonymous=False), body_part(b"a"), body_part(b"b", more=False))
    assert client.status == 401
    assert client.unread == []


@pytest.mark.rule(180)
async def test_responses_have_no_request_id_unless_the_client_sent_one() -> None:
    _, client = await respond(http_scope("GET", "/"), Access())
    assert client.headers == {b"content-type": b"text/plain"}


@pytest.mark.parametrize(("access", "status"), [(Access(), 200), (Access(allow_anonymous=False), 401)])
async def test_the_clients_request_id_is_echoed_on_every_response(access: Access, status: int) -> None:
    _, client = await respond(http_scope("GET", "/api/tags", x_request_id="mine"), access)
    assert (client.status, client.headers[b"x-request-id"]) == (status, b"mine")


async def test_an_unsafe_request_id_is_replaced_in_the_scope_and_in_the_response() -> None:
    app, client = await respond(http_scope("GET", "/", x_request_id='a"b'), Access())
    assert client.headers[b"x-request-id"] == app.scopes[0]["vllama.request_id"].encode()
    assert b'"' not in client.headers[b"x-request-id"]


@pytest.mark.rule(181)
async def test_cors_headers_are_added_after_the_apps_own_and_to_the_response_start_only() -> None:
    app, client = await respond(http_scope("GET", "/", origin="http://localhost:3000"), Access())
    start, *body = client.received
    assert start["headers"] == [
        (b"content-type", b"text/plain"),
        (b"vary", b"Origin"),
        (b"access-control-allow-origin", b"http://localhost:3000"),
    ]
    assert body == app.messages[1:]


async def test_lifespan_events_pass_through_unchecked() -> None:
    app, _ = await respond({"type": "lifespan"}, Access(allow_anonymous=False))
    assert app.scopes == [{"type": "lifespan"}]


@pytest.mark.parametrize("safe", ["a", "A-z_0.9", "x" * 64])
def test_a_safe_request_id_is_kept(safe: str) -> None:
    assert choose_request_id(safe) == safe


@pytest.mark.parametrize("unsafe", [None, "", "x" * 65, "a b", "a\n", "é"])
def test_a_missing_or_unsafe_request_id_is_replaced_by_a_new_one(unsafe: str | None) -> None:
    ids = {choose_request_id(unsafe) for _ in range(2)}
    assert len(ids) == 2
    assert all(choose_request_id(new) == new for new in ids)


@pytest.mark.parametrize("path", ["//api/chat", "/./api/chat", "/x/../api/chat", "/../api//chat"])
async def test_an_unclean_path_reaches_the_app_clean_and_by_the_same_rules(path: str) -> None:
    access = Access(keys=KEYS, allow_anonymous=False)
    app, client = await respond(http_scope("POST", path), access)
    assert (app.scopes, client.status) == ([], 401)
    app, _ = await respond(http_scope("POST", path, authorization="Bearer annas-key"), access)
    assert app.scopes[0]["path"] == "/api/chat"


@pytest.mark.parametrize("path", ["//metrics", "/x/../admin/workers", "/health/../metrics", "/./admin//workers"])
async def test_no_spelling_of_an_admin_path_is_open_to_other_machines(path: str) -> None:
    scope = {**http_scope("GET", path), "client": ("192.0.2.7", 5), "server": ("192.0.2.1", 11434)}
    app, client = await respond(scope, Access(check_host=False))
    assert (app.scopes, client.status) == ([], 403)


async def test_options_about_the_server_as_a_whole_is_answered() -> None:
    app, client = await respond(http_scope("OPTIONS", "*"), Access())
    assert (app.scopes, client.status, client.body) == ([], 200, b"")
