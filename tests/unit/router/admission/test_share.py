"""Limits that router processes share."""

from vllama_pool.router.admission.share import share_of


def test_a_limit_is_divided_among_the_processes_and_rounded_up() -> None:
    assert [share_of(limit, 3) for limit in (1, 3, 4, 64)] == [1, 1, 2, 22]
