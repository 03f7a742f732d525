"""The longest answer to the requests of an API key."""

from __future__ import annotations

import pytest

from vllama_pool.config.routing.defaults import NO_DEFAULTS, Defaults
from vllama_pool.router.admission.output_cap import MAX_KEPT, OutputCap


@pytest.mark.parametrize(("entry", "effective"), [(None, 8), (9, 8), (8, 8), (3, 3)])
def test_the_smaller_limit_of_entry_and_key_counts(entry: int | None, effective: int) -> None:
    defaults = Defaults({"seed": 1}, "system", output=entry, context=50)
    capped = OutputCap(8).apply(defaults)
    assert (capped.output, capped.context, capped.system, capped.options) == (effective, 50, "system", {"seed": 1})
    assert defaults.output == entry


def test_an_entrys_defaults_are_made_once() -> None:
    cap = OutputCap(8)
    assert cap.apply(NO_DEFAULTS) is cap.apply(NO_DEFAULTS)
    lower = Defaults(output=3)
    assert cap.apply(lower) is lower


def test_a_bounded_number_of_defaults_is_kept() -> None:
    cap = OutputCap(8)
    first = Defaults()
    made = cap.apply(first)
    for _ in range(MAX_KEPT):
        cap.apply(Defaults())
    assert cap.apply(first) is not made
