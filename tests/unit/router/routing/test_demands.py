"""The policies and workers of the routing file, from the table to the chosen worker."""

import random
from collections import Counter
from typing import Any

import msgspec
import pytest

from tests.support.balance import Clock, found, ids, pool_of, tagged, worker_in
from tests.support.tables import routing_table
from vllama_pool.router.balance.demand import PLAIN
from vllama_pool.router.balance.policies.prefix_affinity import PrefixAffinity
from vllama_pool.router.balance.policies.session import Session
from vllama_pool.router.balance.pool import Pool
from vllama_pool.router.errors import NoWorker
from vllama_pool.router.protocol.ollama.requests import decode_chat
from vllama_pool.router.routing.asker import Asker
from vllama_pool.router.routing.resolution import Resolution
from vllama_pool.router.routing.resolve import ModelRoutes
from vllama_pool.workers.registry.record import ModelInfo


def routes(previous: ModelRoutes | None = None, **models: Any) -> ModelRoutes:
    return ModelRoutes(routing_table(models=models), random.Random(3), previous=previous)


def chat(*texts: str) -> Any:
    turns = [{"role": ("user", "assistant")[index % 2], "content": text} for index, text in enumerate(texts)]
    return decode_chat(msgspec.json.encode({"model": "m", "messages": turns}))


def chosen(resolution: Resolution, request: Any, headers: dict[bytes, bytes] | None = None, **traits: str) -> str:
    asker = Asker(request, headers or {}, **traits) if resolution.needs_asker else None
    replica = resolution.choose((), 1000.0, random.Random(), resolution.demand(request, asker))
    assert replica is not None
    return replica.worker.id


def workers(count: int = 8) -> Pool:
    return pool_of(Clock(), *(found(f"worker-{number}") for number in range(count)))


@pytest.mark.parametrize(
    ("policy", "kind", "value"),
    [
        ("session", Session, "conversation"),
        ({"type": "session"}, Session, "conversation"),
        ({"type": "session", "by": "user"}, Session, "user"),
        ("prefix-affinity", PrefixAffinity, 1.25),
        ({"type": "prefix-affinity", "bound": 2}, PrefixAffinity, 2.0),
    ],
)
def test_a_policy_has_the_parameters_of_the_file(policy: Any, kind: type, value: Any) -> None:
    made = routes(m={"policy": policy}).resolve("m", workers()).policy
    assert isinstance(made, Session | PrefixAffinity)
    assert type(made) is kind
    assert (made.by if isinstance(made, Session) else made.bound) == value


@pytest.mark.parametrize(
    ("by", "traits"),
    [
        ("user", [{"headers": {b"x-user-id": b"%d" % number}} for number in range(12)]),
        ("key", [{"key": f"key-{number}"} for number in range(12)]),
        ("client", [{"client": f"10.0.0.{number}"} for number in range(12)]),
        ("conversation", [{"headers": {b"x-session-id": b"%d" % number}} for number in range(12)]),
        ("header:X-Tenant", [{"headers": {b"x-tenant": b"%d" % number}} for number in range(12)]),
    ],
)
def test_a_session_keeps_its_worker_by_each_trait(by: str, traits: list[dict[str, Any]]) -> None:
    resolution = routes(m={"policy": {"type": "session", "by": by}}).resolve("m", workers())
    first = [chosen(resolution, chat("hello"), **each) for each in traits]
    assert [chosen(resolution, chat("something else"), **each) for each in traits] == first
    assert len(set(first)) > 3


def test_a_session_without_the_trait_goes_by_load() -> None:
    pool = workers()
    resolution = routes(m={"policy": {"type": "session", "by": "header:X-Tenant"}}).resolve("m", pool)
    assert len({chosen(resolution, chat("hello")) for _ in range(60)}) > 3


def test_a_conversation_keeps_its_worker_by_its_prefix_and_conversations_spread() -> None:
    resolution = routes(m={"policy": "prefix-affinity"}).resolve("m", workers())
    assert not resolution.needs_asker
    spread: Counter[str] = Counter()
    for number in range(100):
        texts = [f"Question {number}?"]
        first = chosen(resolution, chat(*texts))
        for turn in range(3):
            texts += [f"Answer {turn}.", f"And {turn}?"]
            assert chosen(resolution, chat(*texts)) == first
        spread[first] += 1
    assert len(spread) == 8
    assert max(spread.values()) < 30


