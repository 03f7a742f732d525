import hashlib

import pytest

from vllama_pool.config.api_keys import LONGEST_SECRET, ApiKey, digest, identify, parse_keys

ANNA = hashlib.sha256(b"anna's secret").hexdigest()
BOB = hashlib.sha256(b"bob's secret").hexdigest()


def test_keys_are_read_from_commas_and_lines() -> None:
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
def test_what_is_wrong_is_named_without_repeating_a_secret(text: str, why: str) -> None:
    with pytest.raises(ValueError, match=why) as raised:
        parse_keys(text)
    assert "hunter2" not in str(raised.value)


def test_a_secret_identifies_its_holder() -> None:
    keys = (ApiKey("anna", digest("anna's secret")), ApiKey("bob", digest("bob's secret")))
    assert identify("anna's secret", keys) == "anna"
    assert identify("bob's secret", keys) == "bob"


@pytest.mark.parametrize(
    "secret", ["", "Anna's secret", "anna's secret ", ANNA, "x" * (LONGEST_SECRET + 1), "é", "\udcff"]
)
def test_anything_else_identifies_nobody(secret: str) -> None:
    assert identify(secret, (ApiKey("anna", digest("anna's secret")),)) is None
    assert identify(secret, ()) is None


def test_a_secret_that_is_too_long_is_nobodys_even_if_its_hash_is_known() -> None:
    long = "x" * (LONGEST_SECRET + 1)
    assert identify(long, (ApiKey("anna", digest(long)),)) is None
    assert identify(long[1:], (ApiKey("anna", digest(long[1:])),)) == "anna"
