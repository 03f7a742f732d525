"""The simulated worker answers as real vLLM does: the same requests to both, and their answers' shapes compared.

What a test of the router or an agent proves with simulated workers holds for real ones as far as this file
reaches.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import re
import signal
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.support.until import auntil, until
from tests.support.vllm import response_shape as shapes
from tests.support.vllm.servers import Servers, Spec, VllmServer
from tests.support.vllm.simulated import SimulatedProcess
from tests.support.vllm.weather_tool import CHAT as WEATHER

CHAT = "/v1/chat/completions"
COMPLETIONS = "/v1/completions"
EMBEDDINGS = "/v1/embeddings"
QUESTION: dict[str, Any] = {"messages": [{"role": "user", "content": "What is 2+2?"}]}
NO_THINKING = {"chat_template_kwargs": {"enable_thinking": False}}
USAGE = {"stream_options": {"include_usage": True}}
JSON = {"content-type": "application/json"}


@dataclass
class Pair:
    """A real server and its simulation."""

    real: str
    simulated: str
    model: str
    context: int
    headers: dict[str, str]

    def send(self, url: str, method: str, path: str, body: Any, headers: dict[str, str] | None) -> httpx.Response:
        content = body if isinstance(body, bytes | None) else json.dumps(body).encode()
        sent = {**self.headers, **({} if content is None else JSON), **(headers or {})}
        return httpx.request(method, url + path, content=content, headers=sent, trust_env=False, timeout=60.0)

    def compare(
        self, path: str, body: Any = None, *, method: str = "POST", headers: dict[str, str] | None = None
    ) -> tuple[httpx.Response, httpx.Response]:
        """Send to both and compare. Returns both answers."""
        real, simulated = (self.send(url, method, path, body, headers) for url in (self.real, self.simulated))
        found = shapes.difference(shapes.of_response(real), shapes.of_response(simulated))
        assert not found, f"{method} {path} {str(body)[:300]}\n{found}"
        return real, simulated

    def ask(self, path: str, **fields: Any) -> tuple[httpx.Response, httpx.Response]:
        """`compare` with a body of these fields and temperature 0."""
        return self.compare(path, {"model": self.model, "temperature": 0, **fields})


Flags = tuple[str, ...]


@pytest.fixture(scope="module")
def simulate() -> Iterator[Callable[[VllmServer, Flags], Pair]]:
    """Starts the simulation of a real server: the same name, context and flags. One for each real one."""
    started: dict[str, SimulatedProcess] = {}

    def pair(server: VllmServer, flags: Flags = ()) -> Pair:
        key = next((flag for name, flag in itertools.pairwise(server.spec.flags) if name == "--api-key"), None)
        headers = {"authorization": f"Bearer {key}"} if key else {}
        listed = httpx.get(f"{server.url}/v1/models", headers=headers, trust_env=False).json()
        context = int(listed["data"][0]["max_model_len"])
        if server.model not in started:
            given = (
                "--max-model-len",
                str(context),
                "--tokens-per-second",
                "500",
                "--ttft",
                "0.01",
                "--answer-tokens",
                "20",
            )
            flags = (*server.spec.flags, *given, *flags)
            started[server.model] = SimulatedProcess(*flags, model=server.model, env=dict(server.spec.env))
        return Pair(server.url, started[server.model].url, server.model, context, headers)

    yield pair
    for process in started.values():
        process.stop()


Simulate = Callable[..., Pair]


@pytest.fixture
def chat(simulate: Simulate, smollm2_vllm: VllmServer) -> Pair:
    return simulate(smollm2_vllm)


@pytest.fixture
def thinker(simulate: Simulate, tiny_qwen3_vllm: VllmServer) -> Pair:
    return simulate(tiny_qwen3_vllm)


@pytest.fixture
def embedder(simulate: Simulate, tiny_bert_vllm: VllmServer) -> Pair:
    return simulate(tiny_bert_vllm, ("--runner", "pooling"))


# --- answers ---

PLAIN: list[dict[str, Any]] = [
    {"max_tokens": 5},
    {"max_tokens": 8, "logprobs": True, "top_logprobs": 2},
    {"max_tokens": 5, "return_token_ids": True},
    {"max_tokens": 5, "ignore_eos": True, "seed": 7, "top_p": 0.9, "min_p": 0.1, "repetition_penalty": 1.1},
    {"max_completion_tokens": 4},
    {"max_tokens": 40, "stop": ["never to be seen"]},
    {"max_tokens": 3, "made_up_field": 1},
]
STREAMED: list[dict[str, Any]] = [{"stream": True}, {"stream": True, **USAGE}]


@pytest.mark.parametrize("how", [{}, *STREAMED], ids=["whole", "streamed", "usage"])
@pytest.mark.parametrize("fields", PLAIN, ids="-".join)
def test_chat(chat: Pair, fields: dict[str, Any], how: dict[str, Any]) -> None:
    chat.ask(CHAT, **QUESTION, **fields, **how)


def test_chat_with_usage_in_every_event(chat: Pair) -> None:
    options = {"stream_options": {"include_usage": True, "continuous_usage_stats": True}}
    chat.ask(CHAT, **QUESTION, max_tokens=5, stream=True, **options)


def test_a_conversation_with_a_system_message_and_parts(chat: Pair) -> None:
    messages = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": [{"type": "text", "text": "Hello"}, {"type": "text", "text": "there"}]},
        {"role": "assistant", "content": "Hi"},
        {"role": "user", "content": "Why is the sky blue?"},
    ]
    chat.ask(CHAT, messages=messages, max_tokens=4)


@pytest.mark.parametrize("how", [{}, *STREAMED], ids=["whole", "streamed", "usage"])
@pytest.mark.parametrize(
    "fields",
    [
        {"prompt": "Hello there", "max_tokens": 5},
        {"prompt": "Hello there"},
        {"prompt": [1, 2, 3], "max_tokens": 3, "return_token_ids": True},
        {"prompt": "Hello there", "max_tokens": 6, "logprobs": 2},
        {"prompt": "Hello there", "max_tokens": 10, "stop": "never to be seen"},
        {"prompt": ["Hello there"], "max_tokens": 3, "echo": True},
    ],
    ids="-".join,
)
def test_completions(chat: Pair, fields: dict[str, Any], how: dict[str, Any]) -> None:
    chat.ask(COMPLETIONS, **fields, **how)


def test_a_request_without_max_tokens_gets_sixteen_as_a_completion(chat: Pair) -> None:
    for answer in chat.ask(COMPLETIONS, prompt="Once upon a time", ignore_eos=True):
        assert answer.json()["usage"]["completion_tokens"] == 16


def test_more_than_the_context_holds_is_cut_short_in_silence(chat: Pair) -> None:
    prompt = [5] * (chat.context - 3)
    for answer in chat.ask(COMPLETIONS, prompt=prompt, max_tokens=100, ignore_eos=True):
        assert answer.json()["usage"]["completion_tokens"] == 3


def test_the_requests_id_is_the_answers(chat: Pair) -> None:
    for answer in chat.ask(CHAT, **QUESTION, max_tokens=1, request_id="mine"):
        assert answer.json()["id"] == "chatcmpl-mine"
    body = {"model": chat.model, "prompt": "x", "max_tokens": 1}
    for answer in chat.compare(COMPLETIONS, body, headers={"X-Request-Id": "theirs"}):
        assert answer.json()["id"] == "cmpl-theirs"


def test_a_stop_string_ends_the_answer_and_is_named(thinker: Pair) -> None:
    """The word stands in both answers: the model has learned its one, the simulation says what it says."""
    for how in ({}, {"stream": True}):
        thinker.ask(CHAT, **QUESTION, **NO_THINKING, stop=["count", "llama llama"], **how)


def test_a_prompt_of_ids_continues_a_cut_answer(chat: Pair) -> None:
    """What resuming rests on: the prompt's ids and those so far, as a completion, give the rest."""
    asked = {**QUESTION, "max_tokens": 20, "ignore_eos": True, "return_token_ids": True}
    for whole, url in zip(chat.ask(CHAT, **asked), (chat.real, chat.simulated), strict=True):
        answer = whole.json()
        ids = answer["choices"][0]["token_ids"]
        body = {
            "model": chat.model,
            "prompt": answer["prompt_token_ids"] + ids[:8],
            "max_tokens": 12,
            "temperature": 0,
            "ignore_eos": True,
            "return_token_ids": True,
        }
        rest = chat.send(url, "POST", COMPLETIONS, body, None).json()
        assert rest["choices"][0]["token_ids"] == ids[8:]
        assert answer["choices"][0]["message"]["content"].endswith(rest["choices"][0]["text"])


