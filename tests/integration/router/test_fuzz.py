"""Generated requests: no 5xx of our own, no hang, and errors in the shape that clients read."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis import GenerationMode

from tests.support.clients.fuzzing import FuzzedRequest, fuzzed_requests, problem
from tests.support.clients.openapi import bodies, describe
from tests.support.fleet.live import Fleet, fleet
from vllama_pool.router.protocol.ollama.fixed_routes import FIXED_ROUTES
from vllama_pool.router.server.dispatch import Dispatcher
from vllama_pool.workers.simulated.options import Options

CHAT = Options(model="tiny:latest", tokens_per_second=100_000, ttft=0.0, answer_tokens=3)
VECTORS = Options(model="vec", embedding=True, tokens_per_second=100_000, ttft=0.0)
# The router uses `random` in another thread meanwhile.
pytestmark = pytest.mark.filterwarnings("ignore:Do not use the `random` module")

NAMES = [
    "tiny",
    "tiny:latest",
    "TINY",
    "tiny:local",
    "vec",
    "mine",
    "",
    " ",
    "nope",
    "org/nope:8b",
    "x:cloud",
    "a b",
    "a:local:cloud",
    None,
]
LIKELY = {
    **{key: {"enum": NAMES} for key in ("model", "name", "source", "from")},
    "keep_alive": {"enum": [None, 0, -1, 0.5, "5m", "0s", "soon", True]},
    "think": {"enum": [None, False, True, "low", "max", "loud"]},
    "format": {"enum": [None, "", "json", "yaml", {}, {"type": "object"}]},
    "images": {"enum": [None, [], ["x"]]},
    "input": {"enum": [None, "", "a", [], ["a"], [""], ["a", 1], 1, {}]},
    "top_logprobs": {"enum": [None, 0, 1, 20, 21, -1]},
}
"""Values in place of random ones: served names, and values that pass the first validation."""
MAX_SECONDS = 60.0
"""Time-out for one response on a busy machine."""


def bounded(examples: int) -> Any:
    """Settings that generate the same examples on every run."""
    return settings(
        max_examples=examples,
        derandomize=True,
        database=None,
        deadline=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )


@pytest.fixture
async def running(tmp_path: Path) -> AsyncIterator[Fleet]:
    async with fleet(tmp_path, {"a": CHAT, "b": VECTORS}, body_limit=2**20) as one:
        yield one


def api_description(running: Fleet) -> dict[str, Any]:
    dispatcher = running.app.app
    assert isinstance(dispatcher, Dispatcher)
    document = describe(dispatcher.paths, bodies(FIXED_ROUTES), "0")
    for item in document["paths"].values():
        for operation in item.values():
            body = operation.get("requestBody", {}).get("content", {}).get("application/json", {}).get("schema", {})
            fields = body.get("properties", {})
            fields.update({key: values for key, values in LIKELY.items() if key in fields})
            body["required"] = sorted({"model", "source", "messages"} & set(fields))
    return document


def send(client: httpx.Client, method: str, url: str, body: bytes | None, headers: dict[str, str]) -> int:
    """Send a request, require a well-formed response, and return its status. Raises httpx.TimeoutException."""
    request = client.build_request(method, url, content=body, headers=headers)
    answer = client.send(request)
    kind = answer.headers.get("content-type", "")
    wrong = problem(method, request.url.path, answer.status_code, kind, answer.content)
    assert not wrong, f"{wrong}: {method} {url} {body!r:.2000} gave {answer.status_code} {answer.text:.500}"
    return answer.status_code


def drive_described(url: str, document: dict[str, Any], examples: int) -> Counter[int]:
    """Send valid and invalid requests to every operation, and count the statuses."""
    schema = schemathesis.openapi.from_dict(document)
    statuses: Counter[int] = Counter()
    with httpx.Client(timeout=MAX_SECONDS, trust_env=False, verify=False) as client:
        for result in schema.get_all_operations():
            operation = result.ok()
            for mode in GenerationMode if operation.body else (GenerationMode.POSITIVE,):

                @bounded(examples if operation.body else 3)
                @given(case=operation.as_strategy(generation_mode=mode))
                def drive(case: schemathesis.Case) -> None:
                    made = case.as_transport_kwargs(base_url=url)
                    body = json.dumps(made["json"]).encode() if "json" in made else made.get("data")
                    statuses[send(client, made["method"], made["url"], body, {"content-type": "application/json"})] += 1

                drive()
    return statuses


def drive_damaged(url: str, examples: int) -> Counter[int]:
    statuses: Counter[int] = Counter()
    with httpx.Client(timeout=MAX_SECONDS, trust_env=False, verify=False) as client:

        @bounded(examples)
        @given(request=fuzzed_requests())
        def drive(request: FuzzedRequest) -> None:
            status = send(client, request.method, f"{url}{request.path}", request.body, dict(request.headers))
            statuses[status] += 1

        drive()
    return statuses


@pytest.mark.long
async def test_requests_generated_from_the_description_get_well_formed_responses(running: Fleet) -> None:
    statuses = await asyncio.to_thread(drive_described, running.url, api_description(running), 30)
    assert statuses[200] > 50
    assert statuses[400] > 100


@pytest.mark.long
async def test_damaged_client_requests_get_well_formed_responses(running: Fleet) -> None:
    statuses = await asyncio.to_thread(drive_damaged, running.url, 1000)
    assert statuses[200] > 100
    assert statuses[400] > 100
    after = await running.http.post("/api/generate", json={"model": "tiny", "prompt": "hello", "stream": False})
    assert after.status_code == 200
