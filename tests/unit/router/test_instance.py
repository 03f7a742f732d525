"""The identity of a router process in its environment."""

from __future__ import annotations

import pytest

from vllama_pool.router.instance import RouterInstance


def test_parse_reads_what_str_writes() -> None:
    instance = RouterInstance(2, 3, "f00d")
    assert str(instance) == "2/3/f00d"
    assert RouterInstance.parse("2/3/f00d") == instance
    assert RouterInstance.parse("2/3/f00d", restarted=True).restarted


@pytest.mark.parametrize("text", ["", "1/2", "1/2/a/b", "a/2/f00d"])
def test_an_invalid_text_raises_value_error(text: str) -> None:
    with pytest.raises(ValueError, match=r"unpack|literal"):
        RouterInstance.parse(text)


def test_each_process_of_each_serve_has_its_own_abstract_socket() -> None:
    addresses = {RouterInstance(0, 2, family).address(index) for family in ("a", "b") for index in (0, 1)}
    assert len(addresses) == 4
    assert all(address.startswith("\0") for address in addresses)