# --- thinking and tools ---

HOWS = [{}, {"stream": True}, {"stream": True, **USAGE}]


@pytest.mark.parametrize("how", HOWS, ids=["whole", "streamed", "usage"])
@pytest.mark.parametrize(
    "fields",
    [
        {},
        NO_THINKING,
        {"reasoning_effort": "none"},
        {"reasoning_effort": "low"},
        {"include_reasoning": False},
        {"max_tokens": 5},
        {"max_tokens": 8, "logprobs": True, "return_token_ids": True},
        {"max_tokens": 20, "ignore_eos": True, **NO_THINKING},
        {"response_format": {"type": "json_object"}, "max_tokens": 8},
    ],
    ids=lambda fields: "-".join(fields) or "default",
)
def test_thinking(thinker: Pair, fields: dict[str, Any], how: dict[str, Any]) -> None:
    thinker.ask(CHAT, **QUESTION, **fields, **how)


NAMED = {"type": "function", "function": {"name": "get_weather"}}


@pytest.mark.parametrize("how", HOWS, ids=["whole", "streamed", "usage"])
@pytest.mark.parametrize(
    "fields",
    [
        {},
        NO_THINKING,
        {"tool_choice": "required", **NO_THINKING},
        {"tool_choice": NAMED, **NO_THINKING},
        {"tool_choice": "none", "max_tokens": 6, **NO_THINKING},
    ],
    ids=lambda fields: "-".join(fields) or "default",
)
def test_tools(thinker: Pair, fields: dict[str, Any], how: dict[str, Any]) -> None:
    thinker.ask(CHAT, **WEATHER, **fields, **how)


