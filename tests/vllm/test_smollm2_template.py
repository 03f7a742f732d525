"""The chat template that `make run` gives SmolLM2, rendered by the transformers library of vLLM's environment."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
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
for line in sys.stdin:
    template, chat = json.loads(line)
    prompt = render_jinja_template([chat.pop("messages")], chat_template=template, **chat)[0][0]
    print(json.dumps(prompt), flush=True)
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


class Renderer:
    """Renders in a process, because to import the library takes seconds."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    def prompts(self, *pairs: tuple[str, Chat]) -> list[str]:
        """Return the prompts of pairs of template and chat."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        found = []
        for pair in pairs:
            self._process.stdin.write(json.dumps(pair) + "\n")
            self._process.stdin.flush()
            found.append(json.loads(self._process.stdout.readline() or '"the renderer has ended"'))
        return found


@pytest.fixture(scope="module")
def renderer(vllm_command: list[str]) -> Iterator[Renderer]:
    python = Path(vllm_command[0]).with_name("python")
    with subprocess.Popen([python, "-c", RENDER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        yield Renderer(process)
        process.kill()


def test_a_chat_without_tools_renders_as_with_the_models_original_template(renderer: Renderer) -> None:
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
    prompts = renderer.prompts(*[(template, chat) for chat in chats for template in templates])
    assert prompts[0::2] == prompts[1::2]
    assert "named SmolLM" in prompts[0]


def test_each_tool_is_one_line_of_the_rendered_system_message(renderer: Renderer) -> None:
    template = SMOLLM2_TEMPLATE.read_text()
    bare = {"type": "function", "function": {"name": "bare"}}
    long = {"type": "function", "function": {"name": "long", "description": "One. Two.\nThree", "parameters": {}}}
    alone, after_system, several = renderer.prompts(
        (template, {"messages": [USER], "tools": [TOOL]}),
        (template, {"messages": [SYSTEM, USER], "tools": [TOOL]}),
        (template, {"messages": [USER], "tools": [bare, long]}),
    )
    assert f"named SmolLM, trained by Hugging Face{INSTRUCTIONS}<|im_start|>user" in alone
    assert after_system.startswith(f"<|im_start|>system\nBe brief.{INSTRUCTIONS}<|im_start|>user")
    assert "\nTools:\nbare()\nlong(): One\nOnly" in several


def test_tool_calls_and_their_results_are_rendered(renderer: Renderer) -> None:
    calls = [
        {"type": "function", "function": {"name": "get_weather", "arguments": arguments}}
        for arguments in ({"city": "Paris"}, '{"city": "Oslo"}')
    ]
    turns = [USER, {"role": "assistant", "content": None, "tool_calls": calls}, {"role": "tool", "content": "22"}]
    [prompt] = renderer.prompts(
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
