"""The chat template of the demonstration model, as a worker's agent reads it."""

from __future__ import annotations

from pathlib import Path

from deploy.local.setup import LOCKS, SMOLLM2, SMOLLM2_TEMPLATE, steps_for
from tests.support.vllm.model_folder import write_model
from vllama_pool.workers.model import parsers
from vllama_pool.workers.model.describe import Observed, describe
from vllama_pool.workers.model.facts import read_facts
from vllama_pool.workers.model.files import ModelFiles
from vllama_pool.workers.vllm.flags import Flags
from vllama_pool.workers.vllm.probe import ServedModel


def test_the_agent_chooses_the_hermes_parser_and_lists_tools(tmp_path: Path) -> None:
    folder = write_model(tmp_path / SMOLLM2.name, chat_template_dot_jinja=SMOLLM2_TEMPLATE.read_text())
    facts = read_facts(str(folder), ModelFiles((folder,)), Flags(()), parsers.SPECIAL_TOKENS)
    flags = parsers.choose(facts, Flags(())).flags
    assert flags == ("--enable-auto-tool-choice", "--tool-call-parser", "hermes")
    observed = Observed((ServedModel("smollm2:135m", str(folder), "", 4096),), ("completion",))
    [info] = describe(str(folder), Flags(flags), observed, {})
    assert info.capabilities == ("completion", "tools")


def test_the_model_is_rebuilt_when_its_template_changes() -> None:
    step = steps_for(["smollm2"], "cpu")[-1]()
    assert SMOLLM2_TEMPLATE in step.inputs
    assert LOCKS / "smollm2.txt" in step.inputs