def test_tools_that_are_not_called_and_their_results(thinker: Pair) -> None:
    hello = {"messages": [{"role": "user", "content": "hi"}]}
    thinker.ask(CHAT, **{**WEATHER, **hello}, **NO_THINKING)
    call = {"id": "c1", "type": "function", "function": {"name": "get_weather", "arguments": '{"city": "Paris"}'}}
    messages = [
        *WEATHER["messages"],
        {"role": "assistant", "content": "", "tool_calls": [call]},
        {"role": "tool", "content": "22", "tool_call_id": "c1"},
    ]
    for answer in thinker.ask(CHAT, **{**WEATHER, "messages": messages}, **NO_THINKING):
        assert answer.json()["choices"][0]["finish_reason"] == "stop"


def test_a_closed_schema_is_kept_to(thinker: Pair) -> None:
    schema = {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "boolean"}}}
    for answer in thinker.ask(CHAT, **QUESTION, **NO_THINKING, response_format=schema):
        assert json.loads(answer.json()["choices"][0]["message"]["content"]) in (True, False)


def test_deltas_of_a_call_make_its_arguments(thinker: Pair) -> None:
    for answer in thinker.ask(CHAT, **WEATHER, **NO_THINKING, stream=True):
        events = [json.loads(line[6:]) for line in answer.text.splitlines() if line.startswith("data: {")]
        calls = [call for event in events for call in event["choices"][0]["delta"].get("tool_calls", ())]
        arguments = "".join(call["function"].get("arguments", "") for call in calls)
        assert set(json.loads(arguments)) == {"city", "unit"}


# --- embeddings, tokens, and what a server tells of itself ---


@pytest.mark.parametrize(
    "fields",
    [
        {"input": "why is the sky blue"},
        {"input": ["a", "b c"], "encoding_format": "base64"},
        {"input": [1, 2]},
        {"input": [[1, 2], [3]]},
        {"input": ""},
        {"input": "a " * 3000, "truncate_prompt_tokens": -1},
        {"input": ["a " * 3000, "b"], "truncate_prompt_tokens": 3},
        {"input": ["a " * 3000, "b"], "truncate_prompt_tokens": 512, "encoding_format": "base64"},
        {"input": "a", "stream": True, "made_up_field": 1},
    ],
    ids=["text", "base64", "ids", "lists of ids", "empty", "truncated", "cut", "cut at the limit", "unknown fields"],
)
def test_embeddings(embedder: Pair, fields: dict[str, Any]) -> None:
    for answer in embedder.ask(EMBEDDINGS, **fields):
        vector = answer.json()["data"][0]["embedding"]
        if isinstance(vector, list):
            assert sum(value * value for value in vector) == pytest.approx(1.0, abs=1e-3)


def test_texts_are_embedded_with_a_token_at_either_end_and_cut_between_them(embedder: Pair) -> None:
    for answer in embedder.ask("/tokenize", prompt=""):
        assert answer.json()["count"] == 2
    for cut in (1, 2, 3):
        answers = embedder.ask(EMBEDDINGS, input=["", "why is the sky blue"], truncate_prompt_tokens=cut)
        assert [answer.json()["usage"]["prompt_tokens"] for answer in answers] == [min(2, cut) + cut] * 2
    for answer in embedder.ask(EMBEDDINGS, input=["why is", "why"], truncate_prompt_tokens=3):
        long, short = (item["embedding"] for item in answer.json()["data"])
        if "simulated" not in answer.headers.get("server", ""):  # whose words are not these
            assert long == pytest.approx(short, abs=1e-2)


def test_a_vector_without_the_activation_has_a_length_of_its_own(embedder: Pair) -> None:
    for answer in embedder.ask(EMBEDDINGS, input="why is the sky blue", use_activation=False):
        vector = answer.json()["data"][0]["embedding"]
        assert sum(value * value for value in vector) != pytest.approx(1.0, abs=1e-2)


