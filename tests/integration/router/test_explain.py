"""A running router explains what it does with the next request."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
import pytest_asyncio
from click.testing import CliRunner, Result

from tests.support.fleet.live import Fleet, fleet
from tests.support.tables import routing_table
from vllama_pool.router.cli.main import main
from vllama_pool.router.routing.explain import Explanation
from vllama_pool.workers.simulated.options import Options

WORKERS = {name: Options(model=name, tokens_per_second=2000, ttft=0.0, answer_tokens=2, slots=64) for name in "xy"}
TABLE = routing_table(
    models={
        "sticky": {"serve": ["x", "y"], "split": "user", "aliases": ["helper"]},
        "drawn": {"serve": ["x", "y"]},
        "by-header": {"serve": ["x", "y"], "split": "header:x-side"},
        "talk": {"serve": ["x", "y"], "split": "conversation"},
    },
    keys={"ci": {"sha256": "0" * 64, "models": ["drawn"]}},
)
pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def running(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Fleet]:
    folder = tmp_path_factory.mktemp("state")
    async with fleet(folder, WORKERS, table=TABLE, allow_anonymous=True) as one:
        yield one


async def explain(running: Fleet, **question: Any) -> Explanation:
    answer = await running.http.post("/admin/explain", json=question)
    assert answer.status_code == 200, answer.text
    return msgspec.json.decode(answer.content, type=Explanation)


async def chat(running: Fleet, model: str, headers: dict[str, str], text: str = "hi") -> str:
    """Return the worker that answers."""
    body = {"model": model, "messages": [{"role": "user", "content": text}], "stream": False}
    request_id = f"{model}-{len(running.records())}"
    answer = await running.http.post("/api/chat", json=body, headers={"x-request-id": request_id, **headers})
    assert answer.status_code == 200
    return str((await running.record(request_id))["worker"])


async def test_a_users_side_is_the_one_that_its_requests_take(running: Fleet) -> None:
    sides = set()
    for number in range(20):
        user = f"user-{number}"
        explanation = await explain(running, model="helper", user=user)
        assert await chat(running, "helper", {"x-user-id": user}) == explanation.chosen
        sides.add(explanation.chosen)
    assert sides == {"x", "y"}


async def test_headers_decide_as_they_do_in_a_request(running: Fleet) -> None:
    for side in ("a", "b", "c", "d"):
        explanation = await explain(running, model="by-header", headers={"X-Side": side})
        assert await chat(running, "by-header", {"x-side": side}) == explanation.chosen


async def test_a_body_decides_as_it_does_in_a_request(running: Fleet) -> None:
    for text in ("one", "two", "three", "four"):
        body = {"model": "talk", "messages": [{"role": "user", "content": text}]}
        explanation = await explain(running, body=body)
        assert explanation.requested == "talk"
        assert explanation.identity
        assert await chat(running, "talk", {}, text) == explanation.chosen
        as_openai = await explain(running, operation="v1 chat", body=body)
        assert as_openai.identity == explanation.identity


async def test_a_get_explains_a_name(running: Fleet) -> None:
    answer = await running.http.get("/admin/explain", params={"model": "helper", "user": "anna"})
    assert msgspec.json.decode(answer.content, type=Explanation).rule == (await explain(running, model="helper")).rule


async def test_a_key_sees_only_its_models(running: Fleet) -> None:
    assert (await explain(running, model="drawn", key="ci")).outcome == "routed"
    hidden = await explain(running, model="helper", key="ci")
    assert (hidden.outcome, hidden.near) == ("unknown", ())


async def test_an_unknown_model_has_near_names(running: Fleet) -> None:
    explanation = await explain(running, model="stiky")
    assert (explanation.outcome, explanation.near) == ("unknown", ("sticky",))


@pytest.mark.parametrize(
    ("question", "error"),
    [
        ({}, "no model is named; add 'model', or 'model' in the body"),
        ({"model": "x", "key": "nobody"}, "no API key has the name 'nobody'; correct it, or leave it out"),
        ({"model": "x", "modle": "y"}, "not a question: Object contains unknown field `modle`; correct it"),
        ({"body": {"model": "x"}, "operation": "chatt"}, "'chatt' is not an operation; write one of chat, generate"),
    ],
)
async def test_an_unusable_question_is_refused(running: Fleet, question: dict[str, Any], error: str) -> None:
    answer = await running.http.post("/admin/explain", json=question)
    assert answer.status_code == 400
    assert answer.json()["error"].startswith(error)


@pytest.mark.parametrize(
    "question",
    [
        {"model": "a//b"},
        {"model": "x" * 5000},
        {"model": "\x00\n"},
        {"model": "talk", "headers": {"x-söme": "\U0001f600", "": ""}, "user": "ä\n"},
        {"model": "talk", "body": None},
        {"model": "talk", "body": {"messages": [{"role": "user", "content": "x" * 500_000}]}},
        {"model": "talk", "prompt_tokens": -5},
        {"model": "talk", "prompt_tokens": 10**12},
        {"model": "talk", "operation": "embed", "body": {"input": ["a", 1]}},
        {"body": []},
        {"body": 1},
        {"body": {"model": ["x"]}},
    ],
)
async def test_an_odd_question_is_answered_or_refused(running: Fleet, question: dict[str, Any]) -> None:
    answer = await running.http.post("/admin/explain", json=question)
    assert answer.status_code in (200, 400), answer.text
    assert answer.json()


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"null", b"\xff"])
async def test_a_question_that_is_no_json_object_is_refused(running: Fleet, content: bytes) -> None:
    answer = await running.http.post("/admin/explain", content=content)
    assert answer.status_code == 400
    assert answer.json()["error"].startswith("not a question: ")


async def test_only_operators_may_ask(running: Fleet) -> None:
    """A request that a proxy forwards is not local."""
    for method, path in (("GET", "/admin/decisions"), ("GET", "/admin/explain"), ("POST", "/admin/explain")):
        answer = await running.http.request(method, path, json={}, headers={"x-forwarded-for": "10.0.0.1"})
        assert answer.status_code == 403, path


async def vllama(*arguments: str) -> Result:
    return await asyncio.to_thread(CliRunner().invoke, main, ["explain", *arguments])


async def test_the_command_prints_an_explanation(running: Fleet, tmp_path: Path) -> None:
    body = tmp_path / "body.json"
    body.write_text(json.dumps({"model": "talk", "messages": [{"role": "user", "content": "hello"}]}))
    by_name = await vllama("helper", "--user", "anna", "--url", running.url)
    by_body = await vllama("--body", str(body), "--header", "x-side: a", "--url", running.url)
    assert by_name.exit_code == by_body.exit_code == 0, by_name.output + by_body.output
    assert by_name.stdout.startswith("helper goes to ")
    assert "'sticky', by its alias 'helper'" in by_name.stdout
    assert by_body.stdout.startswith("talk goes to ")
    as_json = await vllama("helper", "--json", "--url", running.url)
    assert msgspec.json.decode(as_json.stdout, type=Explanation).requested == "helper"


async def test_the_command_explains_a_past_request(running: Fleet) -> None:
    await running.http.post("/api/chat", json={"model": "unheard-of"}, headers={"x-request-id": "past"})
    result = await vllama("--request", "past", "--url", running.url)
    assert (result.exit_code, result.stdout.splitlines()[0]) == (0, "request past")
    missing = await vllama("--request", "never-sent", "--url", running.url)
    assert missing.exit_code == 1
    assert "request 'never-sent' is unknown" in missing.stderr


async def test_the_command_fails_for_an_unknown_model(running: Fleet) -> None:
    result = await vllama("stiky", "--url", running.url)
    assert (result.exit_code, "near  sticky" in result.stdout) == (1, True)
