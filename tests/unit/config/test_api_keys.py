import hashlib
from collections.abc import Iterator, Mapping

import pytest

from vllama_pool.config.api_keys import LONGEST_SECRET, ApiKey, digest, identify, parse_keys

ANNA = hashlib.sha256(b"anna's secret").hexdigest()
BOB = hashlib.sha256(b"bob's secret").hexdigest()


def test_keys_are_separated_by_commas_and_lines() -> None:
    text = f"# the team\nanna:{ANNA}  # laptop\n\n bob:{BOB.upper()},ci:{'0' * 64},\n"
    assert parse_keys(text) == (
        ApiKey("anna", bytes.fromhex(ANNA)),
        ApiKey("bob", bytes.fromhex(BOB)),
        ApiKey("ci", bytes(32)),
    )
    assert parse_keys(" ,\n# nobody\n") == ()


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("hunter2", "key 1 is not NAME:SHA256"),
        (f"anna:{ANNA},:hunter2", "key 2 is not NAME:SHA256"),
        ("a b:hunter2", "key 1 is not NAME:SHA256"),
        ("anna:hunter2", "key 1 has no SHA-256 of 64 hex digits; make one with"),
        (f"anna:{ANNA}0", "key 1 has no SHA-256"),
        (f"anna:{ANNA},anna:{BOB}", "two keys are named 'anna'"),
        (f"anna:{ANNA},bob:{ANNA}", "'anna' and 'bob' are the same key"),
    ],
)
def test_an_invalid_key_is_named_by_number_without_its_text(text: str, why: str) -> None:
    with pytest.raises(ValueError, match=why) as raised:
        parse_keys(text)
    assert "hunter2" not in str(raised.value)


def test_a_secret_gives_the_name_of_its_key() -> None:
    keys = {digest("anna's secret"): "anna", digest("bob's secret"): "bob"}
    assert identify("anna's secret", keys) == "anna"
    assert identify("bob's secret", keys) == "bob"


@pytest.mark.parametrize(
    "secret", ["", "Anna's secret", "anna's secret ", ANNA, "x" * (LONGEST_SECRET + 1), "é", "\udcff"]
)
def test_an_unknown_secret_gives_no_name(secret: str) -> None:
    assert identify(secret, {digest("anna's secret"): "anna"}) is None
    assert identify(secret, {}) is None


def test_a_secret_over_the_length_limit_is_rejected_even_if_its_digest_is_known() -> None:
    long = "x" * (LONGEST_SECRET + 1)
    assert identify(long, {digest(long): "anna"}) is None
    assert identify(long[1:], {digest(long[1:]): "anna"}) == "anna"


class OnlyLookup(Mapping[bytes, str]):
    """Counts lookups; cannot be iterated."""

    def __init__(self, names: Mapping[bytes, str]) -> None:
        self._names = names
        self.lookups = 0

    def __getitem__(self, key: bytes) -> str:
        self.lookups += 1
        return self._names[key]

    def __iter__(self) -> Iterator[bytes]:
        raise AssertionError("the keys were iterated")

    def __len__(self) -> int:
        return len(self._names)


@pytest.mark.parametrize("count", [1, 10_000])
def test_identification_costs_one_lookup_whatever_the_number_of_keys(count: int) -> None:
    names = OnlyLookup({digest(f"secret {number}"): f"key-{number}" for number in range(count)})
    assert identify(f"secret {count - 1}", names) == f"key-{count - 1}"
    assert identify("wrong", names) is None
    assert names.lookups == 2
