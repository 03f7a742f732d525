"""How many routers share the fleet's bounds."""

from __future__ import annotations

from vllama_pool.router.discovery.registry_loop import RouterCount
from vllama_pool.workers.registry.keys import ROUTER_TTL


def test_a_router_is_never_nobody() -> None:
    count = RouterCount()
    assert count.value == 1
    count.seen(0, 0.0)
    count.seen(0, 100.0)
    assert count.value == 1


def test_more_are_believed_at_once_and_fewer_after_a_while() -> None:
    count = RouterCount()
    count.seen(4, 0.0)
    assert count.value == 4
    count.seen(1, 1.0)  # the registry was emptied: the others have not polled yet
    assert count.value == 4
    count.seen(4, 1.5)
    count.seen(3, 2.0)
    count.seen(3, 1.9 + ROUTER_TTL)
    assert count.value == 4
    count.seen(3, 2.0 + ROUTER_TTL)
    assert count.value == 3
