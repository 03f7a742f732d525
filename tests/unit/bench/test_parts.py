from __future__ import annotations

from collections import Counter

import pytest

from tests.bench.parts import LOOP, Profile, by_function, by_part, largest, part, table

SITE = "/x/lib/python3.11/site-packages"


@pytest.mark.parametrize(
    ("file", "callee", "expected"),
    [
        ("<event loop>", "", LOOP),
        ("/x/vllama_pool/router/server/gate.py", "write", LOOP),
        ("/x/vllama_pool/router/server/gate.py", "", "router/server"),
        ("/x/vllama_pool/router/protocol/ollama/chat.py", "encode", "router/protocol"),
        ("/x/vllama_pool/router/offload.py", "", "router/offload"),
        (f"{SITE}/uvicorn/protocols/http/httptools_impl.py", "", "uvicorn"),
        ("/x/lib/python3.11/asyncio/events.py", "", "standard library"),
        ("<string>", "", "standard library"),
        ("/x/elsewhere.py", "", "other"),
    ],
)
def test_a_sample_belongs_to_a_part_by_its_file_and_to_the_loop_while_it_sends(
    file: str, callee: str, expected: str
) -> None:
    assert part(file, callee) == expected


def test_samples_are_summed_by_part_and_by_function() -> None:
    samples = [
        ("<event loop>", "", "", 5),
        ("/x/vllama_pool/router/server/gate.py", "__call__", "", 2),
        ("/x/vllama_pool/router/server/access.py", "decide", "sha256", 3),
    ]
    assert by_part(samples) == {LOOP: 5, "router/server": 5}
    functions = by_function(samples)
    assert functions["router/server/access.py:decide > sha256"] == 3
    assert largest(functions, 100.0, 2) == [f"   50.00  {LOOP}", "   30.00  router/server/access.py:decide > sha256"]


def test_the_table_compares_microseconds_and_sums_up_small_parts() -> None:
    now = Profile("now", Counter({"router/server": 600, LOOP: 397, "rich": 3}), 100.0, 0.25)
    before = Profile("before", Counter({"router/server": 500, LOOP: 500}), 200.0, 0.2)
    assert table([now, before], "request").splitlines() == [
        "| part | now, µs per request | before, µs per request |",
        "| --- | --- | --- |",
        "| `router/server` | 60.0 (60%) | 100 (50%) |",
        f"| {LOOP} | 39.7 (40%) | 100 (50%) |",
        "| the rest | 0.30 (0%) | 0.00 (0%) |",
        "| all | 100 | 200 |",
        "| of which in the kernel | 25.0 (25%) | 40.0 (20%) |",
    ]
