from __future__ import annotations

import json
from typing import Any

import pytest

from tests.support.protocol import CLOCK, MODEL, THINKER, outgoing
from vllama_pool.config.routing.defaults import NO_DEFAULTS, Defaults
from vllama_pool.router.errors import Refused
from vllama_pool.router.protocol.ollama.stream_interval import of_whole_answers
from vllama_pool.router.protocol.operation import Operation, PreflightRequest
from vllama_pool.router.protocol.table import operations

HI = [{"role": "user", "content": "hi"}]
TOOL = {"type": "function", "function": {"name": "add", "parameters": {"type": "object"}}}
SLOW = Defaults(stream_interval=4)
FAST = Defaults(stream_interval=50)
UNKNOWN = Refused("stream_interval: Extra inputs are not permitted", status=400)

each_endpoint = pytest.mark.parametrize("name", ["chat", "generate", "raw"])


def operation(name: str) -> Operation[Any]:
    return next(each for each in operations(CLOCK) if each.name == ("chat" if name == "chat" else "generate"))


def request(name: str, **fields: Any) -> Any:
    body = {"model": "m", "messages": HI, "prompt": "hi", "raw": name == "raw", "stream": False} | fields
    return operation(name).decode(json.dumps(body).encode())


def sent(name: str, defaults: Defaults = NO_DEFAULTS, **fields: Any) -> dict[str, Any]:
    step = operation(name).prepare(request(name, **fields), THINKER, defaults)
    result: dict[str, Any] = json.loads(outgoing(step).body)
    return result


@pytest.mark.parametrize(("stall_timeout", "interval"), [(120.0, 30), (3600.0, 30), (40.0, 10), (5.0, 1), (0.1, 1)])
def test_a_worker_with_a_token_in_four_seconds_does_not_count_as_stalled(stall_timeout: float, interval: int) -> None:
    assert of_whole_answers(stall_timeout) == interval


@each_endpoint
def test_answers_that_are_not_streamed_come_from_vllm_in_few_events(name: str) -> None:
    body = sent(name)
    assert body["stream"] is True
    assert body["stream_interval"] == 30


@each_endpoint
def test_streamed_answers_come_token_by_token(name: str) -> None:
    assert "stream_interval" not in sent(name, stream=True)


@each_endpoint
def test_a_models_interval_applies_to_streamed_answers_and_is_the_least_for_others(name: str) -> None:
    assert sent(name, SLOW, stream=True)["stream_interval"] == 4
    assert sent(name, SLOW)["stream_interval"] == 30
    assert sent(name, FAST)["stream_interval"] == 50


@pytest.mark.parametrize("defaults", [NO_DEFAULTS, SLOW])
@pytest.mark.parametrize("streamed", [True, False])
def test_requests_with_tools_get_every_token_in_its_own_event(defaults: Defaults, streamed: bool) -> None:
    assert "stream_interval" not in sent("chat", defaults, stream=streamed, tools=[TOOL])


def test_tools_without_a_name_do_not_count() -> None:
    assert sent("chat", tools=[{"type": "function", "function": {}}])["stream_interval"] == 30


@each_endpoint
def test_tokens_of_a_structured_whole_answer_are_counted_by_their_ids(name: str) -> None:
    assert sent(name, format="json")["return_token_ids"] is True
    assert sent("chat").get("return_token_ids") is None
    assert sent("chat", format="json", stream=True).get("return_token_ids") is None


def test_a_prompt_with_a_context_is_completed_in_few_events() -> None:
    step = operation("generate").prepare(request("generate", context=[1, 2]), THINKER, NO_DEFAULTS)
    assert isinstance(step, PreflightRequest)
    assert json.loads(outgoing(step.then(b'{"tokens":[3],"max_model_len":64}')).body)["stream_interval"] == 30


@each_endpoint
def test_a_server_that_refuses_the_field_gets_the_request_without_it(name: str) -> None:
    adapt = operation(name).adapt
    assert adapt is not None
    step = adapt(request(name), MODEL, NO_DEFAULTS, UNKNOWN)
    assert step is not None
    changed = json.loads(outgoing(step).body)
    assert "stream_interval" not in changed
    before = json.loads(outgoing(operation(name).prepare(request(name), MODEL, NO_DEFAULTS)).body)
    assert changed == {key: value for key, value in before.items() if key != "stream_interval"}
