"""A worker's 200 that is not an answer, on each route: another worker is asked, and the client gets one error."""

from __future__ import annotations

import asyncio
import json

import pytest

from tests.support.forwarding import Fleet
from tests.support.operations import REQUESTS, Request
from tests.support.upstream import FakeResponse
from vllama_pool.router.errors import ClientError
from vllama_pool.router.protocol.clock import SystemClock
from vllama_pool.router.protocol.table import operations

OPERATIONS = {operation.path: operation for operation in operations(SystemClock())}
JSON = [request for request in REQUESTS if not request.hears]
NOT_ANSWERS = {
    **{text: text.encode() for text in ("{}", "[]", "null", '"hello"', "1", "<html>hello</html>")},
    "nothing": b"",
    "another API's object": b'{"object":"list","models":[]}',
    "an empty list": b'{"choices":[],"data":[],"results":[]}',
    "an event of {}": b"data: {}\n\n",
    "an event of []": b"data: []\n\n",
    "an event of null": b"data: null\n\n",
    "an end after {}": b"data: {}\n\ndata: [DONE]\n\n",
}


@pytest.mark.parametrize("request_", JSON, ids=map(str, JSON))
async def test_a_200_that_is_not_an_answer_is_a_failure_of_the_worker(request_: Request) -> None:
    found = {}
    for kind, body in NOT_ANSWERS.items():
        fleet = Fleet(a=[FakeResponse([body])], b=[FakeResponse([body])])
        sent = json.dumps(request_.content("m")["json"]).encode()
        in_flight = fleet.begin(operation=OPERATIONS[request_.path], body=sent)
        try:
            async with asyncio.timeout(30):
                found[kind] = await in_flight.run()
        except ClientError as error:
            found[kind] = error.status >= 500, fleet.upstream.workers, fleet.writer.status
        finally:
            in_flight.close()
        fleet.assert_idle()
    assert found == dict.fromkeys(NOT_ANSWERS, (True, ["a", "b"], 0))


@pytest.mark.parametrize("answer", [b"", b"{}", b"<html>hello</html>"])
async def test_another_worker_counts_a_prompt_that_the_first_does_not_count(answer: bytes) -> None:
    """The first one stays healthy: a proxy before it may block the route."""
    counted = FakeResponse([b'{"count":1,"max_model_len":64,"tokens":[1]}'])
    fleet = Fleet(a=[FakeResponse([answer])], b=[counted, FakeResponse([b'{"prompt":"<hi>"}'])])
    body = {"model": "m", "messages": [{"role": "user", "content": "hi"}], "_debug_render_only": True}
    in_flight = fleet.begin(body=json.dumps(body).encode())
    try:
        async with asyncio.timeout(15):
            answered = await in_flight.run()
    finally:
        in_flight.close()
    assert answered is not None
    assert json.loads(answered.body)["_debug_info"]["rendered_template"] == "<hi>"
    assert fleet.upstream.workers == ["a", "b", "b"]
    assert all(worker.health.is_healthy(fleet.clock()) for worker in fleet.pool)
    fleet.assert_idle()
