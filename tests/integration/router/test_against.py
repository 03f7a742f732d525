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
from tests.support.until import auntil
from vllama_pool.config.routing.table import load
from vllama_pool.router.cli.commands.against import compare_tables, read_recording
from vllama_pool.router.cli.main import main
from vllama_pool.router.routing.replay import Comparison
from vllama_pool.router.telemetry.decision_view import DecisionView
from vllama_pool.workers.simulated.options import Options

WORKERS = {
    name: Options(model=name[0], tokens_per_second=2000, ttft=0.0, answer_tokens=2, slots=64)
    for name in ("x", "x2", "y", "z")
}
TAGS = {"x": ("old",), "x2": ("new",)}
BEFORE = """
models:
  sticky:
    serve: [{model: x, weight: 9}, {model: y, weight: 1}]
    split: user
  drawn:
    serve: [{model: x, weight: 9}, {model: y, weight: 1}]
  moved: {serve: x, aliases: [small]}
  gone: {serve: z}
  closed: {serve: x}
  tagged: {serve: x, workers: {require: [old]}}
  rescued: {serve: z}
  llama*: {serve: x}
"""
AFTER = """
reload: {orphans: allow}
models:
  sticky:
    serve: [{model: x, weight: 3}, {model: y, weight: 1}]
    split: user
  drawn:
    serve: [{model: x, weight: 1}, {model: y, weight: 1}]
  moved: {serve: y}
  small: {serve: z}
  closed: {serve: x, maintenance: back at noon}
  tagged: {serve: x, workers: {require: [new]}}
  rescued: {serve: nobody, fallback: [y]}
  llama3: {serve: y}
  llama*: {serve: x}
"""
ONCE = ("moved", "small", "gone", "closed", "tagged", "rescued", "llama2", "llama3", "z")
REQUESTS = [
    *(("sticky", f"user-{number}") for number in range(100)),
    *(("drawn", "") for _ in range(200)),
    *((name, "") for name in ONCE for _ in range(3)),
    ("unheard-of", ""),
]


async def send_all(running: Fleet) -> list[str]:
    """Send all requests, and return the target of each, in order; "" for a refused one."""

    async def send(number: int, name: str, user: str) -> None:
        body: dict[str, Any] = {"model": name, "messages": [{"role": "user", "content": "hi"}], "stream": False}
        headers = {"x-request-id": str(number), **({"x-user-id": user} if user else {})}
        await running.http.post("/api/chat", json=body, headers=headers)

    for start in range(0, len(REQUESTS), 20):
        batch = enumerate(REQUESTS[start : start + 20], start)
        await asyncio.gather(*(send(number, *each) for number, each in batch))
    lines = (await running.http.get("/admin/decisions")).content.splitlines()[-len(REQUESTS) :]
    targets = {int(each.id): each.target for line in lines for each in [msgspec.json.decode(line, type=DecisionView)]}
    return [targets[number] for number in range(len(REQUESTS))]


async def reload(running: Fleet, file: Path, text: str) -> None:
    await asyncio.to_thread(file.write_text, text)
    revision = load(file).revision

    async def is_live() -> bool:
        answer = await running.http.get("/admin/explain", params={"model": "moved"})
        return bool(answer.json()["revision"] == revision)

    await auntil(is_live, 20, "the new routing file")


def moves(comparison: Comparison, name: str) -> dict[tuple[str, str], float]:
    return {(move.before, move.after): count for move, count in comparison.moves.items() if move.requested == name}


@pytest.mark.parametrize("source", ["last", "recording"])
async def test_the_prediction_equals_what_happens_after_the_change(tmp_path: Path, source: str) -> None:
    file, new, recording = (tmp_path / name for name in ("routing.yaml", "new.yaml", "decisions.jsonl"))
    file.write_text(BEFORE)
    new.write_text(AFTER)
    async with fleet(tmp_path / "state", WORKERS, tags=TAGS, routing_file=file) as running:
        before = await send_all(running)
        exported = (await running.http.get("/admin/decisions")).content
        await asyncio.to_thread(recording.write_bytes, exported)
        read = await asyncio.to_thread(read_recording, "last" if source == "last" else str(recording), running.url)
        predicted = compare_tables(read, load(new), None)
        same = compare_tables(read, load(file), None)
        await reload(running, file, AFTER)
        after = await send_all(running)

    assert same.moved == pytest.approx(0)
    assert not same.refusals
    happened: dict[str, Counter[tuple[str, str]]] = {}
    for (name, _), old, target in zip(REQUESTS, before, after, strict=True):
        if old != target:
            happened.setdefault(name, Counter())[old, target] += 1
    refused = ("gone", "closed")
    exact = ("sticky", "moved", "small", "tagged", "rescued", "llama3")
    assert happened.keys() == {"drawn", *exact, *refused}
    if source != "last":  # a worker is assumed for each target
        assert moves(predicted, "rescued") == {("z", "nobody"): 3}
        exact = exact[:-2] + exact[-1:]
    for name in exact:
        assert moves(predicted, name) == happened[name], name
    assert {each.requested: (each.reason, count) for each, count in predicted.refusals.items()} == {
        "gone": ("unknown model", 3),
        "closed": ("back at noon", 3),
    }
    assert [sum(happened[name].values()) for name in refused] == [3, 3]
    assert {target for name in refused for _, target in happened[name]} == {""}
    assert predicted.still_refused == 1
    shares = Counter(target for (name, _), target in zip(REQUESTS, after, strict=True) if name == "drawn")
    assert moves(predicted, "drawn") == {("x", "y"): pytest.approx(200 * 0.4)}
    assert shares["y"] == pytest.approx(200 * 0.5, abs=40)


async def test_a_target_that_no_live_worker_serves_makes_requests_unroutable(tmp_path: Path) -> None:
    file = tmp_path / "routing.yaml"
    file.write_text(BEFORE)
    async with fleet(tmp_path / "state", WORKERS, tags=TAGS, routing_file=file) as running:
        await send_all(running)
        read = await asyncio.to_thread(read_recording, "last", running.url)
    file.write_text(BEFORE.replace("gone: {serve: z}", "gone: {serve: nobody}"))
    assert [refusal.requested for refusal in compare_tables(read, load(file), None).refusals] == ["gone"]


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
