"""Each check of connections differs on a server that is wrong in one way."""

from __future__ import annotations

import json

import pytest

from tests.support.vllm.scripted_server import Peer, Script, ScriptedServer, cut, hold, json_response, request
from vllama_pool.router.compat.checks import connections
from vllama_pool.router.compat.checks.check import Check, checks_in
from vllama_pool.router.compat.expect import Skipped
from vllama_pool.router.compat.models import ModelChoice
from vllama_pool.router.compat.runner import Result, run_check
from vllama_pool.router.compat.server import ABSENT_MODEL, CheckedServer
from vllama_pool.router.compat.wire import ServerUrl

PLAIN = b"Content-Type: text/plain; charset=utf-8\r\n"
ROOT = b"HTTP/1.1 200 OK\r\n" + PLAIN + b"Content-Length: 17\r\n\r\nOllama is running"
REFUSED = b"HTTP/1.1 400 Bad Request\r\n" + PLAIN + b"Content-Length: 2\r\nConnection: close\r\n\r\nno"
NOT_FOUND = b"HTTP/1.1 404 Not Found\r\n" + PLAIN + b"Content-Length: 18\r\n\r\n404 page not found"


def kept(status: int, body: bytes) -> bytes:
    """Return a JSON response after which the connection stays open."""
    return json_response(status, body).replace(b"connection: close\r\n", b"")


VERSION = kept(200, b'{"version":"0.17.6"}')
ABSENT = kept(404, json.dumps({"error": f"model '{ABSENT_MODEL}:latest' not found"}).encode())
TAGS = kept(200, b'{"models":[]}')
CHUNKED = b'HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nd\r\n{"models":[]}\r\n0\r\n\r\n'


async def anything(peer: Peer) -> None:
    """Read what arrives at once, whether or not it is a complete request."""
    await peer.reader.read(65536)


WRONG: list[tuple[str, str, list[Script]]] = [
    ("a_lone_lf_ends_a_line_of_a_head", "lone LF refused", [[request, ROOT], [anything, REFUSED]]),
    ("a_lone_lf_ends_a_line_of_a_head", "lone LF waited for", [[request, ROOT], [hold]]),
    ("folded_lines_of_a_head_are_joined", "folds refused", [[request, ROOT], [anything, REFUSED]]),
    ("chunk_sizes_end_with_crlf", "lone LF accepted", [[request, ROOT], [anything, ABSENT]]),
    ("chunk_sizes_end_with_crlf", "chunks refused", [[request, ROOT], [anything, REFUSED]]),
    *((f"refuses {name}", "accepted", [[anything, ABSENT]]) for name in ("two lengths", "a length with a sign")),
    *((f"refuses {name}", "accepted", [[anything, ABSENT]]) for name in ("two hosts", "a blank before a colon")),
    ("refuses an unknown transfer coding", "accepted", [[anything, ABSENT]]),
    ("refuses a transfer coding besides chunked", "accepted", [[anything, ABSENT]]),
    ("an_invalid_request_is_a_400_and_closes", "accepted", [[request, ROOT], [anything, ROOT]]),
    ("an_invalid_request_is_a_400_and_closes", "kept open", [[request, ROOT], [anything, REFUSED, hold]]),
    ("an_invalid_request_is_a_400_and_closes", "JSON", [[request, ROOT], [anything, json_response(400, b"{}")]]),
    ("absolute_targets_are_served", "not found", [[anything, NOT_FOUND]]),
    ("absolute_targets_are_served", "root not found", [[anything, VERSION], [anything, NOT_FOUND]]),
    ("unknown_methods_are_a_405", "refused", [[anything, REFUSED]]),
    ("unclean_paths_lead_to_the_clean_path", "not found", [[anything, NOT_FOUND]]),
    ("unclean_paths_lead_to_the_clean_path", "POST not found", [*[[anything, VERSION]] * 5, [anything, NOT_FOUND]]),
    ("http_1_0_clients_get_no_chunks", "chunks", [[anything, CHUNKED]]),
    ("http_1_0_clients_get_no_chunks", "kept open", [[anything, TAGS, hold]]),
    ("http_1_0_clients_may_keep_the_connection", "closed", [[request, ROOT], [anything, ROOT]]),
    ("http_1_0_clients_may_keep_the_connection", "unsaid", [[request, ROOT], [anything, ROOT, ROOT]]),
    ("idle_connections_stay_open", "closed", [[request, ROOT]]),
    ("half_closed_clients_get_their_response", "dropped", [[request, VERSION], [request, TAGS], [anything, cut]]),
    ("half_closed_clients_get_their_response", "other", [[request, VERSION], [request, TAGS], [anything, TAGS]]),
    ("pipelined_requests_are_answered_in_order", "the first alone", [[anything, VERSION]]),
    ("pipelined_requests_are_answered_in_order", "out of order", [[anything, VERSION, ROOT, ABSENT]]),
]


def check_named(name: str) -> Check:
    return next(check for check in checks_in(connections) if check.name == name)


@pytest.mark.parametrize(("name", "_fault", "scripts"), WRONG, ids=lambda value: value if type(value) is str else "")
async def test_a_check_differs_on_a_wrong_server(name: str, _fault: str, scripts: list[Script]) -> None:
    async with ScriptedServer(*scripts) as server:
        at = ServerUrl(server.endpoint.host, server.endpoint.port)
        checked = CheckedServer(at, ModelChoice(chat="c"), timeout=0.5, idle_seconds=0.05)
        outcome = await run_check(checked, check_named(name))
    assert outcome.result is Result.DIFFERS


def test_every_check_has_a_wrong_server() -> None:
    assert {check.name for check in checks_in(connections)} == {name for name, _, _ in WRONG}


async def test_an_idle_connection_may_serve_again() -> None:
    async with ScriptedServer([request, ROOT, request, ROOT]) as server:
        at = ServerUrl(server.endpoint.host, server.endpoint.port)
        checked = CheckedServer(at, ModelChoice(), idle_seconds=0.05)
        outcome = await run_check(checked, connections.idle_connections_stay_open)
    assert outcome.result is Result.SAME


async def test_a_tls_connection_is_not_half_closed() -> None:
    checked = CheckedServer(ServerUrl("127.0.0.1", 1, tls=True), ModelChoice(chat="c"))
    with pytest.raises(Skipped, match="TLS"):
        await checked.send_bytes(b"GET / HTTP/1.1\r\n\r\n", half_close=True)