def test_tokens(chat: Pair) -> None:
    chat.ask("/tokenize", prompt="Hello there")
    chat.ask("/tokenize", **QUESTION, return_token_strs=True)
    chat.ask("/detokenize", tokens=[1, 2, 3])
    for answer in chat.ask("/detokenize", tokens=[999_999]):
        assert answer.json() == {"prompt": ""}
    for tokens in ([2**32], [-1]):
        chat.ask("/detokenize", tokens=tokens)


@pytest.mark.parametrize(
    "fields", [{}, NO_THINKING, WEATHER, {"return_token_strs": True}], ids=lambda fields: "-".join(fields) or "default"
)
def test_tokens_of_a_chat_are_those_that_its_prompt_has(thinker: Pair, fields: dict[str, Any]) -> None:
    """What shortening counts is what the request is then measured by."""
    for counted, url in zip(
        thinker.ask("/tokenize", **QUESTION | fields), (thinker.real, thinker.simulated), strict=True
    ):
        body = {"model": thinker.model, "max_tokens": 1, "return_token_ids": True, **QUESTION, **fields}
        answer = thinker.send(url, "POST", CHAT, body, None).json()
        assert answer["prompt_token_ids"] == counted.json()["tokens"]
        assert counted.json()["max_model_len"] == thinker.context


def test_tokens_of_more_than_the_context_holds_are_counted_all_the_same(thinker: Pair) -> None:
    long = {"messages": [{"role": "user", "content": "hello " * 20000}]}
    for answer in thinker.ask("/tokenize", **long):
        assert answer.json()["count"] > 2 * thinker.context


def test_ids_are_cut_to_their_last_ones_too(thinker: Pair) -> None:
    fields = {"prompt": [5] * 5000, "truncate_prompt_tokens": 1000, "max_tokens": 3, "ignore_eos": True}
    for answer in thinker.ask(COMPLETIONS, **fields):
        assert answer.json()["usage"]["prompt_tokens"] == 1000


def test_text_of_tokens_has_the_markup(thinker: Pair) -> None:
    for url in (thinker.real, thinker.simulated):
        tokens = thinker.send(url, "POST", "/tokenize", {"model": thinker.model, **QUESTION}, None).json()["tokens"]
        text = thinker.send(url, "POST", "/detokenize", {"model": thinker.model, "tokens": tokens}, None).json()[
            "prompt"
        ]
        assert text == "<|im_start|>user\nWhat is 2+2?<|im_end|>\n<|im_start|>assistant\n"


def test_a_completion_of_a_rendered_prompt_thinks_in_its_text(thinker: Pair) -> None:
    for url in (thinker.real, thinker.simulated):
        tokens = thinker.send(url, "POST", "/tokenize", {"model": thinker.model, **QUESTION}, None).json()["tokens"]
        body = {"model": thinker.model, "prompt": tokens, "max_tokens": 500, "temperature": 0}
        text = thinker.send(url, "POST", COMPLETIONS, body, None).json()["choices"][0]["text"]
        assert text.lstrip().startswith("<think>")
        assert "</think>" in text


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("path", [CHAT, COMPLETIONS])
@pytest.mark.parametrize("words", [3000, 60000], ids=["too many tokens", "too many characters"])
def test_a_prompt_is_cut_to_its_last_tokens_however_long_it_is(
    thinker: Pair, path: str, words: int, stream: bool
) -> None:
    text = "hello " * words
    prompt: dict[str, Any] = {"messages": [{"role": "user", "content": text}]} if path == CHAT else {"prompt": text}
    how = {"stream": True, **USAGE, **NO_THINKING} if stream else NO_THINKING
    for answer in thinker.ask(path, **prompt, truncate_prompt_tokens=1000, max_tokens=3, ignore_eos=True, **how):
        body = answer.text.split("data: ")[-2] if stream else answer.text
        assert json.loads(body)["usage"]["prompt_tokens"] == 1000


@pytest.mark.parametrize("path", ["/health", "/ping", "/version", "/load", "/v1/models"])
def test_what_a_server_tells(chat: Pair, path: str) -> None:
    chat.compare(path, method="GET")


SAMPLE = re.compile(r"^([\w:]+)(?:\{(.*)\})? \S+$")
READ = {
    "vllm:num_requests_running",
    "vllm:num_requests_waiting",
    "vllm:kv_cache_usage_perc",
    "vllm:engine_sleep_state",
    "vllm:generation_tokens_total",
    "vllm:prompt_tokens_total",
    "vllm:request_success_total",
    "vllm:admission_rejections_total",
    "vllm:time_to_first_token_seconds_bucket",
    "vllm:e2e_request_latency_seconds_sum",
    "vllm:request_queue_time_seconds_count",
    "vllm:cache_config_info",
    "http_requests_total",
}
"""What the project, its dashboards and its documentation read."""


