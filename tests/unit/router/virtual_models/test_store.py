"""The store: the highest revision wins, in any order."""

from __future__ import annotations

from itertools import permutations

from hypothesis import given
from hypothesis import strategies as st

from vllama_pool.router.virtual_models.store import ModelStore
from vllama_pool.workers.registry.virtual_model import VirtualModel

KEY = "registry.ollama.ai/library/v:latest"


def model(revision: int, *, name: str = "v:latest", deleted: bool = False, system: str = "") -> VirtualModel:
    base = "" if deleted else "m:latest"
    return VirtualModel(name=name, revision=revision, changed=revision, deleted=deleted, base=base, system=system)


def test_the_highest_revision_wins_in_any_order() -> None:
    for order in permutations([model(1), model(2, deleted=True), model(3)]):
        store = ModelStore()
        for one in order:
            store.merge(one)
        assert dict(store.live) == {KEY: model(3)}


def test_a_tombstone_hides_a_model_and_stays() -> None:
    store = ModelStore()
    assert store.merge(model(1))
    assert store.merge(model(2, deleted=True))
    assert not store.merge(model(1))
    assert dict(store.live) == {}
    assert store.all[KEY].deleted


def test_of_two_equal_revisions_the_registrys_wins() -> None:
    store = ModelStore()
    store.merge(model(4, system="mine"))
    assert not store.merge(model(4, system="another's"))
    assert not store.merge(model(4, system="mine"), from_registry=True)
    assert store.merge(model(4, system="another's"), from_registry=True)
    assert store.live[KEY].system == "another's"


def test_names_that_differ_in_case_are_one_model() -> None:
    store = ModelStore()
    store.merge(model(1, name="V:latest"))
    store.merge(model(2))
    assert list(store.live) == [KEY]


def test_tombstones_beyond_the_limit_drop_the_oldest_first() -> None:
    store = ModelStore(max_tombstones=2)
    for number in range(1, 7):
        store.merge(model(number, name=f"v{number}:latest", deleted=number > 2))
    assert store.drop_oldest_tombstones() == [
        "registry.ollama.ai/library/v3:latest",
        "registry.ollama.ai/library/v4:latest",
    ]
    assert len(store.live) == 2
    assert len(store.all) == 4
    assert store.drop_oldest_tombstones() == []


@given(st.lists(st.tuples(st.sampled_from("ab"), st.integers(1, 5), st.booleans()), max_size=12))
def test_the_stores_state_does_not_depend_on_the_order_of_merges(
    revisions: list[tuple[str, int, bool]],
) -> None:
    models = {(name, revision): model(revision, name=name, deleted=gone) for name, revision, gone in revisions}
    orders = [list(models.values()), list(reversed(models.values()))]
    states = []
    for order in orders:
        store = ModelStore()
        for one in order:
            store.merge(one)
        states.append((dict(store.live), dict(store.all)))
    assert states[0] == states[1]
