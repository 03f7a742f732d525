"""Rendezvous hashing: even shares, and few keys that move."""

from collections import Counter
from dataclasses import dataclass

from vllama_pool.router.balance.hashing import first_for, order_for, stable_hash


@dataclass(frozen=True)
class Member:
    name: str

    @property
    def seed(self) -> int:
        return stable_hash(self.name)


MEMBERS = tuple(Member(f"worker-{number}") for number in range(8))
KEYS = [stable_hash(f"user {number}") for number in range(20_000)]


def test_hashes_are_the_same_in_every_process() -> None:
    assert stable_hash("a") == 4681665781835383343
    assert stable_hash("a") != stable_hash("b")


def test_keys_spread_evenly() -> None:
    shares = Counter(first_for(key, MEMBERS).name for key in KEYS)
    assert len(shares) == 8
    assert max(shares.values()) < 1.08 * 20_000 / 8
    assert min(shares.values()) > 0.92 * 20_000 / 8


def test_small_keys_spread_too() -> None:
    shares = Counter(first_for(key, MEMBERS).name for key in range(1, 20_001))
    assert max(shares.values()) < 1.1 * 20_000 / 8


def test_a_member_that_leaves_moves_only_its_own_keys_and_each_to_its_next() -> None:
    left = MEMBERS[3]
    rest = tuple(member for member in MEMBERS if member is not left)
    moved = [key for key in KEYS if first_for(key, MEMBERS) is left]
    assert all(first_for(key, rest) is first_for(key, MEMBERS) for key in set(KEYS) - set(moved))
    assert all(first_for(key, rest) is order_for(key, MEMBERS)[1] for key in moved)
    targets = Counter(first_for(key, rest).name for key in moved)
    assert len(targets) == 7
    assert max(targets.values()) < 1.25 * len(moved) / 7


def test_the_first_is_the_head_of_the_order() -> None:
    for key in KEYS[:500]:
        order = order_for(key, MEMBERS)
        assert order[0] is first_for(key, MEMBERS)
        assert sorted(order, key=MEMBERS.index) == list(MEMBERS)
        assert order_for(key, MEMBERS[::-1]) == order
