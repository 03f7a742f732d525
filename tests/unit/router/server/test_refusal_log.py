"""Refusals in the log: their texts, and how seldom they are logged."""

from __future__ import annotations

import logging

import pytest

from tests.support.balance import Clock
from tests.support.keys import grants
from vllama_pool.config.api_keys import ApiKey, digest
from vllama_pool.config.settings import RouterSettings
from vllama_pool.router.server.access import Access, AccessRequest, EarlyResponse
from vllama_pool.router.server.cors import Origins
from vllama_pool.router.server.refusal import Reason, Refusal
from vllama_pool.router.server.refusal_log import BURST, REFILL, REPEAT, RefusalLog

TAGS = AccessRequest("GET", "/api/tags", host="localhost", client="10.1.2.3", server="10.0.0.1")
KEYED = Access(keys=grants([ApiKey("anna", digest("annas-key"))]), allow_anonymous=False)


def text(access: Access, request: AccessRequest) -> str:
    decision = access.decide(request)
    assert isinstance(decision, EarlyResponse)
    assert decision.refusal is not None
    return decision.refusal.text


@pytest.mark.parametrize(
    ("host", "says", "cure"),
    [
        ("ai.example.com", 'Host "ai.example.com"', "set VLLAMA_ALLOWED_HOSTS=ai.example.com"),
        ("AI.Example.com:8443", 'Host "AI.Example.com:8443"', "set VLLAMA_ALLOWED_HOSTS=ai.example.com"),
        ("ai.example.com.", 'Host "ai.example.com."', "set VLLAMA_ALLOWED_HOSTS=ai.example.com"),
        ("8.8.8.8", 'Host "8.8.8.8"', "set VLLAMA_ALLOWED_HOSTS=8.8.8.8"),
        ("[2001:db8::1]:80", 'Host "[2001:db8::1]:80"', "set VLLAMA_ALLOWED_HOSTS=2001:db8::1"),
        ("a b;rm -rf", 'Host "a b;rm -rf"', "send the name of this router"),
        ("u:hunter2@ai.example.com", 'Host "\\u2026@ai.example.com"', "send the name of this router"),
        ("x\x9b\r\n\xff", 'Host "x\\u009b\\r\\n\\u00ff"', "send the name of this router"),
    ],
)
def test_a_foreign_host_is_named_with_the_setting_that_allows_it(host: str, says: str, cure: str) -> None:
    refused = text(Access(), TAGS._replace(host=host))
    assert says in refused
    assert cure in refused
    if "=" in cure:
        allowed = RouterSettings(allowed_hosts=(cure.partition("=")[2],))
        assert not isinstance(Access.from_settings(allowed, {}).decide(TAGS._replace(host=host)), EarlyResponse)


def test_a_password_in_an_origin_is_not_shown() -> None:
    refused = text(Access(), TAGS._replace(origin="https://anna:hunter2@b.example.com"))
    assert "hunter2" not in refused
    assert "anna" not in refused
    assert "b.example.com" in refused


def test_the_cure_adds_to_what_is_set() -> None:
    hosts = Access(allowed_hosts=frozenset({"a.example.com"}))
    assert text(hosts, TAGS._replace(host="b.example.com")).endswith("add b.example.com to VLLAMA_ALLOWED_HOSTS")
    origins = Access(origins=Origins(["https://a.example.com"]))
    refused = text(origins, TAGS._replace(origin="https://b.example.com"))
    assert refused.endswith("add https://b.example.com to VLLAMA_ORIGINS")


@pytest.mark.parametrize("method", ["POST", "OPTIONS"])
@pytest.mark.parametrize(
    ("origin", "cure"),
    [
        ("https://app.example.com", "set VLLAMA_ORIGINS=https://app.example.com"),
        ("null", "open the page at an address of its own"),
        ("https://e\x1b[31m", "open the page at an address of its own"),
    ],
)
def test_a_foreign_origin_is_named_with_the_setting_that_allows_it(method: str, origin: str, cure: str) -> None:
    refused = text(Access(), TAGS._replace(method=method, origin=origin))
    assert cure in refused
    assert refused.isprintable()


def test_long_values_are_cut() -> None:
    assert len(text(Access(), TAGS._replace(host="x" * 60_000))) < 300
    assert len(text(Access(), TAGS._replace(origin="http://" + "\xff" * 60_000))) < 900


def test_a_missing_key_is_told_from_an_unknown_one() -> None:
    assert 'from 10.1.2.3 has no key; send one (make it with "vllama key new NAME")' in text(KEYED, TAGS)
    unknown = text(KEYED, TAGS._replace(authorization="Bearer secret-of-theirs"))
    assert "has a key that is neither in VLLAMA_API_KEYS nor in the routing file" in unknown
    assert "secret" not in unknown


def test_admin_paths_name_the_admin_key() -> None:
    metrics = TAGS._replace(path="/metrics")
    assert "set VLLAMA_ADMIN_KEY to open" in text(Access(), metrics)
    closed = Access(admin_digest=digest("0123456789abcdef"))
    assert "send VLLAMA_ADMIN_KEY" in text(closed, metrics)
    assert "in VLLAMA_ADMIN_KEY" in text(closed, metrics._replace(x_api_key="wrong"))


def host(name: str) -> Refusal:
    return Refusal(Reason.HOST, f"Host {name}")


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def log(clock: Clock) -> RefusalLog:
    return RefusalLog(clock)


def logged(caplog: pytest.LogCaptureFixture) -> list[str]:
    lines = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    caplog.clear()
    return lines


def test_a_repeated_text_is_logged_once_in_ten_minutes(
    log: RefusalLog, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    for _ in range(1000):
        log.refused(host("a"))
    assert logged(caplog) == ["refused: Host a"]
    clock.now += REPEAT
    log.refused(host("a"))
    assert logged(caplog) == ["refused: Host a (999 more refusals for this reason were not logged)"]


def test_different_texts_have_few_lines_per_reason(
    log: RefusalLog, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    for number in range(10_000):
        log.refused(host(str(number)))
    assert len(logged(caplog)) == BURST
    log.refused(Refusal(Reason.ORIGIN, "Origin x"))
    assert logged(caplog) == ["refused: Origin x"]
    clock.now += REFILL
    for number in range(BURST, 10_000):
        log.refused(host(str(number)))
    assert logged(caplog) == [f"refused: Host {BURST} ({10_000 - BURST} more refusals for this reason were not logged)"]
