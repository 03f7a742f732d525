"""Routers that miss messages and a registry that loses entries: all routers agree in the end."""

from __future__ import annotations

import asyncio
import itertools
from functools import partial

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule

from tests.support.registry.fake_registry import FakeRegistry
from vllama_pool.router.virtual_models.model_signer import SignaturePolicy
from vllama_pool.router.virtual_models.store import ModelStore
from vllama_pool.router.virtual_models.sync import ModelSync
from vllama_pool.workers.registry.messages import ModelChanged
from vllama_pool.workers.registry.virtual_model import VirtualModel, sign_model

TRUST = SignaturePolicy("f", b"fleet secret", allow_unsigned=False)
PREFIX = "registry.ollama.ai/library/"
ROUTERS = st.integers(0, 2)
NAMES = st.sampled_from(["a:latest", "b:latest"])


class ModelSyncs(RuleBasedStateMachine):
    """Three routers. `expected` holds the last successful change per name, until the registry loses entries."""

    max_tombstones = 1024
    drops_tombstones = False

    @initialize()
    def start(self) -> None:
        self.registry = FakeRegistry()
        self.clock = partial(next, itertools.count(1.0))
        self.syncs = [self.model_sync(str(index)) for index in range(3)]
        self.next_event = [0, 0, 0]
        self.expected: dict[str, str | None] = {}
        self.flushed = False

    def model_sync(self, router_id: str) -> ModelSync:
        return ModelSync(self.registry, ModelStore(self.max_tombstones), TRUST, router_id=router_id, clock=self.clock)

    @rule(router=ROUTERS, name=NAMES, system=st.text("xyz", min_size=1, max_size=3))
    def make(self, router: int, name: str, system: str) -> None:
        made = VirtualModel(name=name, revision=1, base="m:latest", system=system)
        asyncio.run(self.syncs[router].change(lambda: made))
        self.expected[name] = system

    @rule(router=ROUTERS, name=NAMES)
    def delete(self, router: int, name: str) -> None:
        asyncio.run(self.syncs[router].change(lambda: VirtualModel(name=name, revision=1, deleted=True)))
        self.expected[name] = None

    @rule(router=ROUTERS, lost=st.booleans())
    def receive(self, router: int, lost: bool) -> None:
        """Deliver the next message of the channel, or lose it."""
        if self.next_event[router] < len(self.registry.events):
            event = self.registry.events[self.next_event[router]]
            self.next_event[router] += 1
            if not lost:
                asyncio.run(self.syncs[router].changed(event))

    @rule(router=ROUTERS)
    def poll(self, router: int) -> None:
        asyncio.run(self.syncs[router].polled(self.registry.version))

    @rule()
    def flush(self) -> None:
        self.registry.flush()
        self.flushed = True

    @rule(name=NAMES, revision=st.integers(1, 10**6), announced=st.booleans())
    def forge(self, name: str, revision: int, announced: bool) -> None:
        """Write an entry without knowing the secret."""
        evil = VirtualModel(name=name, revision=revision, base="m:latest", system="evil")
        key = PREFIX + name
        envelope, before = sign_model(evil, key, fleet="f", secret=b"a guess"), self.registry.version
        self.registry.put(key, envelope)
        if announced:  # announced on the channel, as a router would
            self.registry.events.append(ModelChanged(False, before, self.registry.version, key, envelope))

    def teardown(self) -> None:
        if not hasattr(self, "registry"):
            return
        for _ in range(3):
            for router in range(3):
                self.poll(router)
        one, two, three = (
            {model.name: model.system for model in model_sync.store.live.values()} for model_sync in self.syncs
        )
        assert one == two == three
        assert "evil" not in one.values()
        assert set(one) <= set(self.expected)
        if not (self.flushed or self.drops_tombstones):
            assert one == {name: system for name, system in self.expected.items() if system is not None}
        fresh = self.model_sync("fresh")
        asyncio.run(fresh.polled(self.registry.version))
        assert {model.name: model.system for model in fresh.store.live.values()} == one


class Forgetful(ModelSyncs):
    """Tombstones are dropped at once: a deleted model may return, but on all routers."""

    max_tombstones = 0
    drops_tombstones = True


TestKeepers = ModelSyncs.TestCase
TestKeepers.settings = settings(max_examples=60, stateful_step_count=25, deadline=None)
TestForgetful = Forgetful.TestCase
TestForgetful.settings = TestKeepers.settings
