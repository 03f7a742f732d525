from __future__ import annotations

from tests.bench.import_times import by_package, outermost, total
from tests.bench.start import Start, import_lines, summary

IMPORTS = """\
import time: self [us] | cumulative | imported package
import time:       100 |        100 |       os
import time:       300 |        300 |         redis.client
import time:       200 |        500 |       redis
import time:        10 |        510 |     vllama_pool.workers.registry
import time:        40 |         40 |     vllama_pool.workers.registry.record
import time:        50 |        700 |   vllama_pool.router.process
"""


def test_each_packages_own_modules_are_summed() -> None:
    assert by_package(IMPORTS) == {
        "os": 100,
        "redis": 500,
        "vllama_pool.workers.registry": 50,
        "vllama_pool.router.process": 50,
    }
    assert total(IMPORTS) == 700


def test_foreign_modules_that_ours_import_count_with_what_they_import() -> None:
    assert outermost(IMPORTS) == {"os": 100, "redis": 500}


def test_the_largest_imports_are_listed_in_milliseconds() -> None:
    lines = import_lines("router process", IMPORTS.replace(" 300 |        300 ", " 299800 |     299800 "))
    assert lines[1] == "router process: 300 ms of imports"
    assert lines[3] == "    300.0  redis"


def test_starts_are_summed_up_with_the_target() -> None:
    starts = [Start(0.9, 1.0, 0.1), Start(0.8, 1.1, 0.05), Start(1.2, 0.9, 0.2)]
    assert summary(2, starts, 1) == (
        "2 processes: 0.90 (0.80–1.20) s, within 1 s; 1.00 (0.90–1.10) s of CPU; 3 runs, 1 dropped; "
        "other programs used at most 0.20 cores"
    )
    assert "NOT within 1 s" in summary(1, starts[2:], 0)
    assert summary(1, [], 4) == "1 process: none of 4 runs counts; other programs used too much"
