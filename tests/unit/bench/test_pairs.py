from __future__ import annotations

from tests.bench.pairs import Pair, Side, comparison


def a_pair(rate: float, first: float, *, alone: float = 0.041, other: float = 0.0) -> Pair:
    """A pair with 100 tokens per second, and 200 and 40 ms to the first token, directly."""
    return Pair(Side(100.0, 0.2, 0.04), Side(rate, first, alone), other)


def test_throughput_and_first_token_are_compared_pair_by_pair() -> None:
    lines = comparison([a_pair(99.5, 0.201), a_pair(98.0, 0.203), a_pair(101.0, 0.2005)], 0.3)
    assert lines[0] == "3 of 3 pairs count; other programs used at most 0.00 cores in them"
    assert lines[4:7] == [
        "| tokens per second | 100 (100–100) | 99.5 (98.0–101) | 0.9950 (0.9800 to 1.0100) |",
        "| time to first token, ms | 200 (200–200) | 201 (200–203) | +1.00 (+0.50 to +3.00) |",
        "| time to first token of a stream alone, ms | 40.0 (40.0–40.0) | 41.0 (41.0–41.0) | +1.00 (+1.00 to +1.00) |",
    ]
    assert lines[-3:] == [
        "throughput: 0.9950 of direct, within 1%",
        "first token: +1.00 ms, within 2 ms",
        "first token of a stream alone: +1.00 ms, within 2 ms",
    ]


def test_a_slower_router_is_said_to_be_outside_of_the_bounds() -> None:
    assert comparison([a_pair(98.0, 0.203, alone=0.043)], 0.3)[-3:] == [
        "throughput: 0.9800 of direct, NOT within 1%",
        "first token: +3.00 ms, NOT within 2 ms",
        "first token of a stream alone: +3.00 ms, NOT within 2 ms",
    ]


def test_pairs_beside_other_programs_do_not_count() -> None:
    lines = comparison([a_pair(50.0, 1.0, other=0.4), a_pair(100.0, 0.2, other=0.2)], 0.3)
    assert lines[0] == "1 of 2 pairs count; other programs used at most 0.20 cores in them"
    assert lines[-3].startswith("throughput: 1.0000")
    assert comparison([a_pair(50.0, 1.0, other=0.4)], 0.3) == [
        "0 of 1 pairs count; other programs used at most 0.00 cores in them"
    ]