def test_a_model_of_one_window_and_a_plain_policy_reads_nothing_of_the_request() -> None:
    resolution = routes(m={}).resolve("m", workers())
    assert not resolution.needs_demand
    assert resolution.demand(object(), None) is PLAIN


def test_all_names_of_a_model_keep_a_conversation_at_one_worker() -> None:
    table, pool = routes(m={"policy": "prefix-affinity", "aliases": ["short"]}), workers()
    for number in range(20):
        request = chat(f"Question {number}?")
        names = ("m", "M:latest", "short")
        demands = {table.resolve(name, pool).demand(request, None) for name in names}
        assert len(demands) == 1


def test_nothing_is_read_for_the_only_worker() -> None:
    assert not routes(m={"policy": "prefix-affinity"}).resolve("m", workers(1)).needs_demand
    assert routes(m={"policy": "prefix-affinity"}).resolve("m", workers(2)).needs_demand


def test_a_long_request_goes_to_the_larger_of_two_windows() -> None:
    small, large = (ModelInfo(name="m", context_length=size) for size in (2000, 32_000))
    pool = pool_of(Clock(), found("small", small), found("large", large))
    resolution = routes().resolve("m", pool)
    assert {chosen(resolution, chat("word " * 20)) for _ in range(50)} == {"small", "large"}
    assert {chosen(resolution, chat("word " * 1500)) for _ in range(50)} == {"large"}, "it may not fit"
    for _ in range(8):
        pool.lease(worker_in(pool, "large"))
    assert chosen(resolution, chat("word " * 1500)) == "small", "a free slot where it may fit"
    assert chosen(resolution, chat("word " * 9000)) == "large", "it cannot fit"


TAGS = {
    "m": {"workers": {"require": ["gpu"], "exclude": ["old"]}},
    "split": {"serve": [{"model": "m", "workers": {"any": ["eu", "us"]}}, {"model": "m", "weight": 0}]},
    "spilling": {"serve": "m", "workers": {"prefer": ["eu"]}},
    "nowhere": {"serve": "m", "workers": {"require": ["moon"]}},
}


def test_an_entry_selects_workers_by_tags() -> None:
    pool = pool_of(
        Clock(), tagged("a", "gpu"), tagged("b", "gpu", "eu"), tagged("c", "gpu", "old"), tagged("d"), slots=1
    )
    table = routes(**TAGS)
    assert ids(table.resolve("m", pool).replicas) == ["a", "b"]
    split = table.resolve("split", pool)
    assert {chosen(split, chat("hello")) for _ in range(30)} == {"b"}
    spilling = table.resolve("spilling", pool)
    assert {chosen(spilling, chat("hello")) for _ in range(30)} == {"b"}
    pool.lease(worker_in(pool, "b"))
    assert {chosen(spilling, chat("hello")) for _ in range(60)} == {"a", "c", "d"}
    with pytest.raises(NoWorker):
        table.resolve("nowhere", pool)


def test_a_worker_that_gets_a_tag_joins_the_entries_that_select_it() -> None:
    pool = pool_of(Clock(), tagged("a", "gpu"), tagged("b"))
    table = routes(**TAGS)
    assert ids(table.resolve("m", pool).replicas) == ["a"]
    pool.put(tagged("b", "gpu"))
    assert ids(table.resolve("m", pool).replicas) == ["a", "b"]
    pool.put(tagged("b", "gpu", "old"))
    assert ids(table.resolve("m", pool).replicas) == ["a"]


def test_a_policy_remembers_prefixes_over_a_reload_that_does_not_change_it() -> None:
    pool = workers()
    before = routes(m={"policy": "prefix-affinity"})
    resolution = before.resolve("m", pool)
    chosen(resolution, chat("hello"))
    after = routes(before, m={"policy": "prefix-affinity", "options": {"seed": 1}})
    assert after.resolve("m", pool).policy is resolution.policy
    changed = routes(after, m={"policy": {"type": "prefix-affinity", "bound": 2}})
    assert changed.resolve("m", pool).policy is not resolution.policy
