"""Workers that the routing file sets aside."""

import random

import pytest

from tests.support.balance import Clock, found, group, pool_of, tagged, worker_in
from tests.support.tables import routing_table
from vllama_pool.router.balance.pool import Discovered
from vllama_pool.router.errors import NoWorker
from vllama_pool.router.routing.maintenance import Maintenance
from vllama_pool.router.routing.resolve import ModelRoutes

TABLE = routing_table(
    workers=[
        {"url": "http://a:80", "name": "gpu-5", "maintenance": "own"},
        {"url": "http://b:80", "name": "gpu-6"},
        {"url": "http://c:8000", "maintenance": "unnamed"},
    ],
    maintenance=[
        {"workers": ["w1", "gpu-6"], "message": "listed"},
        {"workers": ["w1", "gpu-5"], "message": "later"},
        {"tags": ["rack-7", "old"], "message": "moved"},
    ],
)


def message(found: Discovered) -> str:
    return Maintenance(TABLE).message(found.record)


@pytest.mark.parametrize(
    ("worker", "expected"),
    [
        (found("static/gpu-5"), "own"),
        (found("static/gpu-6"), "listed"),
        (found("static/http://c:8000"), "unnamed"),
        (found("gpu-6"), "listed"),
        (found("w1"), "listed"),
        (found("w2"), ""),
        (tagged("w2", "new", "old"), "moved"),
        (tagged("w1", "old"), "listed"),
    ],
)
def test_workers_are_set_aside_by_name_id_or_tag(worker: Discovered, expected: str) -> None:
    assert message(worker) == expected


def test_a_worker_that_is_set_aside_gets_no_further_requests_and_finishes_its_own() -> None:
    clock = Clock()
    pool = pool_of(clock, tagged("a", "old"), found("b"))
    routes = ModelRoutes(routing_table(), random.Random(1))
    lease = pool.lease(worker_in(pool, "a"), "m")
    pool.set_aside(Maintenance(TABLE).message)
    for tried in ((), ("b",)):
        replica = routes.resolve("m", pool).choose(tried, clock(), random.Random(1))
        assert (replica is None) if tried else (replica is not None and replica.worker.id == "b")
    assert worker_in(pool, "a").in_flight == 1
    assert not lease.released
    pool.set_aside(Maintenance(routing_table()).message)
    replica = routes.resolve("m", pool).choose(("b",), clock(), random.Random(1))
    assert replica is not None


def test_workers_that_come_later_or_change_their_tags_are_set_aside_too() -> None:
    pool = pool_of(Clock())
    pool.set_aside(Maintenance(TABLE).message)
    pool.put(found("w1"), found("w2"))
    assert [worker.set_aside for worker in pool] == ["listed", ""]
    pool.put(tagged("w2", "rack-7"))
    assert worker_in(pool, "w2").set_aside == "moved"
    pool.put(found("w2"))
    assert worker_in(pool, "w2").set_aside == ""


def test_a_model_whose_workers_are_all_set_aside_is_refused_with_their_message() -> None:
    pool = pool_of(Clock(), found("w1"))
    pool.set_aside(Maintenance(TABLE).message)
    routes = ModelRoutes(routing_table(models={"a": {"serve": "m"}}), random.Random(1))
    text = r"no worker is available for model 'A': its workers are out: 1 set aside \(listed\)"
    with pytest.raises(NoWorker, match=text):
        routes.resolve("A", pool)
    assert not group(pool)[0].serving
