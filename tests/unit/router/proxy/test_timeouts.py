"""The time limits of an entry in place of the settings'."""

from __future__ import annotations

from vllama_pool.config.routing.model_entry import Timeouts as EntryTimeouts
from vllama_pool.router.proxy.stalls import StallLimits
from vllama_pool.router.proxy.timeouts import Timeouts, TimeoutTable

SETTINGS = Timeouts(1, StallLimits(unresponsive_worker=3, first_content=300, mid_response=120, whole_answer=1800))


def test_each_limit_of_an_entry_replaces_its_setting() -> None:
    own = EntryTimeouts(connect=0.5, first_content=20, stall=10, answer=60)
    expected = Timeouts(0.5, StallLimits(unresponsive_worker=3, first_content=20, mid_response=10, whole_answer=60))
    assert TimeoutTable(SETTINGS).of(own) == expected


def test_a_limit_that_an_entry_leaves_out_is_the_settings() -> None:
    merged = TimeoutTable(SETTINGS).of(EntryTimeouts(stall=10))
    assert merged == Timeouts(1, StallLimits(3, 300, 10, 1800))


def test_the_limits_of_an_entry_are_compiled_once() -> None:
    table, own = TimeoutTable(SETTINGS), EntryTimeouts(stall=10)
    assert table.of(own) is table.of(own)
    assert table.of(EntryTimeouts(stall=20)).stalls.mid_response == 20


def test_limits_of_entries_that_a_reload_removed_do_not_pile_up() -> None:
    table = TimeoutTable(SETTINGS)
    for second in range(1, 3000):
        assert table.of(EntryTimeouts(stall=second)).stalls.mid_response == second
    assert int(repr(table).split()[2]) <= 1024
