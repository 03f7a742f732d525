"""The gate: access control, request ids and response headers around any app."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
from typing import Any

import pytest

from tests.support.asgi import FakeClient, Message, Scope, body_part, http_scope
from tests.support.keys import grants, key
from vllama_pool.config.api_keys import ApiKey, digest
from vllama_pool.router.admission.grant import GRANT, Grant
from vllama_pool.router.server.access import Access
from vllama_pool.router.server.asgi import App as App_
from vllama_pool.router.server.asgi import Receive, Send, send_response
from vllama_pool.router.server.gate import Gate, Observers
from vllama_pool.router.server.refusal import ON_REFUSAL, Reason, Refusal, malformed
from vllama_pool.router.telemetry.request_record import RECORD, RequestRecord

KEYS = grants([ApiKey("anna", digest("annas-key"))])


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


class Observed:
    """A gate's records and refusals. Its clock moves on by 1 ms with each reading."""

    def __init__(self) -> None:
        self.records: list[RequestRecord] = []
        self.worked: list[RequestRecord] = []
        self.refusals: list[Refusal] = []
        self._ticks = itertools.count(step=1_000_000)

    def gate(self, app: App_, access: Access) -> Gate:
        observers = Observers(self.records.append, self.worked.append, self.refusals.append)
        return Gate(app, access, observers, lambda: next(self._ticks))

    @property
    def record(self) -> RequestRecord:
        (record,) = self.records
        return record


async def respond(scope: Scope, access: Access, *sent: Message) -> tuple[App, FakeClient]:
    app, client = App(), FakeClient(*sent)
    await Observed().gate(app, access)(scope, client.receive, client.send)
    return app, client


async def record_of(scope: Scope, app: App_, access: Access | None = None) -> RequestRecord:
    """Return the record of a request that `app` answers, in which it may raise."""
    observed, client = Observed(), FakeClient()
    with contextlib.suppress(RuntimeError, asyncio.CancelledError):
        await observed.gate(app, access or Access())(scope, client.receive, client.send)
    return observed.record


async def test_an_admitted_request_reaches_the_app_with_its_id_and_key_name() -> None:
    access = Access(keys=KEYS, allow_anonymous=False)
    app, _ = await respond(
        http_scope("POST", "/api/chat", authorization="Bearer annas-key", x_request_id="mine"), access
    )
    (scope,) = app.scopes
    assert (scope[RECORD].id, scope[RECORD].client) == ("mine", "anna")


async def test_an_anonymous_request_has_an_empty_key_name() -> None:
    app, _ = await respond(http_scope("GET", "/"), Access())
    assert app.scopes[0][RECORD].client == ""


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


@pytest.mark.parametrize(("access", "status"), [(Access(), 200), (Access(allow_anonymous=False), 401)])
@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/nothing", "/tokenize", "/v1/messages"])
async def test_openais_and_anthropics_responses_name_the_request(path: str, access: Access, status: int) -> None:
    observed, client = Observed(), FakeClient()
    await observed.gate(App(), access)(http_scope("POST", path), client.receive, client.send)
    assert client.status == status
    assert client.headers[b"x-request-id"].decode() == observed.record.id
    anthropic = f"req_{observed.record.id}".encode() if path == "/v1/messages" else None
    assert client.headers.get(b"request-id") == anthropic


async def test_a_refusal_has_the_format_of_the_paths_api_and_names_the_request() -> None:
    _, client = await respond(http_scope("POST", "/v1/messages", x_request_id="mine"), Access(allow_anonymous=False))
    assert (client.status, client.headers[b"content-type"]) == (401, b"application/json; charset=utf-8")
    assert (json.loads(client.body)["request_id"], client.headers[b"request-id"]) == ("req_mine", b"req_mine")


async def test_an_unexpected_error_has_the_format_of_the_paths_api_and_names_the_request() -> None:
    async def raising(scope: Any, receive: Any, send: Any) -> None:
        raise ValueError("a bug")

    for path, kind in (("/v1/messages", "api_error"), ("/v1/responses", "api_error"), ("/rerank", "api_error")):
        observed, client = Observed(), FakeClient()
        await observed.gate(raising, Access())(http_scope("POST", path), client.receive, client.send)
        assert (client.status, json.loads(client.body)["error"]["type"]) == (500, kind)
        assert client.headers[b"x-request-id"].decode() == observed.record.id


async def test_an_unsafe_request_id_is_replaced_in_the_scope_and_in_the_response() -> None:
    app, client = await respond(http_scope("GET", "/", x_request_id='a"b'), Access())
    assert client.headers[b"x-request-id"] == app.scopes[0][RECORD].id.encode()
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


def answering(status: int) -> App_:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send_response(send, status, b"")

    return app


@pytest.mark.parametrize(
    ("status", "outcome", "only_read"),
    [
        (200, "complete", True),
        (301, "complete", True),
        (404, "refused", False),
        (499, "client gone", False),
        (500, "error", False),
        (503, "refused", False),
    ],
)
async def test_every_request_has_one_record_with_its_status(status: int, outcome: str, only_read: bool) -> None:
    record = await record_of(http_scope("GET", "/api//tags", x_request_id="mine"), answering(status))
    assert (record.id, record.method, record.path, record.address) == ("mine", "GET", "/api/tags", "127.0.0.1")
    assert (record.status, record.outcome, record.only_read) == (status, outcome, only_read)
    assert record.total_ms == 1.0


