"""The examples of splits, maintenance and patterns, followed by their comments, with simulated workers."""

from __future__ import annotations

import asyncio
from collections import Counter
from pathlib import Path

import httpx
import pytest
from click.testing import CliRunner

from tests.support.fleet.live import Fleet, fleet
from tests.support.until import auntil
from vllama_pool.config.routing.table import DEFAULT_FILE
from vllama_pool.router.cli.main import main
from vllama_pool.workers.simulated.options import Options

EXAMPLES = DEFAULT_FILE.parent / "examples"


def serves(model: str) -> Options:
    return Options(model=model, tokens_per_second=5000, ttft=0.001, answer_tokens=8, slots=32)


def copied(name: str, folder: Path) -> Path:
    copy = folder / name
    copy.write_text((EXAMPLES / name).read_text())
    checked = CliRunner().invoke(main, ["check", "--strict", str(copy)])
    assert checked.exit_code == 0, checked.output
    return copy


def edit(file: Path, before: str, after: str) -> None:
    text = file.read_text()
    assert before in text
    file.write_text(text.replace(before, after))


async def ask(running: Fleet, model: str, user: str = "anna") -> httpx.Response:
    body = {"model": model, "messages": [{"role": "user", "content": "hi"}], "user": user}
    return await running.http.post("/v1/chat/completions", json=body, headers={"x-vllama-trace": "1"})


async def worker(running: Fleet, model: str, user: str = "anna") -> str:
    """Return the id of the worker that answered."""
    answer = await ask(running, model, user)
    assert answer.status_code == 200, answer.text
    return answer.headers["x-vllama-worker"]


@pytest.mark.long
async def test_the_canary_keeps_users_at_their_model_until_its_weight_changes(tmp_path: Path) -> None:
    file = copied("canary.yaml", tmp_path)
    models = {"old": serves("Qwen/Qwen3-8B"), "new": serves("Qwen/Qwen3-8B-AWQ")}
    users = [f"user-{number}" for number in range(120)]
    async with fleet(tmp_path / "state", models, routing_file=file) as running:

        async def sides() -> dict[str, str]:
            return {user: await worker(running, "assistant", user) for user in users}

        async def all_at(name: str, user: str) -> bool:
            return await worker(running, "assistant", user) == name

        first = await sides()
        assert first == await sides()
        assert 1 <= Counter(first.values())["new"] <= 20
        edit(file, "weight: 5}", "weight: 95}")
        added = next(user for user in users if first[user] == "old")  # some of these move
        await auntil(lambda: _moved(running, users, first), 10, "the new weight to take effect")
        second = await sides()
        assert {first[user] for user in users if first[user] != second[user]} == {"old"}
        edit(file, "weight: 95} # 0", "weight: 0} # 0")
        moved = next(user for user in users if second[user] == "new")
        await auntil(lambda: all_at("old", moved), 10, "the canary to end")
        assert set((await sides()).values()) == {"old"}
        assert await worker(running, "assistant", added) == "old"


async def _moved(running: Fleet, users: list[str], sides: dict[str, str]) -> bool:
    of_old = [user for user in users if sides[user] == "old"][:10]
    return "new" in [await worker(running, "assistant", user) for user in of_old]


async def test_workers_finish_before_the_maintenance_window_and_come_back_after_it(tmp_path: Path) -> None:
    file = copied("maintenance-window.yaml", tmp_path)
    slow = Options(model="Qwen/Qwen3-8B", tokens_per_second=20, answer_tokens=40, slots=4)
    models = {"rack1": serves("Qwen/Qwen3-8B"), "rack3": slow, "small": serves("Qwen/Qwen3-1.7B")}
    tags = {"rack1": ("rack-1",), "rack3": ("rack-3",)}
    async with fleet(tmp_path / "state", models, tags=tags, routing_file=file) as running:

        async def state(name: str) -> str:
            workers = (await running.http.get("/admin/workers")).json()["workers"]
            return next(each["state"] for each in workers if each["id"] == name)

        async def is_aside(name: str, aside: bool) -> bool:
            return (await state(name) == "set aside") == aside

        refused = await ask(running, "reports")
        assert refused.status_code == 503
        assert refused.json()["error"]["message"] == "reports move to a new model and are back at 14:00"
        requests = [asyncio.create_task(ask(running, "assistant")) for _ in range(6)]
        await auntil(lambda: bool(running["rack3"].requests["/v1/chat/completions"]), 10, "a request on rack 3")
        lines = file.read_text().splitlines()
        file.write_text("\n".join((*lines[:-4], *(line.removeprefix("#") for line in lines[-4:]), "")))
        await auntil(lambda: is_aside("rack3", True), 10, "rack 3 to be set aside")
        before = running["rack3"].requests["/v1/chat/completions"]
        assert {await worker(running, "assistant") for _ in range(10)} == {"rack1"}
        assert [answer.status_code for answer in await asyncio.gather(*requests)] == [200] * 6
        assert running["rack3"].requests["/v1/chat/completions"] == before
        edit(file, "tags: [rack-3]", "tags: [rack-1, rack-3]")
        await auntil(lambda: is_aside("rack1", True), 10, "rack 1 to be set aside")
        assert await worker(running, "assistant") == "small"
        file.write_text((EXAMPLES / file.name).read_text())
        await auntil(lambda: is_aside("rack1", False), 10, "the racks to return")
        assert await worker(running, "assistant") in ("rack1", "rack3")


async def test_each_team_has_its_adapter_and_the_base_model_until_then(tmp_path: Path) -> None:
    file = copied("lora-per-team.yaml", tmp_path)
    names = ("red-lora", "blue-lora", "green-lora-v2", "meta-llama/Llama-3.1-8B-Instruct")
    models = {name.partition("/")[0]: serves(name) for name in names}
    async with fleet(tmp_path / "state", models, routing_file=file) as running:
        asked = ("team-red", "Team-Blue", "team-green", "team-new", "base")
        assert [await worker(running, name) for name in asked] == [
            *("red-lora", "blue-lora", "green-lora-v2", "meta-llama", "meta-llama")
        ]
        assert (await ask(running, "squad-red")).status_code == 404
        assert (await ask(running, "red-lora")).status_code == 200
        listed = {model["name"] for model in (await running.http.get("/api/tags")).json()["models"]}
        assert {"team-green:latest", "base:latest", "red-lora:latest"} <= listed
