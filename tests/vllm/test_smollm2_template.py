"""The chat template that `make run` gives SmolLM2, rendered by the transformers library of vLLM's environment."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from deploy.local.setup import SMOLLM2_TEMPLATE
from tests.support.vllm.weather_tool import TOOL

ORIGINAL_TEMPLATE = """\
{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}{{ '<|im_start|>system
You are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>
' }}{% endif %}{{'<|im_start|>' + message['role'] + '
' + message['content'] + '<|im_end|>' + '
'}}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant
' }}{% endif %}"""
"""The template in the model's GGUF file."""
RENDER = """
import json, sys
from transformers.utils.chat_template_utils import render_jinja_template
for template, chat in json.load(sys.stdin):
    print(json.dumps(render_jinja_template([chat.pop("messages")], chat_template=template, **chat)[0][0]))
"""
Chat = dict[str, Any]
SYSTEM = {"role": "system", "content": "Be brief."}
USER = {"role": "user", "content": " What is 2+2?\n\nThink. "}
ASSISTANT = {"role": "assistant", "content": "4"}
INSTRUCTIONS = """\


Tools:
get_weather(city, unit?): Get the weather
Only if a tool is needed, answer with <tool_call>{"name": ..., "arguments": {...}}</tool_call><|im_end|>
"""


@pytest.fixture
def python(vllm_command: list[str]) -> Path:
    return Path(vllm_command[0]).with_name("python")


def render(python: Path, *pairs: tuple[str, Chat]) -> list[str]:
    """Return the prompts of pairs of template and chat."""
    done = subprocess.run([python, "-c", RENDER], input=json.dumps(pairs), capture_output=True, text=True, check=True)
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_a_chat_without_tools_renders_as_with_the_models_original_template(python: Path) -> None:
    conversations = (
        [USER],
        [SYSTEM, USER],
        [USER, ASSISTANT, USER],
        [SYSTEM, USER, ASSISTANT, USER],
        [USER, ASSISTANT],
        [USER, SYSTEM],
        [{"role": "user", "content": ""}],
        [SYSTEM],
    )
    chats = [
        {"messages": turns, "add_generation_prompt": generate} for turns in conversations for generate in (True, False)
    ]
    templates = ORIGINAL_TEMPLATE, SMOLLM2_TEMPLATE.read_text()
    prompts = render(python, *[(template, chat) for chat in chats for template in templates])
    assert prompts[0::2] == prompts[1::2]
    assert "named SmolLM" in prompts[0]


def test_each_tool_is_one_line_of_the_rendered_system_message(python: Path) -> None:
    template = SMOLLM2_TEMPLATE.read_text()
    bare = {"type": "function", "function": {"name": "bare"}}
    long = {"type": "function", "function": {"name": "long", "description": "One. Two.\nThree", "parameters": {}}}
    alone, after_system, several = render(
        python,
        (template, {"messages": [USER], "tools": [TOOL]}),
        (template, {"messages": [SYSTEM, USER], "tools": [TOOL]}),
        (template, {"messages": [USER], "tools": [bare, long]}),
    )
    assert f"named SmolLM, trained by Hugging Face{INSTRUCTIONS}<|im_start|>user" in alone
    assert after_system.startswith(f"<|im_start|>system\nBe brief.{INSTRUCTIONS}<|im_start|>user")
    assert "\nTools:\nbare()\nlong(): One\nOnly" in several


def test_tool_calls_and_their_results_are_rendered(python: Path) -> None:
    calls = [
        {"type": "function", "function": {"name": "get_weather", "arguments": arguments}}
        for arguments in ({"city": "Paris"}, '{"city": "Oslo"}')
    ]
    turns = [USER, {"role": "assistant", "content": None, "tool_calls": calls}, {"role": "tool", "content": "22"}]
    [prompt] = render(
        python,
        (SMOLLM2_TEMPLATE.read_text(), {"messages": turns, "tools": [TOOL], "add_generation_prompt": True}),
    )
    assert prompt.endswith(
        """\
<|im_start|>assistant
<tool_call>
{"name": "get_weather", "arguments": {"city": "Paris"}}
</tool_call>
<tool_call>
{"name": "get_weather", "arguments": {"city": "Oslo"}}
</tool_call><|im_end|>
<|im_start|>user
<tool_response>
22
</tool_response><|im_end|>
<|im_start|>assistant
"""
    )
