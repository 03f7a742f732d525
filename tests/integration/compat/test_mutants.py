"""Mutation tests of the checks: each mutant changes one detail of the router's responses."""

from __future__ import annotations

import itertools
import json
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import pytest
import pytest_asyncio

from tests.support.fleet.described import described_fleet
from vllama_pool.router.compat.checks import CHECKS
from vllama_pool.router.compat.models import ModelChoice, choose, parse_tags
from vllama_pool.router.compat.report import by_rule
from vllama_pool.router.compat.rules import RULES
from vllama_pool.router.compat.runner import Result, run
from vllama_pool.router.compat.server import CheckedServer
from vllama_pool.router.compat.wire import RawResponse, ServerUrl, parse_url

pytestmark = pytest.mark.asyncio(loop_scope="module")
Change = Callable[[RawResponse], RawResponse]


@dataclass(frozen=True)
class Mutant:
    """A server that differs from Ollama in one detail."""

    name: str
    rules: set[int]
    """Must differ."""
    change: Change
    path: str = ""
    """Path of the changed responses; "" for all."""


def header(name: str, value: str, only: str = "") -> Change:
    """`only`: part of the content type of changed responses."""

    def change(response: RawResponse) -> RawResponse:
        if only not in (response.header("content-type") or ""):
            return response
        kept = tuple(pair for pair in response.headers if pair[0] != name)
        return replace(response, headers=(*kept, (name, value)))

    return change


def body(change: Callable[[bytes], bytes], only: str = "") -> Change:
    def changed(response: RawResponse) -> RawResponse:
        return (
            replace(response, body=change(response.body))
            if only in (response.header("content-type") or "")
            else response
        )

    return changed


def text(old: str, new: str) -> Change:
    return body(lambda data: data.replace(old.encode(), new.encode()))


def objects(change: Callable[[dict[str, Any]], object]) -> Change:
    """Change each JSON object in place, also in streams."""

    def each(line: bytes) -> bytes:
        found = json.loads(line)
        change(found)
        return json.dumps(found, separators=(",", ":")).encode()

    def changed(response: RawResponse) -> RawResponse:
        if "json" not in (response.header("content-type") or "") or not response.body:
            return response
        end = b"\n" if response.body.endswith(b"\n") else b""
        return replace(response, body=b"\n".join(each(line) for line in response.body.splitlines()) + end)

    return changed


def without(*keys: str) -> Change:
    return objects(lambda found: [found.pop(key, None) for key in keys])


def with_(**fields: Any) -> Change:
    """Replace values of present keys."""
    return objects(lambda found: found.update({key: value for key, value in fields.items() if key in found}))


def in_models(**fields: Any) -> Change:
    return objects(lambda found: [item.update(fields) for item in found.get("models", ())])


def call_arguments_as_text(found: dict[str, Any]) -> None:
    for call in (found.get("message") or {}).get("tool_calls", ()):
        call["function"]["arguments"] = json.dumps(call["function"]["arguments"])


def errors_of_openai(found: dict[str, Any]) -> None:
    if "error" in found:
        found["error"] = {"message": found["error"]}


def stretched(found: dict[str, Any]) -> None:
    found["embeddings"] = [[2 * number for number in vector] for vector in found.get("embeddings", ())]


def in_milliseconds(found: dict[str, Any]) -> None:
    for key in [key for key in found if key.endswith("_duration")]:
        found[key] = found[key] / 1e6


def thinking_in_content(found: dict[str, Any]) -> None:
    message = found.get("message") or {}
    if "thinking" in message:
        message["content"] = f"<think>{message.pop('thinking')}</think>{message['content']}"


def in_document(change: Callable[[dict[str, Any]], dict[str, Any]]) -> Change:
    """Change each JSON object that is an answer of generate."""

    def each(found: dict[str, Any]) -> None:
        if str(found.get("response", "")).startswith("{"):
            found["response"] = json.dumps(change(json.loads(found["response"])))

    return objects(each)


def spaced(found: dict[str, Any]) -> None:
    if "response" in found:
        found["response"] = found["response"].replace(": ", ":" + " " * 30).replace("[", "[" + " " * 30)


