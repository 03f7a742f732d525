"""Things that end if they stay for too long."""

from __future__ import annotations

import asyncio

from tests.support.until import auntil
from vllama_pool.router.upstream.expiry import Expiry

SECONDS = 0.1


async def test_what_stays_expires_in_order_and_what_was_taken_does_not() -> None:
    expired: list[str] = []
    expiry = Expiry(SECONDS, expired.append)
    loop = asyncio.get_running_loop()
    for thing in ("a", "b", "c", "d"):
        expiry.add(thing, loop)
    expiry.discard("a")
    assert expiry.take("c", loop.time())
    await auntil(lambda: expired == ["b", "d"])
    expiry.add("e", loop)
    await auntil(lambda: expired == ["b", "d", "e"])


async def test_what_is_added_later_expires_later() -> None:
    expired: list[str] = []
    expiry = Expiry(SECONDS, expired.append)
    loop = asyncio.get_running_loop()
    expiry.add("a", loop)
    added = loop.time()
    await auntil(lambda: loop.time() > added)
    expiry.add("b", loop)
    await auntil(lambda: expired == ["a", "b"])
    assert loop.time() - added > SECONDS


async def test_a_thing_that_expired_before_the_timer_is_not_taken() -> None:
    expiry = Expiry(SECONDS, print)
    loop = asyncio.get_running_loop()
    expiry.add("a", loop)
    assert not expiry.take("a", loop.time() + 1)
    assert not expiry.take("a", loop.time())


async def test_nothing_expires_after_clear() -> None:
    expired: list[str] = []
    expiry = Expiry(SECONDS, expired.append)
    loop = asyncio.get_running_loop()
    expiry.add("a", loop)
    expiry.clear()
    expiry.add("b", loop)
    await auntil(lambda: expired == ["b"])
