from __future__ import annotations

import random
import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vllama_pool.config.routing.defaults import Defaults
from vllama_pool.router.protocol.model_view import ModelView, human_number, merge
from vllama_pool.workers.registry.record import ModelInfo

DIGEST = "ab" * 32
INFO = ModelInfo(name="HuggingFaceTB/SmolLM2", digest=DIGEST)


@pytest.mark.rule(175)
@pytest.mark.parametrize(
    ("number", "text"),
    [
        (8_000_000_000, "8B"),
        (7_615_616_512, "7.6B"),
        (494_032_768, "494.03M"),
        (361_300, "361K"),
        (12, "12"),
        (2_000_000, "2M"),
    ],
)
def test_parameter_counts_are_in_ollamas_format(number: int, text: str) -> None:
    assert human_number(number) == text


def digest(name: str, **fields: Any) -> str:
    return merge(name, [ModelInfo(name=name, **fields)]).info.digest


@pytest.mark.rule(174)
@pytest.mark.trap(11)
def test_a_digest_is_64_hex_digits_stable_and_unique() -> None:
    digests = [digest("a"), digest("b"), digest("a", capabilities=("completion", "tools")), digest("a", digest="short")]
    assert all(re.fullmatch("[0-9a-f]{64}", text) for text in digests)
    assert digest("a") == digest("a")
    assert len(set(digests[:3])) == 3


@pytest.mark.rule(174)
def test_a_digest_changes_with_the_capabilities() -> None:
    plain, tools = (
        digest("a", digest=DIGEST, capabilities=able) for able in (("completion",), ("completion", "tools"))
    )
    assert plain != tools
    assert digest("b", digest=DIGEST) == plain, "a second name of the same model is the same model"
    assert digest("b", digest="cd" * 32) != plain


@pytest.mark.rule(174)
def test_options_change_the_digest_and_a_virtual_model_has_its_own() -> None:
    warm, hot = (ModelView("x", (INFO,), Defaults({"temperature": value})) for value in (0.5, 1.5))
    plain = ModelView("x", (INFO,))
    made = ModelView("y:latest", (INFO,), base="x:latest", made_digest="ef" * 32)
    assert len({model.digest for model in (warm, hot, plain, made)}) == 4
    assert made.digest == "ef" * 32
    assert plain.digest == plain.merged.info.digest


replicas = st.lists(
    st.builds(
        ModelInfo,
        name=st.just("m"),
        digest=st.sampled_from(["", DIGEST, "cd" * 32]),
        size=st.sampled_from([0, 10, 20]),
        modified_at=st.sampled_from([0.0, 5.0]),
        quantization=st.sampled_from(["", "BF16", "FP8"]),
        context_length=st.sampled_from([0, 1024, 2048]),
        capabilities=st.sampled_from(
            [("completion",), ("completion", "tools"), ("tools", "completion"), ("embedding",)]
        ),
        undetected=st.sampled_from([(), ("tools",), ("thinking", "vision")]),
    ),
    min_size=1,
    max_size=5,
)


@pytest.mark.rule(174)
@given(replicas, st.randoms(use_true_random=False))
def test_merging_does_not_depend_on_the_order_of_replicas(infos: list[ModelInfo], chance: random.Random) -> None:
    shuffled = infos.copy()
    chance.shuffle(shuffled)
    merged = merge("m", infos)
    assert merge("m", shuffled) == merged
    assert re.fullmatch("[0-9a-f]{64}", merged.info.digest)
    assert merged.info.size > 0
    known = [info.context_length for info in infos if info.context_length]
    assert merged.info.context_length == min(known, default=0)
    possible = [{*info.capabilities, *info.undetected} for info in infos]
    assert all({*merged.info.capabilities, *merged.info.undetected} <= names for names in possible)
    listed = {name for info in infos for name in info.capabilities}
    assert ("capabilities" in merged.differ) == any(not listed <= names for names in possible)
    assert ("quantization_level" in merged.differ) == (len({info.quantization for info in infos} - {""}) > 1)


ABLE = ModelInfo(name="m", capabilities=("completion", "tools"))
UNABLE = ModelInfo(name="m")
UNKNOWN = ModelInfo(name="m", undetected=("tools", "thinking"))


@pytest.mark.rule(174, 176)
@pytest.mark.parametrize(
    ("infos", "capabilities", "undetected"),
    [
        ([UNKNOWN], ("completion",), ("tools", "thinking")),
        ([ABLE, UNKNOWN], ("completion", "tools"), ()),
        ([UNABLE, UNKNOWN], ("completion",), ()),
        ([ABLE, UNABLE, UNKNOWN], ("completion",), ()),
    ],
)
def test_an_ability_is_missing_if_a_replica_is_known_not_to_have_it(
    infos: list[ModelInfo], capabilities: tuple[str, ...], undetected: tuple[str, ...]
) -> None:
    merged = merge("m", infos).info
    assert (merged.capabilities, merged.undetected) == (capabilities, undetected)


@pytest.mark.rule(174)
def test_a_replica_with_undetected_abilities_changes_neither_the_digest_nor_the_differences() -> None:
    joined = merge("m", [ABLE, UNKNOWN])
    assert joined.info.digest == merge("m", [ABLE]).info.digest
    assert joined.differ == {}
    assert merge("m", [ABLE, UNABLE]).differ == {"capabilities": ["completion", "tools"]}
