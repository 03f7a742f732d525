"""A router process follows drains, asks for them, and restores those that the registry lost."""

from __future__ import annotations

import pytest

from vllama_pool.router.discovery.drains import Drains
from vllama_pool.workers.registry.client import RegistryUnavailable
from vllama_pool.workers.registry.messages import WantChanged
from vllama_pool.workers.registry.want import Want, WantNotStored, encode_want

SECRET = b"fleet secret"


class Store:
    """The registry's rule: the higher revision stays."""

    def __init__(self) -> None:
        self.entries: dict[str, bytes] = {}
        self.available = True
        self.writes = 0

    async def put_want(self, worker_id: str, entry: bytes) -> bytes:
        if not self.available:
            raise RegistryUnavailable("no answer")
        self.writes += 1
        held = self.entries.get(worker_id)
        if held is not None and int(held.partition(b"\n")[0]) >= int(entry.partition(b"\n")[0]):
            return held
        self.entries[worker_id] = entry
        return b""


class Router:
    def __init__(
        self, store: Store, *, secret: bytes | None = SECRET, unsigned: bool = False, now: float = 1000
    ) -> None:
        self.applied: list[frozenset[str]] = []
        self.now = now
        self.drains = Drains(
            store, self.applied.append, fleet="f", secret=secret, allow_unsigned=unsigned, clock=lambda: self.now
        )


def entry(revision: int, *, drain: bool = True, worker: str = "a", secret: bytes | None = SECRET) -> bytes:
    return encode_want(Want(worker=worker, drain=drain, revision=revision), fleet="f", secret=secret)


async def test_a_drain_that_one_router_is_asked_for_reaches_the_others_by_event_or_poll() -> None:
    store = Store()
    asked, told, polls = Router(store), Router(store), Router(store)
    assert await asked.drains.ask("a", drain=True)
    told.drains.changed(WantChanged("a", store.entries["a"]))
    polls.drains.polled(store.entries)
    for router in (asked, told, polls):
        assert router.applied == [frozenset({"a"})]
        assert router.drains.drained == {"a"}


async def test_an_undrain_ends_the_drain_also_if_the_clock_was_set_back() -> None:
    store = Store()
    first, second = Router(store), Router(store, now=1)
    await first.drains.ask("a", drain=True)
    second.drains.polled(store.entries)
    assert await second.drains.ask("a", drain=False)
    first.drains.polled(store.entries)
    assert first.applied == [frozenset({"a"}), frozenset()]


async def test_what_is_so_already_writes_nothing() -> None:
    store = Store()
    router = Router(store)
    assert not await router.drains.ask("a", drain=False)
    await router.drains.ask("a", drain=True)
    assert not await router.drains.ask("a", drain=True)
    assert store.writes == 1


async def test_a_router_that_has_not_seen_the_latest_revision_asks_again_above_it() -> None:
    store = Store()
    ahead, behind = Router(store, now=2000), Router(store, now=1)
    await ahead.drains.ask("a", drain=True)
    await ahead.drains.ask("a", drain=False)
    assert await behind.drains.ask("a", drain=True)
    ahead.drains.polled(store.entries)
    assert ahead.drains.drained == {"a"}


async def test_a_flushed_registry_gets_drains_and_their_ends_back() -> None:
    store = Store()
    router, late = Router(store), Router(store)
    await router.drains.ask("a", drain=True)
    late.drains.polled(store.entries)
    await router.drains.ask("a", drain=False)
    await router.drains.ask("b", drain=True)
    before = dict(store.entries)
    store.entries.clear()
    late.drains.polled(store.entries)
    await late.drains.restore(store.entries)  # it has missed the end of the drain of a
    await router.drains.restore({})
    assert store.entries == before
    late.drains.polled(store.entries)
    assert late.drains.drained == {"b"}


async def test_polls_without_a_change_write_and_apply_nothing() -> None:
    store = Store()
    router = Router(store)
    await router.drains.ask("a", drain=True)
    for _ in range(3):
        router.drains.polled(store.entries)
        await router.drains.restore(store.entries)
    assert (store.writes, len(router.applied)) == (1, 1)


@pytest.mark.parametrize(
    "forged", [entry(5, secret=None), entry(5, secret=b"other"), entry(5, worker="b"), b"5\n{", b""]
)
def test_an_entry_that_is_not_the_fleets_is_ignored(forged: bytes) -> None:
    router = Router(Store())
    router.drains.polled({"a": forged})
    router.drains.changed(WantChanged("a", forged))
    assert not router.applied


def test_an_older_entry_that_is_played_back_is_ignored() -> None:
    router = Router(Store())
    router.drains.polled({"a": entry(5)})
    router.drains.polled({"a": entry(6, drain=False)})
    router.drains.changed(WantChanged("a", entry(5)))
    assert router.drains.drained == set()


async def test_without_the_registry_a_drain_is_refused_and_nothing_changes() -> None:
    store = Store()
    store.available = False
    router = Router(store)
    with pytest.raises(WantNotStored, match="no answer"):
        await router.drains.ask("a", drain=True)
    assert not router.applied


async def test_a_forged_entry_of_a_high_revision_is_reported() -> None:
    store = Store()
    store.entries["a"] = b"999999999999999999\n{}"
    with pytest.raises(WantNotStored, match="another entry"):
        await Router(store).drains.ask("a", drain=True)


@pytest.mark.parametrize(
    ("secret", "unsigned", "can"), [(None, False, False), (None, True, True), (SECRET, False, True)]
)
def test_a_router_without_a_secret_signs_only_for_a_private_registry(
    secret: bytes | None, unsigned: bool, can: bool
) -> None:
    assert Router(Store(), secret=secret, unsigned=unsigned).drains.can_sign is can
