"""What `vllama check --against` predicts from recorded requests is what happens under the new routing file."""

from __future__ import annotations

import asyncio
from collections import Counter
from pathlib import Path
from typing import Any

import msgspec
import pytest
from click.testing import CliRunner

from tests.support.fleet.live import Fleet, fleet
from tests.support.tables import routing_table
from vllama_pool.router.cli.commands.against import Recording, compare_tables, read_recording
from vllama_pool.router.cli.main import main
from vllama_pool.router.routing.replay import Comparison
from vllama_pool.workers.simulated.options import Options

WORKERS = {
    name: Options(model=name, tokens_per_second=2000, ttft=0.0, answer_tokens=2, slots=64) for name in ("x", "y", "z")
}


def canary(x: int, y: int, **more: Any) -> dict[str, Any]:
    return {"serve": [{"model": "x", "weight": x}, {"model": "y", "weight": y}], **more}


BEFORE = {
    "sticky": canary(9, 1, split="user"),
    "drawn": canary(9, 1),
    "moved": {"serve": "x", "aliases": ["small"]},
    "gone": {"serve": "z"},
    "llama*": {"serve": "x"},
}
AFTER = {
    "sticky": canary(3, 1, split="user"),
    "drawn": canary(1, 1),
    "moved": {"serve": "y"},
    "small": {"serve": "z"},
    "llama3": {"serve": "y"},
    "llama*": {"serve": "x"},
}
REQUESTS = [
    *(("sticky", f"user-{number}") for number in range(100)),
    *(("drawn", "") for _ in range(200)),
    *((name, "") for name in ("moved", "small", "gone", "llama2", "llama3", "z") for _ in range(3)),
    ("unheard-of", ""),
]


async def send_all(running: Fleet) -> None:
    async def send(number: int, name: str, user: str) -> None:
        body: dict[str, Any] = {"model": name, "messages": [{"role": "user", "content": "hi"}], "stream": False}
        headers = {"x-request-id": str(number), **({"x-user-id": user} if user else {})}
        await running.http.post("/api/chat", json=body, headers=headers)

    pending = [send(number, *each) for number, each in enumerate(REQUESTS)]
    for start in range(0, len(pending), 20):
        await asyncio.gather(*pending[start : start + 20])


async def results(running: Fleet) -> list[str]:
    """Return the served model of each request, in order; "" for a refused one."""
    lines = (await running.http.get("/admin/decisions")).content.splitlines()
    served = {int(each["id"]): each.get("served", "") for each in map(msgspec.json.decode, lines)}
    return [served[number] for number in range(len(REQUESTS))]


async def run(folder: Path, models: dict[str, Any], recording: Path) -> list[str]:
    """Send all requests under a table, and save the router's recording of them."""
    async with fleet(folder, WORKERS, table=routing_table(models=models)) as running:
        await send_all(running)
        exported = (await running.http.get("/admin/decisions")).content
        await asyncio.to_thread(recording.write_bytes, exported)
        return await results(running)


def moves(comparison: Comparison, name: str) -> dict[tuple[str, str], float]:
    return {(move.before, move.after): count for move, count in comparison.moves.items() if move.requested == name}


async def test_the_prediction_equals_what_happens_after_the_change(tmp_path: Path) -> None:
    recording = tmp_path / "decisions.jsonl"
    before = await run(tmp_path / "before", BEFORE, recording)
    predicted = compare_tables(read_recording(str(recording), None), routing_table(models=AFTER), None)
    after = await run(tmp_path / "after", AFTER, tmp_path / "ignored.jsonl")

    happened: dict[str, Counter[tuple[str, str]]] = {}
    for (name, _), old, new in zip(REQUESTS, before, after, strict=True):
        if old != new:
            happened.setdefault(name, Counter())[old, new] += 1
    assert happened.keys() == {"sticky", "drawn", "moved", "small", "gone", "llama3"}
    for name in ("sticky", "moved", "small", "llama3"):
        assert moves(predicted, name) == happened[name], name
    assert {refusal.requested: count for refusal, count in predicted.refusals.items()} == {"gone": 3}
    assert happened["gone"] == {("z", ""): 3}
    assert predicted.still_refused == 1
    shares = Counter(new for (name, _), new in zip(REQUESTS, after, strict=True) if name == "drawn")
    assert moves(predicted, "drawn") == {("x", "y"): pytest.approx(200 * 0.4)}
    assert shares["y"] == pytest.approx(200 * 0.5, abs=40)


async def test_the_live_routers_decisions_and_workers_are_a_recording(tmp_path: Path) -> None:
    async with fleet(tmp_path, WORKERS, table=routing_table(models=BEFORE)) as running:
        await send_all(running)
        recording: Recording = await asyncio.to_thread(read_recording, "last", running.url)
    assert len(recording.requests) == len(REQUESTS)
    assert recording.workers is not None
    assert sorted(worker.id for worker in recording.workers) == ["x", "y", "z"]
    same = compare_tables(recording, routing_table(models=BEFORE), None)
    assert same.moved == pytest.approx(0)
    assert not same.refusals
    unserved = compare_tables(recording, routing_table(models={**BEFORE, "gone": {"serve": "nobody"}}), None)
    assert [refusal.requested for refusal in unserved.refusals] == ["gone"]


async def test_a_live_check_asks_the_router_for_what_its_workers_serve(tmp_path: Path) -> None:
    file = tmp_path / "routing.yaml"
    file.write_text("models:\n  good: {serve: x}\n  bad: {serve: nobody}\n")
    async with fleet(tmp_path / "state", WORKERS) as running:
        arguments = ["check", str(file), "--live", "--url", running.url]
        result = await asyncio.to_thread(CliRunner().invoke, main, arguments)
        strict = await asyncio.to_thread(CliRunner().invoke, main, [*arguments, "--strict"])
    assert (result.exit_code, strict.exit_code) == (0, 1)
    warning = "warning: models.bad.serve: no live worker serves 'nobody'; start one, or correct the name"
    assert result.stderr == f"vllama: {file}:3:9: {warning}\n"
    unreachable = await asyncio.to_thread(CliRunner().invoke, main, arguments)
    assert unreachable.exit_code == 2
