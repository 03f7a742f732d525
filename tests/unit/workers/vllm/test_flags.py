"""Parsing of vLLM's flags."""

from __future__ import annotations

from vllama_pool.workers.vllm.flags import Flags


def test_flag_values_follow_a_space_or_an_equals_sign() -> None:
    assert Flags(["--port", "1"]).value("--port") == "1"
    assert Flags(["--port=1"]).value("--port") == "1"
    assert Flags(["--max_num_seqs=8"]).number("--max-num-seqs") == 8
    assert Flags(["-tp", "2"]).number("--tensor-parallel-size", "-tp") == 2


def test_the_last_occurrence_of_a_flag_wins() -> None:
    assert Flags(["--port", "1", "--port=2"]).value("--port") == "2"


def test_a_flag_may_have_several_values_and_negative_numbers() -> None:
    flags = Flags(["--served-model-name", "a", "b:1", "--seed", "-1", "--lora-modules", "x=p", "y=q"])
    assert flags.values("--served-model-name") == ("a", "b:1")
    assert flags.number("--seed") == -1
    assert flags.values("--lora-modules") == ("x=p", "y=q")


def test_a_flag_value_may_contain_an_equals_sign() -> None:
    assert Flags(["--lora-modules=x=/p"]).value("--lora-modules") == "x=/p"


def test_switches_are_reverted_by_their_no_form() -> None:
    assert Flags(["--enforce-eager"]).on("--enforce-eager")
    assert not Flags(["--enforce-eager", "--no-enforce-eager"]).on("--enforce-eager")
    assert Flags(["--no-enforce-eager"]).has("--enforce-eager")
    assert not Flags([]).has("--enforce-eager")


def test_missing_or_mistyped_flag_values_are_empty() -> None:
    flags = Flags(["--max-num-seqs", "many", "--override-generation-config", "[1]"])
    assert flags.value("--port") is None
    assert flags.number("--max-num-seqs") is None
    assert flags.object("--override-generation-config") == {}
    assert Flags(["--override-generation-config", '{"top_k": 3}']).object("--override-generation-config") == {
        "top_k": 3
    }