def samples(url: str) -> dict[str, set[str]]:
    """Names of the samples on a /metrics page, and the names of their labels."""
    page = httpx.get(f"{url}/metrics", trust_env=False)
    assert page.headers["content-type"].startswith("text/plain")
    found: dict[str, set[str]] = {}
    for match in filter(None, map(SAMPLE.match, page.text.splitlines())):
        found.setdefault(match[1], set()).update(re.findall(r'(\w+)="', match[2] or ""))
    return found


def test_metrics_have_vllms_names_and_labels(chat: Pair) -> None:
    chat.ask(CHAT, **QUESTION, max_tokens=2)
    real, simulated = samples(chat.real), samples(chat.simulated)
    assert set(real) >= READ
    assert set(simulated) >= READ
    assert set(simulated) - set(real) == set(), "names that vLLM does not have"
    for name, labels in simulated.items():
        assert labels <= real[name], name
        assert name == "vllm:cache_config_info" or labels == real[name], name


# --- errors ---

BAD_SAMPLING: list[dict[str, Any]] = [
    {"max_tokens": 0},
    {"max_tokens": 100000},
    {"temperature": 2.5},
    {"temperature": -0.1},
    {"top_p": 0},
    {"top_p": 1.2},
    {"top_k": -2},
    {"top_k": 40.5},
    {"min_p": 2},
    {"repetition_penalty": 0},
    {"presence_penalty": 3},
    {"frequency_penalty": -3},
    {"seed": 1.5},
    {"seed": 2**63},
    {"stop": list("abcde")},
    {"stop": [""]},
    {"n": 0},
    {"n": 2, "temperature": 0},
    {"min_tokens": 5, "max_tokens": 2},
    {"stream_options": {"include_usage": True}},
    {"stream": "maybe"},
    {"truncate_prompt_tokens": -2},
    {"truncate_prompt_tokens": 0},
    {"truncate_prompt_tokens": 100000},
    {"response_format": {"type": "json_schema"}},
    {"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "nope"}}}},
]
BAD_CHAT: list[dict[str, Any]] = [
    {"logprobs": True, "top_logprobs": 21},
    {"top_logprobs": 2},
    {"tools": []},
    {"tool_choice": "auto"},
    {**WEATHER},
    {**WEATHER, "tool_choice": "required"},
    {**WEATHER, "tool_choice": {"type": "function", "function": {"name": "nope"}}},
    {"messages": []},
    {"messages": "x"},
    {"messages": [{"role": "user", "content": None}]},
    {"messages": [{"content": "x"}]},
    {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:,x"}}]}]},
    {"reasoning_effort": "bogus"},
    {"chat_template": "x"},
    {"continue_final_message": True, "add_generation_prompt": True},
]


def name(fields: Any) -> str:
    return str(fields).replace(" ", "")[:60]


def refused(answer: httpx.Response) -> bool:
    """With a 400: of its own, or inside the 200 of a stream, as vLLM does where its engine finds the fault."""
    return answer.status_code == 400 or '"code": 400' in answer.text


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("fields", [*BAD_SAMPLING, *BAD_CHAT], ids=name)
def test_bad_chat_requests(chat: Pair, fields: dict[str, Any], stream: bool) -> None:
    body = {"model": chat.model, **QUESTION, **({"stream": True} if stream else {}), **fields}
    real, _ = chat.compare(CHAT, body)
    assert refused(real) or "stream_options" in fields  # which are good where the request streams


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    "fields",
    [
        *BAD_SAMPLING,
        {"suffix": "x"},
        {"prompt": [99999999]},
        {"prompt": None},
        {"prompt": ""},
        {"prompt": []},
        {"logprobs": 21},
    ],
    ids=name,
)
def test_bad_completions(chat: Pair, fields: dict[str, Any], stream: bool) -> None:
    body = {"model": chat.model, "prompt": "hi", **({"stream": True} if stream else {}), **fields}
    real, _ = chat.compare(COMPLETIONS, body)
    assert refused(real) or "stream_options" in fields


@pytest.mark.parametrize(
    "fields",
    [
        {"input": []},
        {"input": None},
        {"input": 5},
        {},
        {"input": "x", "dimensions": 3},
        {"input": "x", "dimensions": 0},
        {"input": "x", "encoding_format": "x"},
        {"input": "x", "truncate_prompt_tokens": 0},
        {"input": "x", "truncate_prompt_tokens": -2},
        {"input": "x", "truncate_prompt_tokens": 513},
        {"input": ["x", 5]},
    ],
    ids=name,
)
def test_bad_embeddings(embedder: Pair, fields: dict[str, Any]) -> None:
    embedder.compare(EMBEDDINGS, {"model": embedder.model, **fields})


@pytest.mark.parametrize("path", [CHAT, COMPLETIONS, "/tokenize", "/detokenize"])
def test_unknown_models(chat: Pair, path: str) -> None:
    real, _ = chat.compare(path, {"model": "nope", **QUESTION, "prompt": "x", "tokens": [1]})
    assert real.status_code == 404


def test_an_unknown_embedding_model(embedder: Pair) -> None:
    embedder.compare(EMBEDDINGS, {"model": "nope", "input": "x"})


@pytest.mark.parametrize("stream", [False, True])
def test_prompts_that_are_too_long(chat: Pair, stream: bool) -> None:
    """Three words for it: too many tokens of text, too many characters, too many ids."""
    for words in (2500, 200_000):
        chat.ask(CHAT, messages=[{"role": "user", "content": "hi " * words}], stream=stream)
    real, _ = chat.ask(COMPLETIONS, prompt=[5] * 3000, stream=stream)
    assert real.status_code == 400


def test_texts_that_are_too_long_to_embed(embedder: Pair) -> None:
    for given in ("hi " * 200_000, "hi " * 600, ["hi", "hi " * 600], [5] * 600):
        real, _ = embedder.ask(EMBEDDINGS, input=given)
        assert real.status_code == 400


@pytest.mark.parametrize("body", [b"{bad json", b"[]", b"", b'"x"'])
def test_bodies_that_are_no_object(chat: Pair, body: bytes) -> None:
    chat.compare(CHAT, body)


def test_other_content_types(chat: Pair) -> None:
    chat.compare(CHAT, b"{}", headers={"content-type": "text/plain"})
    chat.compare(
        CHAT,
        {"model": chat.model, **QUESTION, "max_tokens": 1},
        headers={"content-type": "application/json; charset=utf-8"},
    )


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/nope"),
        ("GET", CHAT),
        ("PUT", "/v1/models"),
        ("HEAD", "/health"),
        ("POST", EMBEDDINGS),
        ("POST", "/sleep"),
    ],
)
def test_routes_and_methods_that_are_not_there(chat: Pair, method: str, path: str) -> None:
    chat.compare(path, None if method in ("GET", "HEAD") else {}, method=method)


