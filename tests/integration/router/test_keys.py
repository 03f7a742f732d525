"""Two teams that share a pool: what each key may use, what it sees, and what is counted for it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
import pytest_asyncio

from tests.support.fleet.live import Fleet, fleet
from tests.support.operations import HELLO, REQUESTS, Request, error_text, is_whole
from tests.support.tables import routing_table
from tests.support.until import auntil
from vllama_pool.config.api_keys import ApiKey, digest
from vllama_pool.workers.simulated import faults
from vllama_pool.workers.simulated.options import Options

pytestmark = pytest.mark.asyncio(loop_scope="module")
CHAT = Options(model="tiny", tokens_per_second=5000, ttft=0.001, answer_tokens=8, slots=32, transcription=True)
EMBED = Options(model="tiny-embed", embedding=True, slots=32)
SECRET = Options(model="plan", tokens_per_second=5000, ttft=0.001, answer_tokens=8, slots=32, transcription=True)
"""Only the red team may use it. Its name is as long as "nope", so that answers have the same length."""

TABLE = routing_table(
    models={
        "tiny": {"aliases": ["smol", "tiny:1b"]},
        "plan": {"aliases": ["idea"]},
        "brief": {"serve": "tiny", "limits": {"output": 3}},
        "gone": {"serve": "not-served-now"},
        "tiny-up": {"serve": "not-served-now", "fallback": ["plan"]},
        "tiny-over": {"serve": "tiny", "fallback": {"overloaded": ["plan"], "error": ["plan"]}},
    },
    teams={
        "blue": {"models": ["tiny*"]},
        "red": {},
        "small": {"limits": {"concurrency": 1}},
        "brief": {"limits": {"output": 5}},
    },
    keys={
        "anna": {"sha256": digest("annas-key").hex(), "team": "blue"},
        "bob": {"sha256": digest("bobs-key").hex(), "team": "red"},
        "dora": {"sha256": digest("doras-key").hex(), "team": "small"},
        "emil": {"sha256": digest("emils-key").hex(), "limits": {"concurrency": 1}},
        "fred": {"sha256": digest("freds-key").hex(), "limits": {"output": 5}},
        "gina": {"sha256": digest("ginas-key").hex(), "team": "brief", "limits": {"output": 50}},
        "carol": {"sha256": digest("carols-key").hex(), "team": "blue", "models": ["smol", "plan"]},
    },
)
ANNA, BOB, CAROL, CI, DORA, EMIL, FRED, GINA = (
    {"authorization": f"Bearer {name}s-key"} for name in ("anna", "bob", "carol", "ci", "dora", "emil", "fred", "gina")
)
ANTHROPIC = {"anthropic-version": "2023-06-01"}
HIDDEN = {"plan": "nope", "idea": "nape", "gone": "nine", "mine": "none", "plan:latest": "nope:latest"}
"""Names that Anna may not use, each with an unknown one of its length."""


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def running(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Fleet]:
    workers = {"a": CHAT, "b": EMBED, "c": SECRET}
    keys = (ApiKey("ci", digest("cis-key")),)
    async with fleet(tmp_path_factory.mktemp("state"), workers, table=TABLE, api_keys=keys) as one:
        made = await one.http.post("/api/create", json={"model": "mine", "from": "plan", "stream": False}, headers=BOB)
        assert made.status_code == 200
        yield one


def likeness(response: httpx.Response, name: str) -> tuple[int, dict[str, str], str]:
    """Return what tells two answers apart, without the name."""
    headers = {
        key: value for key, value in response.headers.items() if key not in ("date", "x-request-id", "request-id")
    }
    body = response.text
    if "request_id" in body:
        body = json.dumps({**json.loads(body), "request_id": ""})
    return response.status_code, headers, body.replace(name, "NAME")


@pytest.mark.parametrize("request_", REQUESTS, ids=map(str, REQUESTS))
async def test_a_hidden_model_answers_as_an_unknown_one_on_every_operation(running: Fleet, request_: Request) -> None:
    headers = {**ANNA, "x-vllama-trace": "1"}
    for hidden, unknown in HIDDEN.items():
        answers = [
            likeness(await running.http.post(request_.path, **request_.content(name), headers=headers), name)
            for name in (hidden, unknown)
        ]
        assert answers[0] == answers[1]
        assert answers[0][0] == 404


@pytest.mark.parametrize("request_", REQUESTS, ids=map(str, REQUESTS))
async def test_a_key_is_served_the_models_that_it_may_use_on_every_operation(running: Fleet, request_: Request) -> None:
    name = "tiny-embed" if request_.embeds else "smol"
    for headers in (ANNA, BOB, CI):
        response = await running.http.post(request_.path, **request_.content(name), headers=headers)
        assert is_whole(request_, response), response.text
    response = await running.http.post(request_.path, **request_.content("plan"), headers=BOB)
    assert request_.embeds or is_whole(request_, response)


OTHER_ROUTES: dict[str, tuple[str, str, dict[str, Any], dict[str, str]]] = {
    "show": ("POST", "/api/show", {"model": "NAME"}, {}),
    "show for Copilot": ("POST", "/api/show", {"model": "NAME"}, {"user-agent": "GitHubCopilotChat/0.30.0"}),
    "pull": ("POST", "/api/pull", {"model": "NAME"}, {}),
    "pull without stream": ("POST", "/api/pull", {"model": "NAME", "stream": False}, {}),
    "push": ("POST", "/api/push", {"model": "NAME"}, {}),
    "delete": ("DELETE", "/api/delete", {"model": "NAME"}, {}),
    "copy from": ("POST", "/api/copy", {"source": "NAME", "destination": "copied"}, {}),
    "create from": ("POST", "/api/create", {"model": "made", "from": "NAME"}, {}),
    "create without stream": ("POST", "/api/create", {"model": "made", "from": "NAME", "stream": False}, {}),
    "retrieve": ("GET", "/v1/models/NAME", {}, {}),
    "retrieve with HEAD": ("HEAD", "/v1/models/NAME", {}, {}),
    "retrieve for Anthropic": ("GET", "/v1/models/NAME", {}, ANTHROPIC),
    "load": ("POST", "/api/generate", {"model": "NAME"}, {}),
    "unload": ("POST", "/api/chat", {"model": "NAME", "messages": [], "keep_alive": 0}, {}),
}


@pytest.mark.parametrize("route", OTHER_ROUTES)
async def test_a_hidden_model_answers_as_an_unknown_one_on_every_other_route(running: Fleet, route: str) -> None:
    method, path, body, headers = OTHER_ROUTES[route]

    async def answer(name: str) -> tuple[int, dict[str, str], str]:
        fields = {field: name if value == "NAME" else value for field, value in body.items()}
        content = {"json": fields} if fields else {}
        response = await running.http.request(
            method, path.replace("NAME", name), **content, headers={**ANNA, **headers}
        )
        return likeness(response, name)

    for hidden, unknown in HIDDEN.items():
        assert await answer(hidden) == await answer(unknown)


@pytest.mark.parametrize("name", ["/models/a path", "plan:cloud", "", "a" * 400, "plan:local:cloud"])
async def test_names_that_are_no_names_answer_alike_whatever_the_key_may_use(running: Fleet, name: str) -> None:
    answers = [
        likeness(await running.http.post("/api/chat", json={"model": name, "messages": []}, headers=headers), name)
        for headers in (ANNA, BOB)
    ]
    assert answers[0] == answers[1]


async def lists(running: Fleet, headers: dict[str, str]) -> list[list[str]]:
    """Return the names in each list."""
    await running.http.post(
        "/api/generate", json={"model": "mine"}, headers=BOB
    )  # so that the lists of loaded ones have it
    found = []
    for path, field, item, more in (
        ("/api/tags", "models", "name", {}),
        ("/api/ps", "models", "name", {}),
        ("/v1/models", "data", "id", {}),
        ("/v1/models", "data", "id", ANTHROPIC),
        ("/api/experimental/model-recommendations", "recommendations", "model", {}),
    ):
        response = await running.http.get(path, headers={**headers, **more})
        found.append(sorted(each[item].removesuffix(":latest") for each in response.json()[field]))
    return found


async def test_every_list_has_the_models_that_the_key_may_use(running: Fleet) -> None:
    everything = ["brief", "mine", "plan", "tiny", "tiny-embed", "tiny-over"]
    chats = [name for name in everything if name != "tiny-embed"]
    assert await lists(running, BOB) == [*[everything] * 4, chats]
    assert await lists(running, CI) == [*[everything] * 4, chats]
    assert await lists(running, ANNA) == [*[["tiny", "tiny-embed", "tiny-over"]] * 4, ["tiny", "tiny-over"]]
    assert await lists(running, CAROL) == [["tiny"]] * 5


async def test_a_key_needs_both_its_own_and_its_teams_leave(running: Fleet) -> None:
    for name, status in (("smol", 200), ("tiny", 200), ("plan", 404), ("tiny-embed", 404)):
        shown = await running.http.post("/api/show", json={"model": name}, headers=CAROL)
        assert shown.status_code == status, name


async def test_a_key_cannot_take_the_name_of_a_hidden_model(running: Fleet) -> None:
    for path, body in (
        ("/api/create", {"model": "NAME", "from": "tiny", "stream": False}),
        ("/api/copy", {"source": "tiny", "destination": "NAME"}),
    ):
        for name in ("mine", "plan", "idea"):
            fields = {field: name if value == "NAME" else value for field, value in body.items()}
            response = await running.http.post(path, json=fields, headers=ANNA)
            assert response.status_code == 403
            assert response.json() == {"error": f"'{name}' cannot be used for a new model: choose another name"}


async def test_a_virtual_model_is_its_makers_and_everyones_who_may_use_the_base(running: Fleet) -> None:
    made = await running.http.post("/api/create", json={"model": "ours", "from": "smol", "stream": False}, headers=ANNA)
    assert made.status_code == 200
    for headers in (ANNA, BOB, CAROL):
        shown = await running.http.post("/api/show", json={"model": "ours"}, headers=headers)
        assert shown.status_code == 200
    assert (
        await running.http.request("DELETE", "/api/delete", json={"model": "ours"}, headers=CAROL)
    ).status_code == 200


async def test_requests_are_counted_and_logged_by_key_and_team(running: Fleet) -> None:
    for number in range(2):
        asked = {**ANNA, "x-request-id": f"counted-{number}"}
        body = {"model": "tiny", "messages": [{"role": "user", "content": "hello"}], "stream": False}
        await running.http.post("/api/chat", json=body, headers=asked)
    await running.http.post("/api/chat", json={"model": "plan", "messages": []}, headers=ANNA)
    record = await running.record("counted-1")
    assert (record["client"], record["team"]) == ("anna", "blue")
    samples = _samples((await running.http.get("/metrics")).text)
    anna = {"team": "blue", "key": "anna"}
    assert _value(samples, "vllama_key_requests_total", **anna) >= 3
    assert _value(samples, "vllama_key_tokens_total", **anna, kind="completion") >= 16
    assert _value(samples, "vllama_key_tokens_total", **anna, kind="prompt") > 0
    assert _value(samples, "vllama_key_errors_total", **anna, **{"class": "refused"}) >= 1
    assert _value(samples, "vllama_key_in_flight", **anna) == 0


def _samples(page: str) -> dict[str, float]:
    return {line.rpartition(" ")[0]: float(line.rpartition(" ")[2]) for line in page.splitlines() if line[:1] != "#"}


def _value(samples: dict[str, float], name: str, **labels: str) -> float:
    text = ",".join(f'{label}="{value}"' for label, value in sorted(labels.items()))
    return samples[f"{name}{{{text}}}"]


async def test_a_request_without_a_key_is_refused_if_only_the_file_has_keys(running: Fleet) -> None:
    for headers in ({}, {"authorization": "Bearer wrong"}):
        assert (await running.http.get("/api/tags", headers=headers)).status_code == 401


@pytest.mark.parametrize(("headers", "holder"), [(DORA, "the team 'small'"), (EMIL, "the API key 'emil'")])
@pytest.mark.parametrize("request_", REQUESTS, ids=map(str, REQUESTS))
async def test_a_key_over_its_limit_gets_a_429_in_the_format_of_the_api(
    running: Fleet, request_: Request, headers: dict[str, str], holder: str
) -> None:
    """Another key is served meanwhile, and the same key once its request has ended."""
    name = "tiny-embed" if request_.embeds else "tiny"
    hanging = {"model": "plan", "messages": HELLO}
    running["c"].set_faults([faults.Hang()])
    first = asyncio.create_task(running.http.post("/api/chat", json=hanging, headers=headers))
    try:
        await auntil(lambda: _in_flight(running, 1), 10, "the request to run")
        refused = await running.http.post(request_.path, **request_.content(name), headers=headers)
        assert refused.status_code == 429
        assert int(refused.headers["retry-after"]) >= 1
        text = f"too many requests at once: {holder} may have 1 in progress; wait until one ends"
        assert error_text(request_, refused) == text
        if not request_.embeds:  # the limit says nothing about the model, so no other one answers
            other = await running.http.post(request_.path, **request_.content("tiny-over"), headers=headers)
            assert other.status_code == 429
        served = await running.http.post(request_.path, **request_.content(name), headers=BOB)
        assert is_whole(request_, served)
    finally:
        first.cancel()
        await asyncio.wait([first])
        running["c"].set_faults([])

    async def admitted() -> bool:
        again = await running.http.post(request_.path, **request_.content(name), headers=headers)
        return again.status_code == 200

    await auntil(admitted, 10, "the place to be free")


async def _in_flight(running: Fleet, count: int) -> bool:
    workers = (await running.http.get("/admin/workers")).json()["workers"]
    return sum(int(worker["in_flight"]) for worker in workers) == count


GENERATED = tuple(request for request in REQUESTS if not (request.embeds or request.counts or request.hears))


@pytest.mark.parametrize("headers", [FRED, GINA])
@pytest.mark.parametrize("request_", GENERATED, ids=map(str, GENERATED))
async def test_answers_are_cut_at_the_smaller_limit_of_key_team_and_entry(
    running: Fleet, request_: Request, headers: dict[str, str]
) -> None:
    for number, (model, key, tokens) in enumerate((("tiny", headers, 5), ("brief", headers, 3), ("tiny", BOB, 9))):
        name = f"cut-{request_}-{headers['authorization'][7:11]}-{number}".replace(" ", "-").replace("/", "-")
        asked = {**key, "x-request-id": name}
        response = await running.http.post(request_.path, **request_.content(model), headers=asked)
        assert is_whole(request_, response), response.text
        assert (await running.record(name))["completion_tokens"] == tokens, model


@pytest.mark.parametrize("request_", GENERATED, ids=map(str, GENERATED))
async def test_the_right_to_an_entry_includes_its_fallbacks_and_the_keys_limits_hold_there(
    running: Fleet, request_: Request
) -> None:
    for key, limited in ((ANNA, False), (FRED, True)):
        name = f"fell-{request_}-{limited}".replace(" ", "-").replace("/", "-")
        asked = {**key, "x-request-id": name, "x-vllama-trace": "1"}
        response = await running.http.post(request_.path, **request_.content("tiny-up"), headers=asked)
        assert is_whole(request_, response), response.text
        assert "plan" not in response.text
        shown = "no_worker: plan" if key is FRED else "no_worker: (another model)"
        assert response.headers["x-vllama-fallback"] == shown
        record = await running.record(name)
        assert record["served"] == "plan"
        assert (record["completion_tokens"] == 5) is limited