@pytest.mark.parametrize(
    ("method", "path", "only_read"),
    [
        ("GET", "/api/ps", True),
        ("HEAD", "/api/tags", True),
        ("POST", "/api/show", True),
        ("POST", "/api/create", False),
        ("DELETE", "/api/delete", False),
    ],
)
async def test_a_request_that_only_reads_is_told_from_one_that_changes(method: str, path: str, only_read: bool) -> None:
    assert (await record_of(http_scope(method, path), answering(200))).only_read is only_read


@pytest.mark.parametrize(("begun", "status"), [(False, 500), (True, 200)])
async def test_an_app_that_raises_is_recorded_as_an_error(begun: bool, status: int) -> None:
    async def raising(scope: Any, receive: Any, send: Any) -> None:
        if begun:
            await send({"type": "http.response.start", "status": 200})
        raise RuntimeError("a bug")

    record = await record_of(http_scope("GET", "/"), raising)
    assert (record.status, record.outcome, record.only_read) == (status, "error", False)


async def test_an_unexpected_error_is_logged_once_and_answered(caplog: pytest.LogCaptureFixture) -> None:
    async def raising(scope: Any, receive: Any, send: Any) -> None:
        raise ValueError("a bug")

    observed, client = Observed(), FakeClient()
    await observed.gate(raising, Access())(http_scope("POST", "/api/chat"), client.receive, client.send)
    assert (client.status, client.body) == (500, b'{"error":"internal error of the router; see its log"}')
    (logged,) = caplog.records
    assert logged.exc_info is not None
    assert "unexpected error while serving '/api/chat'" in logged.message


async def test_an_error_after_the_start_of_a_response_is_left_to_the_server() -> None:
    async def raising(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200})
        raise ValueError("a bug")

    observed, client = Observed(), FakeClient()
    with pytest.raises(ValueError, match="a bug"):
        await observed.gate(raising, Access())(http_scope("POST", "/api/chat"), client.receive, client.send)


async def test_a_cancelled_request_is_recorded() -> None:
    async def cancelled(scope: Any, receive: Any, send: Any) -> None:
        raise asyncio.CancelledError

    record = await record_of(http_scope("POST", "/api/create"), cancelled)
    assert (record.status, record.outcome) == (0, "cancelled")


async def test_a_handler_may_name_the_outcome() -> None:
    async def failing(scope: Any, receive: Any, send: Any) -> None:
        scope[RECORD].outcome = "failed"
        await send_response(send, 200, b"")

    record = await record_of(http_scope("POST", "/api/pull"), failing)
    assert (record.status, record.outcome) == (200, "failed")


@pytest.mark.parametrize(
    ("method", "headers", "status", "reason"),
    [
        ("GET", {"host": "ai.example.com"}, 403, Reason.HOST),
        ("POST", {"origin": "https://evil.com"}, 403, Reason.ORIGIN),
        ("OPTIONS", {"origin": "https://evil.com"}, 403, Reason.ORIGIN),
        ("POST", {"sec_fetch_site": "cross-site"}, 403, Reason.CROSS_SITE),
        ("GET", {}, 401, Reason.MISSING_KEY),
        ("GET", {"x_api_key": "wrong"}, 401, Reason.UNKNOWN_KEY),
    ],
)
async def test_a_refused_request_is_recorded_and_reported(
    method: str, headers: dict[str, str], status: int, reason: Reason
) -> None:
    observed, client = Observed(), FakeClient()
    gate = observed.gate(App(), Access(keys=KEYS, allow_anonymous=False))
    await gate(http_scope(method, "/api/tags", **headers), client.receive, client.send)
    record = observed.record
    assert (record.status, record.reason, record.outcome, record.only_read) == (status, reason, "refused", False)
    assert [refusal.reason for refusal in observed.refusals] == [reason]


async def test_the_lifespan_state_takes_the_refusals_of_the_http_protocol() -> None:
    observed = Observed()
    scope: Scope = {"type": "lifespan", "state": {}}
    client = FakeClient()
    await observed.gate(App(), Access())(scope, client.receive, client.send)
    refusal = malformed("10.0.0.9", "the request line is invalid; send METHOD TARGET HTTP/1.1")
    scope["state"][ON_REFUSAL](refusal)
    assert observed.refusals == [refusal]


async def test_the_app_finds_the_keys_grant_and_the_record_its_team() -> None:
    access = Access(keys={digest("annas-key"): Grant("anna", "blue")}, allow_anonymous=False)
    observed, client, app = Observed(), FakeClient(), App()
    scope = http_scope("GET", "/api/tags", x_api_key="annas-key")
    await observed.gate(app, access)(scope, client.receive, client.send)
    assert (observed.record.client, observed.record.team) == ("anna", "blue")
    assert app.scopes[0][GRANT] is access.keys[digest("annas-key")]


async def test_a_new_access_applies_from_the_next_request_on_and_admitted_ones_go_on() -> None:
    app, observed = App(), Observed()
    gate = observed.gate(app, Access(keys=KEYS, allow_anonymous=False))
    for keys, status in ((None, 200), (None, 200), (grants([key("bob")]), 401), (KEYS, 200)):
        if keys is not None:
            gate.use(Access(keys=keys, allow_anonymous=False))
        client = FakeClient()
        await gate(http_scope("GET", "/api/tags", x_api_key="annas-key"), client.receive, client.send)
        assert client.status == status

    async def removing(scope: Scope, receive: Receive, send: Send) -> None:
        gate.use(Access(keys=grants([key("bob")]), allow_anonymous=False))
        await app(scope, receive, send)

    gate.app, client = removing, FakeClient()
    await gate(http_scope("GET", "/api/tags", x_api_key="annas-key"), client.receive, client.send)
    assert client.status == 200
