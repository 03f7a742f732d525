import logging

import pytest

from vllama_pool.router.log_once import MAX_KEYS, REPEAT_AFTER, LogOnce, RepeatedWarning

LOGGER = logging.getLogger("test.log_once")


def test_a_reason_is_logged_again_only_after_it_changed_or_was_forgotten(caplog: pytest.LogCaptureFixture) -> None:
    once = LogOnce(LOGGER, "%r is not used: %s")
    assert [once.warn("a", "bad"), once.warn("a", "bad"), once.warn("b", "bad"), once.warn("a", "worse")] == [
        *(True, False, True, True)
    ]
    once.forget("a")
    once.keep({"a"})
    assert once.warn("a", "worse")
    assert once.warn("b", "bad")
    assert caplog.messages[0] == "'a' is not used: bad"


def test_the_number_of_remembered_reasons_is_bounded() -> None:
    once = LogOnce(LOGGER, "%r: %s")
    for number in range(MAX_KEYS + 1):
        once.warn(str(number), "bad")
    assert once.warn("0", "bad"), "forgotten when the bound was reached"


def test_a_repeated_reason_is_logged_again_only_after_a_while(caplog: pytest.LogCaptureFixture) -> None:
    now = 0.0
    repeated = RepeatedWarning(LOGGER, "%s: %s", lambda: now)
    for reason in ("refused", "late", "refused", "late"):
        repeated.warn("a", reason)
    now = REPEAT_AFTER
    repeated.warn("a", "refused")
    assert caplog.messages == ["a: refused", "a: late", "a: refused"]