def test_an_embedding_server_has_no_chat(embedder: Pair) -> None:
    real, _ = embedder.compare(CHAT, {"model": embedder.model, **QUESTION})
    assert (real.status_code, real.json()) == (404, {"detail": "Not Found"})


# --- clients that leave ---


def fresh(pair: Pair | None = None) -> httpx.AsyncClient:
    """A client that keeps no connection: a server closes idle ones, and httpx may send on one that is closing."""
    limits = httpx.Limits(max_keepalive_connections=0)
    return httpx.AsyncClient(trust_env=False, timeout=60.0, headers=pair and pair.headers, limits=limits)


async def running(client: httpx.AsyncClient, url: str, *, waiting: bool = False) -> int:
    """Requests that run, and those that wait where they are wanted too."""
    page = (await client.get(f"{url}/metrics")).text
    kinds = ["running", *(["waiting"] if waiting else [])]
    counts = [re.search(rf"^vllm:num_requests_{kind}\{{.*\}} (\S+)$", page, re.MULTILINE) for kind in kinds]
    return sum(int(float(count[1])) for count in counts if count is not None)


@pytest.mark.parametrize("stream", [True, False])
async def test_a_client_that_leaves_frees_its_sequence(chat: Pair, stream: bool) -> None:
    """On both: the sequence runs, the socket closes, and it is gone well within a second."""
    body = {"model": chat.model, **QUESTION, "max_tokens": 1500, "ignore_eos": True, "stream": stream}
    async with fresh() as watcher:
        for url in (chat.real, chat.simulated):
            await auntil(lambda url=url: _is(running(watcher, url), 0), 10.0, "an idle server")
            async with fresh() as client:
                asked = asyncio.create_task(client.post(url + CHAT, json=body))
                await auntil(lambda url=url: _is(running(watcher, url), 1), 10.0, "the running sequence")
                asked.cancel()
                await asyncio.gather(asked, return_exceptions=True)
            await auntil(lambda url=url: _is(running(watcher, url), 0), 1.0, "the sequence's end")


async def _is(value: Any, wanted: int) -> bool:
    return bool(await value == wanted)


# --- a server with limits, keys, sleep and an end ---

KEY = "a-key"
LIMIT = 4


