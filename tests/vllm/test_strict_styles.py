"""Forms of conversations for the strict templates of several families, which real vLLM renders.

Each request brings its template: the answers of the router are what matters here, not how vLLM got the template.
"""

from __future__ import annotations

import json
from typing import Any

import httpx
import pytest

from tests.support.protocol import CLOCK, outgoing
from tests.support.vllm.servers import ANSWER_TIMEOUT, VllmServer
from vllama_pool.config.routing.defaults import NO_DEFAULTS
from vllama_pool.router.protocol.ollama import chat
from vllama_pool.router.protocol.ollama.model_plan import ModelPlan
from vllama_pool.router.protocol.ollama.requests import decode_chat
from vllama_pool.router.protocol.vllm.errors import classify
from vllama_pool.workers.registry.record import ModelInfo

ALTERNATE = "Conversation roles must alternate user/assistant/user/assistant/..."
GEMMA = f"""\
{{%- if messages[0].role == 'system' %}}{{{{ raise_exception('System role not supported') }}}}{{% endif -%}}
{{%- for message in messages -%}}
{{%- if (message.role == 'user') != (loop.index0 % 2 == 0) %}}{{{{ raise_exception('{ALTERNATE}') }}}}{{% endif -%}}
<start>{{{{ 'model' if message.role == 'assistant' else message.role }}}}
{{{{ message.content | trim }}}}<end>
{{%- endfor -%}}
"""
LLAMA2 = f"""\
{{%- set turns = messages[1:] if messages[0].role == 'system' else messages -%}}
{{%- for message in turns -%}}
{{%- if (message.role == 'user') != (loop.index0 % 2 == 0) %}}{{{{ raise_exception('{ALTERNATE}') }}}}{{% endif -%}}
{{%- set system = '<<SYS>>' + messages[0].content if loop.first and messages[0].role == 'system' else '' -%}}
{{%- if message.role == 'user' %}}[INST] {{{{ system + message.content }}}} [/INST]{{% else %}}{{{{ message.content }}}}{{% endif -%}}
{{%- endfor -%}}
"""  # noqa: E501
MISTRAL = f"""\
{{%- set turns = messages[1:] if messages[0].role == 'system' else messages -%}}
{{%- set turn = namespace(index=0) -%}}
{{%- for message in turns -%}}
{{%- if message.role == 'user' or (message.role == 'assistant' and not message.tool_calls) -%}}
{{%- if (message.role == 'user') != (turn.index % 2 == 0) -%}}
{{{{ raise_exception('After the optional system message, c' + '{ALTERNATE}'[1:]) }}}}
{{%- endif -%}}
{{%- set turn.index = turn.index + 1 -%}}
{{%- endif -%}}
{{%- for call in message.tool_calls or [] -%}}
{{%- if call.id | length != 9 -%}}
{{{{ raise_exception('Tool call IDs should be alphanumeric strings with length 9!') }}}}
{{%- endif -%}}
[TOOL_CALLS]{{{{ call.function.name + call.id }}}}
{{%- endfor -%}}
{{%- if message.role not in ('user', 'assistant', 'tool') -%}}
{{{{ raise_exception('Only user and assistant roles are supported, with the exception of an initial optional system message!') }}}}
{{%- endif -%}}
{{{{ message.content }}}}
{{%- endfor -%}}
{{%- if tools %}}[AVAILABLE_TOOLS]{{% endif -%}}
"""  # noqa: E501
QWEN = """\
{%- set found = namespace(question=false) -%}
{%- for message in messages -%}
{%- if message.role == 'system' and not loop.first -%}
{{ raise_exception('System message must be at the beginning.') }}
{%- endif -%}
{%- if message.role == 'user' %}{% set found.question = true %}{% endif -%}
<turn>{{ message.role }}
{{ message.content }}
{%- for call in message.tool_calls or [] %}<tool_call>{{ call.function.name }}{% endfor -%}
{%- endfor -%}
{%- if not found.question %}{{ raise_exception('No user query found in messages.') }}{% endif -%}
{%- if tools %}<tools>{% endif -%}
"""
TEMPLATES = {"gemma": GEMMA, "llama2": LLAMA2, "mistral": MISTRAL, "qwen": QWEN}

USER = {"role": "user", "content": "hello"}
ASSISTANT = {"role": "assistant", "content": "Hello!"}
SYSTEM = {"role": "system", "content": "be brief"}
CALL = {"role": "assistant", "content": "", "tool_calls": [{"function": {"name": "f", "arguments": {"n": 1}}}]}
RESULT = {"role": "tool", "content": "22"}
CONVERSATIONS: dict[str, list[dict[str, Any]]] = {
    "in turn": [USER, ASSISTANT, USER],
    "system": [SYSTEM, USER],
    "system later": [USER, ASSISTANT, SYSTEM, USER],
    "system last": [USER, SYSTEM],
    "two systems": [SYSTEM, SYSTEM, USER],
    "two users": [USER, USER],
    "two assistants": [USER, ASSISTANT, ASSISTANT, USER],
    "assistant first": [ASSISTANT, USER],
    "only systems": [SYSTEM, SYSTEM],
    "a result": [SYSTEM, USER, CALL, RESULT],
    "results": [USER, CALL, RESULT, CALL, RESULT, ASSISTANT, USER],
    "a question after a result": [USER, CALL, RESULT, USER],
    "a result first": [RESULT, USER],
}


@pytest.mark.parametrize("known", [True, False], ids=["known", "unknown"])
@pytest.mark.parametrize("name", CONVERSATIONS)
@pytest.mark.parametrize("style", TEMPLATES)
def test_a_strict_template_renders_the_first_or_the_second_form(
    configured_vllm: VllmServer, style: str, name: str, known: bool
) -> None:
    """`known`: the router has the template."""
    template = TEMPLATES[style]
    info = ModelInfo(
        name=configured_vllm.model,
        context_length=256,
        template=template if known else "",
        capabilities=("completion", "tools") if "tools" in template else ("completion",),
    )
    body = {"model": "m", "messages": CONVERSATIONS[name], "options": {"num_predict": 2}}
    request = decode_chat(json.dumps(body).encode())
    step = chat.prepare(request, ModelPlan(info, NO_DEFAULTS), CLOCK)
    answer = ask(configured_vllm, outgoing(step).body, template)
    if answer.status_code != 200:
        refusal = classify(answer.status_code, answer.content)
        assert refusal.status == 400
        adapted = chat.adapt(request, ModelPlan(info, NO_DEFAULTS), CLOCK, refusal)
        assert adapted is not None, refusal.text
        answer = ask(configured_vllm, outgoing(adapted).body, template)
    assert answer.status_code == 200, answer.text


def ask(server: VllmServer, body: bytes, template: str) -> httpx.Response:
    fields = {**json.loads(body), "chat_template": template, "stream": False, "stream_options": None}
    return httpx.post(f"{server.url}/v1/chat/completions", json=fields, trust_env=False, timeout=ANSWER_TIMEOUT)