def closed_turn(found: dict[str, Any]) -> None:
    if "_debug_info" in found:
        found["_debug_info"]["rendered_template"] += "<|im_end|>\n<|im_start|>assistant\n"


def one_of_two_clocks() -> Change:
    """Every second response tells another expiry."""
    years = itertools.cycle(("2030", "2031"))

    def change(found: dict[str, Any]) -> None:
        year = next(years)
        for item in found.get("models", ()):
            item["expires_at"] = f"{year}-01-01T00:00:00Z"

    return objects(change)


def status(old: int, new: int) -> Change:
    return lambda response: replace(response, status=new) if response.status == old else response


NDJSON = "x-ndjson"
MUTANTS = (
    Mutant("a banner with a newline", {1, 2}, body(lambda data: data + b"\n"), "/"),
    Mutant("a version of a build", {4}, text('"version":"', '"version":"v'), "/api/version"),
    Mutant("streams with a charset", {44}, header("content-type", "application/x-ndjson; charset=utf-8", NDJSON)),
    Mutant("streams as events", {44}, body(lambda data: b"data: " + data, NDJSON)),
    Mutant("blank lines in streams", {44}, body(lambda data: data.replace(b"\n", b"\n\n"), NDJSON)),
    Mutant("one chunk and no newline", {44}, body(lambda data: data.rstrip(b"\n"), NDJSON)),
    Mutant("JSON without a charset", {40}, header("content-type", "application/json", "json;")),
    Mutant("a newline after JSON", {40, 88}, body(lambda data: data + b"\n", "json;")),
    Mutant("local times", {41}, text('Z","', '+00:00","')),
    Mutant("milliseconds", {42, 70}, objects(in_milliseconds)),
    Mutant("no durations", {70}, without("load_duration")),
    Mutant("a name of its own", {45, 88}, with_(model="other:latest"), "/api/generate"),
    Mutant("no context", {54, 67}, without("context")),
    Mutant("no created_at", {88}, without("created_at")),
    Mutant("loads with metrics", {50, 71, 88}, objects(lambda found: found.update(eval_count=1))),
    Mutant("a reason of OpenAI's", {83}, text('"done_reason":"stop"', '"done_reason":"tool_calls"')),
    Mutant("arguments as text", {81, 82}, objects(call_arguments_as_text), "/api/chat"),
    Mutant("calls with a type", {81}, text('"function":{', '"type":"function","function":{'), "/api/chat"),
    Mutant("null in place of no text", {24, 84}, text('"content":""', '"content":null'), "/api/chat"),
    Mutant("thinking in the text", {84, 95}, objects(thinking_in_content), "/api/chat"),
    Mutant("errors of OpenAI's kind", {146, 147, 148, 153, 158}, objects(errors_of_openai)),
    Mutant("errors under detail", {146, 150, 151}, text('{"error":', '{"detail":')),
    Mutant("400 for what is not found", {148}, status(404, 400)),
    Mutant("400 for a wrong option", {127, 153}, status(500, 400)),
    Mutant("404 for a wrong method", {36}, status(405, 404)),
    Mutant("digests with their kind", {174}, text('"digest":"', '"digest":"sha256:'), "/api/tags"),
    Mutant("no capabilities", {176}, in_models(capabilities=None), "/api/tags"),
    Mutant("no sizes", {175}, in_models(size=0), "/api/tags"),
    Mutant("names without tags", {173}, text(':latest"', '"'), "/api/tags"),
    Mutant("times in seconds", {9, 41}, in_models(modified_at=1700000000), "/api/tags"),
    Mutant("more on the GPU than there is", {22, 175}, in_models(size_vram=10**15), "/api/ps"),
    Mutant("nothing is loaded", {22, 93}, with_(models=[]), "/api/ps"),
    Mutant("no model_info", {10, 111}, with_(model_info=None), "/api/show"),
    Mutant("no capabilities shown", {10, 176}, without("capabilities"), "/api/show"),
    Mutant("a basename of its own", {110}, text('"general.basename":"plain', '"general.basename":"base-'), "/api/show"),
    Mutant("OpenAI's models by time", {117}, text('"created":', '"created":1'), "/v1/models"),
    Mutant("OpenAI's models by another name", {30}, text('"id":"', '"id":"x'), "/v1/models"),
    Mutant("chats by another name", {27, 45}, with_(model="other:latest"), "/v1/chat/completions"),
    Mutant("chats without choices", {27, 114}, with_(choices=[]), "/v1/chat/completions"),
    Mutant("completions like chats", {28, 115}, with_(object="chat.completion"), "/v1/completions"),
    Mutant("no vectors of OpenAI's", {29, 116}, with_(data=[]), "/v1/embeddings"),
    Mutant("responses without output", {32, 118}, without("output"), "/v1/responses"),
    Mutant("transcriptions without text", {33, 119}, without("text"), "/v1/audio/transcriptions"),
    Mutant("messages without blocks", {34, 121, 122, 123, 125}, without("content"), "/v1/messages"),
    Mutant("messages with all they lack", {120}, status(400, 200), "/v1/messages"),
    Mutant("events as JSON", {114, 115, 118, 124}, header("content-type", "application/json", "event-stream")),
    Mutant("no end of /v1's streams", {114, 115}, text("data: [DONE]\n\n", "")),
    Mutant("events of /v1 without names", {118, 124}, text("event: ", "x: ")),
    Mutant("vectors of any length", {99}, objects(stretched), "/api/embed"),
    Mutant("no vectors", {25, 100}, with_(embeddings=[]), "/api/embed"),
    Mutant("a server's name", {180}, header("server", "uvicorn")),
    Mutant("every origin by its name", {181}, header("vary", "Accept")),
    Mutant("compressed", {178}, header("content-encoding", "gzip")),
    Mutant("pulls that only end", {6, 103}, body(lambda data: data.splitlines(keepends=True)[-1], NDJSON), "/api/pull"),
    Mutant("a closed last message", {214}, objects(closed_turn), "/api/chat"),
    Mutant("chats refused", {215, 216}, status(200, 400), "/api/chat"),
    Mutant("schemas refused", {217, 218}, status(200, 400), "/api/generate"),
    Mutant("no tokens without a limit", {217}, with_(response="", done_reason="length"), "/api/generate"),
    Mutant("keys of its own", {218, 219}, in_document(lambda found: {**found, "age": 22}), "/api/generate"),
    Mutant(
        "required keys last", {220}, in_document(lambda found: dict(reversed(list(found.items())))), "/api/generate"
    ),
    Mutant("wide answers", {222}, objects(spaced), "/api/generate"),
    Mutant("an expiry per process", {223}, one_of_two_clocks(), "/api/ps"),
    Mutant("words of its own decoder", {224}, text("json: cannot unmarshal", "Expected another type")),
    Mutant("deletions that talk", {11}, body(lambda data: data or b"{}"), "/api/delete"),
)


class MutatedServer(CheckedServer):
    def __init__(self, at: ServerUrl, models: ModelChoice, mutant: Mutant) -> None:
        super().__init__(at, models, timeout=20, idle_seconds=0.2)
        self._mutant = mutant

    async def send(
        self, method: str, path: str, body: Any = None, *, headers: Mapping[str, str] | None = None
    ) -> RawResponse:
        response = await super().send(method, path, body, headers=headers)
        return self._mutant.change(response) if self._mutant.path in ("", path) else response


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def described(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[tuple[ServerUrl, ModelChoice]]:
    """URL of the router, and models."""
    async with described_fleet(tmp_path_factory.mktemp("state")) as running:
        yield parse_url(running.url), choose(parse_tags((await running.http.get("/api/tags")).json()), ModelChoice())


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
async def test_every_rule_of_a_mutant_differs(described: tuple[ServerUrl, ModelChoice], mutant: Mutant) -> None:
    checks = [check for check in CHECKS if check.rules & mutant.rules]
    rows = by_rule(await run(MutatedServer(*described, mutant), checks), RULES)
    assert mutant.rules - {row.rule.number for row in rows if row.result is Result.DIFFERS} == set()
