"""Images in conversations that strict templates refuse, which real vLLM renders in the second form.

The styles are those of `test_strict_styles.py`, with contents as texts or as lists of parts. Requests bring the
template.
"""

from __future__ import annotations

import json
from typing import Any

import httpx
import pytest

from tests.support.protocol import CLOCK, outgoing
from tests.support.vllm.servers import ANSWER_TIMEOUT, VllmServer
from tests.vllm.test_strict_styles import ALTERNATE, GEMMA, LLAMA2, QWEN, ask
from tests.vllm.test_vision import png
from vllama_pool.config.routing.defaults import NO_DEFAULTS
from vllama_pool.router.errors import AttemptFailed
from vllama_pool.router.protocol.ollama import chat
from vllama_pool.router.protocol.ollama.model_plan import ModelPlan
from vllama_pool.router.protocol.ollama.requests import decode_chat
from vllama_pool.router.protocol.vllm.errors import classify
from vllama_pool.workers.registry.record import ModelInfo

CONTENT = """\
{% if message.content is string %}{{ message.content }}
{%- else %}{% for part in message.content %}{% if part.type == 'image' %}<image>{% else %}{{ part.text }}{% endif %}{% endfor %}
{%- endif %}</turn>
{%- endfor -%}
"""  # noqa: E501
TURNS = f"""\
{{%- for message in messages -%}}
{{%- if (message.role == 'user') != (loop.index0 % 2 == 0) %}}{{{{ raise_exception('{ALTERNATE}') }}}}{{% endif -%}}
<turn>{{{{ message.role }}}}
"""
GEMMA_PARTS = (
    "{%- if messages[0].role == 'system' %}{{ raise_exception('System role not supported') }}{% endif -%}\n"
    + TURNS
    + CONTENT
)
QWEN_PARTS = (
    """\
{%- for message in messages -%}
{%- if message.role == 'system' and not loop.first -%}
{{ raise_exception('System message must be at the beginning.') }}
{%- endif -%}
{%- if message.role == 'system' and message.content is not string -%}
{%- for part in message.content -%}
{%- if part.type != 'text' %}{{ raise_exception('System message cannot contain images.') }}{% endif -%}
{%- endfor -%}
{%- endif -%}
<turn>{{ message.role }}
"""
    + CONTENT
)
TEMPLATES = {"gemma": GEMMA, "llama2": LLAMA2, "qwen": QWEN, "gemma parts": GEMMA_PARTS, "qwen parts": QWEN_PARTS}
IMAGE = png(16, 16)
USER = {"role": "user", "content": "hello"}
LOOK = {"role": "user", "content": "look", "images": [IMAGE]}
ASSISTANT = {"role": "assistant", "content": "Hello!"}
SYSTEM = {"role": "system", "content": "be brief"}
SHOWN = {**SYSTEM, "images": [IMAGE]}
CONVERSATIONS: dict[str, list[dict[str, Any]]] = {
    "alone": [LOOK],
    "before a user": [LOOK, USER],
    "after a user": [USER, LOOK],
    "two": [LOOK, LOOK],
    "without a text": [{**LOOK, "content": ""}, USER],
    "system first": [SYSTEM, SYSTEM, LOOK],
    "system later": [LOOK, ASSISTANT, SYSTEM, USER],
    "in an earlier turn": [LOOK, USER, ASSISTANT, ASSISTANT, USER],
    "after an assistant": [ASSISTANT, LOOK],
    "of a system message": [SHOWN, USER],
    "of a later system message": [USER, ASSISTANT, SHOWN, USER],
    "of a tool": [USER, {"role": "tool", "content": "22", "images": [IMAGE]}, USER],
}


@pytest.mark.parametrize("known", [True, False], ids=["known", "unknown"])
@pytest.mark.parametrize("name", CONVERSATIONS)
@pytest.mark.parametrize("style", TEMPLATES)
def test_images_survive_a_strict_template(tiny_vision_vllm: VllmServer, style: str, name: str, known: bool) -> None:
    """`known`: the router has the template."""
    template, conversation = TEMPLATES[style], CONVERSATIONS[name]
    info = ModelInfo(
        name=tiny_vision_vllm.model,
        context_length=1024,
        template=template if known else "",
        capabilities=("completion", "vision"),
    )
    body = rendered(tiny_vision_vllm, conversation, template, info)
    images = sum(len(message.get("images", ())) for message in conversation)
    sent = json.loads(body)["messages"]
    assert sum(part["type"] == "image_url" for message in sent for part in parts(message)) == images
    page = {"model": info.name, "messages": sent, "chat_template": template}
    tokens = httpx.post(f"{tiny_vision_vllm.url}/tokenize", json=page, trust_env=False, timeout=ANSWER_TIMEOUT).json()[
        "tokens"
    ]
    text = detokenized(tiny_vision_vllm, tokens)
    assert text.count("<global-img>") == images
    assert "lookhello" not in text


def rendered(server: VllmServer, conversation: list[dict[str, Any]], template: str, info: ModelInfo) -> bytes:
    """Return the body of the first request that the template renders."""
    request = decode_chat(json.dumps({"model": "m", "messages": conversation, "options": {"num_predict": 2}}).encode())
    step = chat.prepare(request, ModelPlan(info, NO_DEFAULTS), CLOCK)
    body = outgoing(step).body
    answer = ask(server, body, template)
    refusals: list[AttemptFailed] = []
    if answer.status_code != 200:
        refusals.append(classify(answer.status_code, answer.content))
        adapted = chat.adapt(request, ModelPlan(info, NO_DEFAULTS), CLOCK, *refusals)
        assert adapted is not None, refusals[-1].text
        body = outgoing(adapted).body
        answer = ask(server, body, template)
    assert answer.status_code == 200, answer.text
    return body


def parts(message: dict[str, Any]) -> list[dict[str, Any]]:
    content: list[dict[str, Any]] | str = message["content"]
    return [] if isinstance(content, str) else content


def detokenized(server: VllmServer, tokens: list[int]) -> str:
    page = {"model": server.model, "tokens": tokens}
    text: str = httpx.post(f"{server.url}/detokenize", json=page, trust_env=False, timeout=ANSWER_TIMEOUT).json()[
        "prompt"
    ]
    return text