@pytest.fixture(scope="module")
def strict_spec(smollm2: Path, tmp_path_factory: pytest.TempPathFactory) -> Spec:
    """SmolLM2 without its chat template, and with one slot: requests take long enough to be seen, one by one.

    (A tiny model's engine is done long before its HTTP server has sent the first token.)
    """
    folder = tmp_path_factory.mktemp("strict")
    for file in smollm2.iterdir():
        if file.name != "chat_template.jinja":
            (folder / file.name).symlink_to(file)
    limits = ("--max-num-queued-reqs", str(LIMIT), "--max-num-seqs", "1", "--shutdown-timeout", "60")
    flags = ("--api-key", KEY, *limits, "--enable-server-load-tracking")
    return Spec("strict", folder, flags, (("VLLM_SERVER_DEV_MODE", "1"),))


@pytest.fixture
def strict_vllm(servers: Servers, strict_spec: Spec) -> VllmServer:
    return servers.get(strict_spec, own=True)


@pytest.fixture
def strict(simulate: Simulate, strict_vllm: VllmServer) -> Pair:
    return simulate(strict_vllm, ("--no-chat-template",))


LONG = {"prompt": "one two", "ignore_eos": True, "stream": True}


@pytest.mark.parametrize("given", ["", "Bearer wrong", KEY])
def test_keys(strict: Pair, given: str) -> None:
    real, _ = strict.compare("/v1/models", method="GET", headers={"authorization": given})
    assert (real.status_code, real.json()) == (401, {"error": "Unauthorized"})
    strict.compare(COMPLETIONS, {"prompt": "x"}, headers={"authorization": given})


def test_routes_that_need_no_key(strict: Pair) -> None:
    for path in ("/health", "/version", "/load", "/is_sleeping"):
        strict.compare(path, method="GET", headers={"authorization": ""})


@pytest.mark.parametrize("stream", [True, False])
def test_a_model_without_a_template_cannot_chat(strict: Pair, stream: bool) -> None:
    real, _ = strict.ask(CHAT, **QUESTION, stream=stream)
    assert real.status_code == 400
    strict.ask("/tokenize", **QUESTION)
    strict.ask(COMPLETIONS, prompt="one two", max_tokens=3, stream=stream)


async def burst(pair: Pair, url: str) -> dict[str, Any]:
    """The shapes of the answers to many requests at once, by kind."""
    body = {"model": pair.model, **LONG, "max_tokens": 30}
    async with fresh(pair) as client:
        answers = await asyncio.gather(*(client.post(url + COMPLETIONS, json=body) for _ in range(4 * LIMIT)))
    found: dict[str, Any] = {}
    for answer in answers:
        kind = "plain" if answer.status_code != 200 else "inside" if '"code": 503' in answer.text else "served"
        found[kind] = shapes.of_response(answer)
    return found


async def test_admission_refuses_plainly_and_inside_a_stream(strict: Pair) -> None:
    """Which of both is chance, on real vLLM: ask again until both were seen."""
    seen: dict[str, dict[str, Any]] = {}
    for url in (strict.real, strict.simulated):
        seen[url] = {}
        for _ in range(10):
            seen[url] |= await burst(strict, url)
            if "inside" in seen[url] and "served" in seen[url]:
                break
    real, simulated = seen[strict.real], seen[strict.simulated]
    assert {"inside", "served"} <= set(real) & set(simulated)
    for kind in set(real) & set(simulated):
        assert not shapes.difference(real[kind], simulated[kind]), shapes.difference(real[kind], simulated[kind])


class Reading:
    """A stream whose beginning was read, so that it is known to run. It is not read on until `rest`: reading many
    tokens would keep this process from asking anything else."""

    def __init__(self, response: httpx.Response) -> None:
        self.response = response
        self._text = response.aiter_text()
        self._first = ""

    async def begin(self) -> None:
        self._first = await anext(self._text)

    async def rest(self) -> list[Any]:
        """Reads to the end. Returns the shapes of the last two events."""
        return shapes.classify_stream_failure("".join([self._first, *[part async for part in self._text]]))[-2:]


async def fill(
    client: httpx.AsyncClient, pair: Pair, url: str, count: int, tokens: int = 1500, then: int = 1500
) -> list[Reading]:
    """Streams: the first one runs, for so many tokens, and the others wait for the one slot, each for `then` tokens."""
    bodies = [{"model": pair.model, **LONG, "max_tokens": each} for each in (tokens, *[then] * (count - 1))]
    asked = [client.build_request("POST", url + COMPLETIONS, json=body) for body in bodies]
    first = Reading(await client.send(asked[0], stream=True))
    await first.begin()
    others = [Reading(await client.send(each, stream=True)) for each in asked[1:]]
    await auntil(lambda: _is(running(client, url, waiting=True), count), 10.0, "all in the engine")
    return [first, *others]


