"""Random routing tables with the workers and requests that fit them. The same seed makes the same case."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import msgspec

from tests.support.balance import Clock
from tests.support.tables import routing_table
from vllama_pool.config.routing.table import RoutingTable
from vllama_pool.router.balance.pool import Discovered, Pool
from vllama_pool.router.errors import Busy, Faulty, Lost, ModelGone
from vllama_pool.router.protocol.ollama.requests import ChatRequest, decode_chat
from vllama_pool.router.routing.asker import Asker
from vllama_pool.router.upstream.interface import Endpoint
from vllama_pool.workers.registry.record import LoadReport, ModelInfo, WorkerRecord, WorkerState
from vllama_pool.workers.registry.virtual_model import VirtualModel, key_of

SERVED = tuple(f"org/Model-{number}" for number in range(6))
UNSERVED = "org/nobody"
TAGS = ("a100", "h100", "zone-a", "zone-b", "team-x")
SPLITS = ("request", "user", "key", "client", "conversation", "header:x-side")
POLICIES = (
    *("least-load", "round-robin", "prefix-affinity", "session"),
    {"type": "prefix-affinity", "bound": 2.0},
    {"type": "session", "by": "user"},
    {"type": "session", "by": "header:x-side"},
)
PATTERNS = ("llama*", "llama3*", "*-chat", "team-*/m*", "org/*", "q*:*b", "*")
STATES = (*(WorkerState.READY,) * 6, WorkerState.DRAINING, WorkerState.STARTING, WorkerState.SLEEPING)


@dataclass(frozen=True, slots=True)
class Asking:
    """One request."""

    name: str
    request: ChatRequest
    asker: Asker


@dataclass(frozen=True, slots=True)
class Case:
    sections: dict[str, Any]
    """As a file would have them."""
    table: RoutingTable
    pool: Pool
    clock: Clock
    virtual: dict[str, VirtualModel]
    requests: tuple[Asking, ...]


def generate(seed: int, requests: int = 4) -> Case:
    rng = random.Random(seed)
    models = dict(_entries(rng))
    virtual = _virtual(rng, [*models, *SERVED])
    clock = Clock()
    askings = tuple(_request(rng, models, virtual) for _ in range(requests))
    table = routing_table(models=models)
    return Case({"models": models}, table, _pool(rng, clock), clock, virtual, askings)


def _some(rng: random.Random, chance: float) -> bool:
    return rng.random() < chance


def _entries(rng: random.Random) -> Iterator[tuple[str, dict[str, Any]]]:
    """Fallbacks name models without a rule or earlier entries, so that they form no loop."""
    patterns = rng.sample(PATTERNS, rng.randint(0, 3))
    earlier = [*SERVED, UNSERVED] if {"*", "org/*"}.isdisjoint(patterns) else []
    for number in range(rng.randint(0, 6)):
        name = f"m{number}" if _some(rng, 0.8) else f"team-{number}/M{number}:7b"
        yield name, _entry(rng, earlier, aliases=[f"alias-{number}", f"llama{number}:8b"])
        earlier.append(name)
    for name in patterns:
        yield name, _entry(rng, earlier, aliases=[], pattern=True)


def _entry(rng: random.Random, earlier: list[str], aliases: list[str], *, pattern: bool = False) -> dict[str, Any]:
    entry: dict[str, Any] = {"policy": rng.choice(POLICIES), "split": rng.choice(SPLITS)}
    if pattern and _some(rng, 0.4):
        if _some(rng, 0.5):
            entry["serve"] = "org/{1}"
    else:
        entry["serve"] = _serve(rng)
    if aliases and _some(rng, 0.5):
        entry["aliases"] = rng.sample(aliases, rng.randint(1, len(aliases)))
    if earlier and _some(rng, 0.4):
        names = rng.sample(earlier, min(len(earlier), rng.randint(1, 3)))
        entry["fallback"] = names if _some(rng, 0.5) else {rng.choice(("no_worker", "overloaded", "error")): names}
    if _some(rng, 0.3):
        entry["workers"] = _selector(rng)
    if _some(rng, 0.1):
        entry["maintenance"] = "back at noon"
    if _some(rng, 0.2):
        entry["limits"] = {"concurrency": rng.randint(1, 9), "context": rng.choice((1000, 100_000))}
    return entry


def _serve(rng: random.Random) -> str | list[Any]:
    models = rng.sample([*SERVED, UNSERVED], rng.randint(1, 4))
    if len(models) == 1 and _some(rng, 0.7):
        return models[0]
    targets = [{"model": model, "weight": rng.choice((0, 1, 1, 3, 95))} for model in models]
    if not any(target["weight"] for target in targets):
        targets[0]["weight"] = 1
    for target in targets:
        if _some(rng, 0.2):
            target["workers"] = _selector(rng)
    return targets


def _selector(rng: random.Random) -> dict[str, list[str]]:
    keys = rng.sample(("require", "any", "exclude", "prefer"), rng.randint(1, 2))
    selector = {key: rng.sample(TAGS, rng.randint(1, 2)) for key in keys}
    required = selector.get("require", [])
    if "exclude" in selector:
        selector["exclude"] = [tag for tag in selector["exclude"] if tag not in required]
    return selector


def _virtual(rng: random.Random, bases: list[str]) -> dict[str, VirtualModel]:
    plain = [base for base in bases if "*" not in base]
    models = [
        VirtualModel(name=f"mine-{number}:latest", base=rng.choice(plain), revision=1)
        for number in range(rng.randint(0, 2))
    ]
    return {key_of(model.name): model for model in models}


def _pool(rng: random.Random, clock: Clock) -> Pool:
    pool = Pool(clock)
    for number in range(rng.randint(1, 9)):
        models = tuple(
            ModelInfo(name=name, context_length=rng.choice((0, 2048, 32768)), aliases=(f"also-{name}",))
            for name in rng.sample(SERVED, rng.randint(1, 3))
        )
        record = WorkerRecord(
            id=f"w{number}",
            generation=1,
            url=f"http://w{number}:8100",
            models=models,
            slots=rng.choice((0, 1, 2, 8)),
            speed=rng.choice((0.5, 1.0, 2.0)),
            tags=tuple(rng.sample(TAGS, rng.randint(0, 3))),
        )
        pool.put(Discovered(record, Endpoint(record.id, 8100)))
    clock.advance(rng.choice((1, 60)))  # some are in their slow start
    for worker in tuple(pool):
        _give_state(rng, pool, worker.id, clock)
    clock.advance(0.1)
    return pool


def _give_state(rng: random.Random, pool: Pool, worker_id: str, clock: Clock) -> None:
    worker = pool.get(worker_id)
    assert worker is not None
    pool.report(worker_id, LoadReport(state=rng.choice(STATES), running=rng.randint(0, 8), waiting=rng.choice((0, 2))))
    for _ in range(rng.choice((0, 0, 1, 3))):
        pool.lease(worker, worker.record.models[0].name)
    trouble = rng.choice((None, None, None, Lost("lost"), Busy("busy"), Faulty("ill"), ModelGone("gone")))
    if trouble is not None:
        for _ in range(rng.choice((1, 5))):
            worker.record_failure(trouble, worker.record.models[0].name, clock(), clock())
    if _some(rng, 0.1):
        pool.mark_down(worker_id)


def _request(rng: random.Random, models: dict[str, Any], virtual: dict[str, VirtualModel]) -> Asking:
    names = [*SERVED, UNSERVED, "also-org/Model-1", "unheard-of", "llama3.2", "a-chat", "team-q/mm", "qwen:7b"]
    for name, entry in models.items():
        names += [name.replace("*", "x"), name.upper(), *entry.get("aliases", ())]
    names += [model.name for model in virtual.values()]
    user, side = (rng.choice(("", "anna", "ben", "carla")) for _ in range(2))
    headers = {b"x-user-id": user.encode(), b"x-side": side.encode()} if _some(rng, 0.7) else {}
    name = rng.choice(names)
    request = _chat(rng, name)
    asker = Asker(request, headers, key=rng.choice(("", "ci")), client=rng.choice(("10.0.0.1", "10.0.0.2")))
    return Asking(name, request, asker)


def _chat(rng: random.Random, name: str) -> ChatRequest:
    """Return a request whose prompt begins as others do, and may be too long for some workers."""
    system = f"You are {rng.choice(('brief', 'kind'))}. " * 40
    text = rng.choice(("Hello.", "Tell me more. " * 50, "All of it. " * 6000))
    messages = [{"role": "system", "content": system}, {"role": "user", "content": text}]
    return decode_chat(msgspec.json.encode({"model": name, "messages": messages[rng.randint(0, 1) :]}))
