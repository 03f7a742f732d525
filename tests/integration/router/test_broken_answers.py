"""Workers that answer with half an event, with garbage, with a 200 that holds an error, or never; for each protocol."""

from __future__ import annotations

import itertools
import json
from dataclasses import replace
from pathlib import Path

import httpx
import msgspec
import pytest

from tests.support.fleet.live import Fleet, fleet
from tests.support.operations import REQUESTS, Request, ends_with_error, is_whole
from tests.support.until import auntil
from vllama_pool.workers.simulated import faults
from vllama_pool.workers.simulated.options import Options

ILL = Options(model="tiny", tokens_per_second=2000, ttft=0.001, answer_tokens=12, slots=32)
PATHS = ("/api/chat", "/v1/chat/completions", "/v1/messages")
ANSWERS = [request for request in REQUESTS if request.path in PATHS]
STREAMS = [request for request in ANSWERS if request.stream]
EVENTS = "text/event-stream; charset=utf-8"
ERROR = json.dumps({"error": {"message": "boom", "type": "InternalServerError", "param": None, "code": 500}})
NEVER = 3.0
"""Seconds that the router waits for a worker."""

SILENT = {"never": faults.Hang()}
BODIES = {
    "half an event": faults.Half(),
    "half a line": faults.Body(body='data: {"id": "chatcmpl-1", "choi', content_type=EVENTS),
    "garbage": faults.Body(body="data: {\x00 not JSON\n\n", content_type=EVENTS),
    "garbage in place of the head": faults.Garbage(where="head"),
    "garbage in place of a chunk": faults.Garbage(where="chunk"),
    "a page": faults.Body(body="<html>502 Bad Gateway</html>", content_type="text/html"),
    "nothing": faults.Body(body=""),
    "null": faults.Body(body="null"),
    "an empty object": faults.Body(body="{}"),
    "an error in a 200": faults.Body(body=ERROR),
    "an error event in a 200": faults.Body(body=f"data: {ERROR}\n\ndata: [DONE]\n\n", content_type=EVENTS),
    "an end without an answer": faults.Body(body="data: [DONE]\n\n", content_type=EVENTS),
}
IN_THE_MIDDLE = {
    "half an event": faults.Half(after_tokens=5),
    "garbage": faults.Garbage(after_tokens=5),
    "garbage after many events": faults.Garbage(after_tokens=11),
    "garbage in place of a chunk": faults.Garbage(where="chunk", after_tokens=5),
    "an error": faults.Error(after_tokens=5),
    "a refusal": faults.Error(after_tokens=5, status=400),
    "silence": faults.Stall(after_tokens=5),
}


def applied(fault: faults.RequestFault, request: Request) -> faults.RequestFault:
    return msgspec.structs.replace(fault, paths=(request.worker_path,))


@pytest.mark.parametrize("request_", ANSWERS, ids=map(str, ANSWERS))
async def test_another_worker_answers_whole_if_nothing_has_reached_the_client(
    tmp_path: Path, request_: Request
) -> None:
    """Each fault has a model of its own, with a slow worker that is well and is therefore chosen last."""
    broken = BODIES | SILENT
    if not request_.stream:
        broken |= {f"{name} in the middle": fault for name, fault in IN_THE_MIDDLE.items() if name != "a refusal"}
    kinds = {f"m{number}": name for number, name in enumerate(broken)}
    workers = {
        name: replace(ILL, model=name.removesuffix("-well")) for each in kinds for name in (each, f"{each}-well")
    }
    limits = {"first_token_timeout": NEVER, "answer_timeout": NEVER, "stall_timeout": NEVER}
    async with fleet(tmp_path, workers, **limits) as running:
        for model, kind in kinds.items():
            running[model].set_faults([applied(broken[kind], request_)])
            well = running.workers[f"{model}-well"]
            well.record = msgspec.structs.replace(well.record, speed=0.01, generation=2)
            await well.join()
        await auntil(lambda: _all_slow(running), 20, "the router to see the speeds")
        found = {}
        for model, kind in kinds.items():
            response = await ask(running, request_, model)
            record = await running.record(model)
            found[kind] = (is_whole(request_, response), record["worker"], record["attempts"])

    assert found == {kind: (True, f"{model}-well", 2) for model, kind in kinds.items()}


async def _all_slow(running: Fleet) -> bool:
    workers = (await running.http.get("/admin/workers")).json()["workers"]
    return sum(worker["speed"] < 1 for worker in workers) * 2 == len(workers)


@pytest.mark.parametrize("request_", STREAMS, ids=map(str, STREAMS))
async def test_a_stream_that_breaks_ends_with_one_well_formed_error(tmp_path: Path, request_: Request) -> None:
    """No other worker could continue it. The answer's name of the model is the worker's, or has to be replaced."""
    async with fleet(tmp_path, {"only": ILL}, stall_timeout=NEVER) as running:
        found = {}
        for model, (kind, fault) in itertools.product(("tiny", "TINY:latest"), IN_THE_MIDDLE.items()):
            running["only"].set_faults([applied(fault, request_)])
            response = await ask(running, request_, model, f"{model} {kind}".replace(" ", "-"))
            errors = response.text.count('"error":') + response.text.count("event: error\n")
            expected = 2 if request_.path == "/v1/messages" else 1
            whole = response.text.endswith("\n") and not response.text.count("not JSON")
            ends = whole and ends_with_error(request_, response.text)
            found[model, kind] = response.status_code, ends, errors == expected

    assert found == dict.fromkeys(found, (200, True, True))
    assert len(found) == 2 * len(IN_THE_MIDDLE)


async def ask(running: Fleet, request: Request, model: str, name: str = "") -> httpx.Response:
    return await running.http.post(request.path, **request.content(model), headers={"x-request-id": name or model})