async def test_admission_refuses_plainly_where_the_engine_is_full(strict: Pair) -> None:
    refused: list[httpx.Response] = []
    async with fresh(strict) as client:
        for url in (strict.real, strict.simulated):
            streams = await fill(client, strict, url, LIMIT)

            async def refuses(url: str = url) -> bool:
                refused.append(await client.post(url + COMPLETIONS, json={"model": strict.model, "prompt": "x"}))
                return refused[-1].status_code == 503

            await auntil(refuses, 5.0, "a refusal")
            assert (await client.get(url + "/load")).json()["server_load"] >= LIMIT
            for stream in streams:
                await stream.response.aclose()
            await auntil(lambda url=url: _is(running(client, url, waiting=True), 0), 5.0, "an idle engine")
    real, simulated = (shapes.of_response(answer) for answer in refused if answer.status_code == 503)
    assert not shapes.difference(real, simulated), shapes.difference(real, simulated)


async def test_sleep(strict: Pair) -> None:
    """Sleep aborts what runs, which then ends as if by itself, and what waits, which ends without a word; what
    comes later waits for the awakening."""
    strict.compare("/sleep?level=3")
    endings = []
    async with fresh(strict) as client:
        for url in (strict.real, strict.simulated):
            streams = await fill(client, strict, url, LIMIT - 1)
            slept = await client.post(url + "/sleep?level=1")
            assert slept.json() == {"status": "sleeping", "level": 1}
            endings.append([await stream.rest() for stream in streams])
            assert (await client.get(url + "/is_sleeping")).json() == {"is_sleeping": True}
            assert 'sleep_state="awake"} 0.0' in (await client.get(url + "/metrics")).text
            held = asyncio.create_task(client.post(url + COMPLETIONS, json={"prompt": "x", "max_tokens": 1}))
            assert (await client.get(url + "/health")).status_code == 200
            assert (await client.post(url + "/wake_up")).json() == {"status": "awake", "tags": None}
            assert (await held).status_code == 200
    real = endings[0]
    assert real[0][0]["choices"][0]["finish_reason"] == "abort"
    assert real[1:] == [["DONE"]] * (LIMIT - 2)
    assert not shapes.difference(*endings), shapes.difference(*endings)


async def test_draining(strict: Pair, strict_vllm: VllmServer) -> None:
    """Last of this server: SIGTERM lets the accepted requests end and refuses new ones, with health still good."""
    refused: list[httpx.Response] = []
    assert strict_vllm.process is not None
    async with fresh(strict) as client:
        for url in (strict.real, strict.simulated):
            streams = await fill(client, strict, url, LIMIT - 1, tokens=500 if url == strict.real else 1000, then=10)
            if url == strict.real:
                strict_vllm.process.send_signal(signal.SIGTERM)
            else:
                await client.post(url + "/simulated/faults", json={"kind": "draining"})
            short = {"model": strict.model, "prompt": "x", "max_tokens": 1}

            async def refuses(url: str = url, short: dict[str, Any] = short) -> bool:
                answer, health = await asyncio.gather(
                    client.post(url + COMPLETIONS, json=short), client.get(url + "/health")
                )
                refused.append(answer)
                assert health.status_code == 200
                return answer.status_code == 500

            await auntil(refuses, 5.0, "a refusal")
            for stream in streams:
                assert (await stream.rest())[0]["choices"][0]["finish_reason"] == "length"
    real, simulated = (shapes.of_response(answer) for answer in refused if answer.status_code == 500)
    assert not shapes.difference(real, simulated), shapes.difference(real, simulated)


async def test_a_dead_engine(simulate: Simulate, doomed_tiny_qwen3: VllmServer) -> None:
    """The engine is killed: new requests get a 500 until the server has gone too."""
    server = doomed_tiny_qwen3
    pair = simulate(server)
    body = {"model": pair.model, **QUESTION, "max_tokens": 3}
    real: list[httpx.Response] = []
    async with fresh() as client:
        server.engine().kill()

        async def fails() -> bool:
            real.append(await client.post(pair.real + CHAT, json=body))
            return real[-1].status_code == 500

        await auntil(fails, 5.0, "a 500 of the dead engine")
        await client.post(pair.simulated + "/simulated/faults", json={"kind": "dead"})
        simulated = await client.post(pair.simulated + CHAT, json=body)
        assert (await client.get(pair.simulated + "/health")).status_code == 503
        await client.delete(pair.simulated + "/simulated/faults")
    found = shapes.difference(shapes.of_response(real[-1]), shapes.of_response(simulated))
    assert not found, found
    until(lambda: not server.alive, 20.0, "the server's end")
