"""Real vLLM for the tests beside this file.

A server starts when a test first asks for it, serves all later tests that share it, and ends before a test that does
not. Tests of the same servers form a group: two groups may run side by side (`--dist loadgroup`). A start counts as
part of the test that causes it, so tests may run longer here than elsewhere. All servers are forks of one process that
has imported vLLM, so a start takes 3 s of CPU time; only agents start the program itself.
"""

from __future__ import annotations

import json
import os
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from pathlib import Path

import httpx
import pytest

from tests.support.fleet.live import PATIENT, Fleet, fleet
from tests.support.vllm.servers import ANSWER_TIMEOUT, PreparedProcess, Servers, Spec, VllmServer

ROOT = Path(__file__).resolve().parents[2]
HERE = Path(__file__).parent
MODELS = ROOT / ".models"
TIMEOUT = 900
GROUPS = {
    "smollm2_pair": "pair",
    "all_minilm_vllm": "thinker",
    "tiny_qwen3_vllm": "thinker",
    "smollm2_vllm": "chat",
    "no_system_vllm": "templates",
    "system_first_vllm": "templates",
    "configured_vllm": "templates",
    "tiny_bert_vllm": "small",
    "tiny_vision_vllm": "small",
    "cross_encoder_vllm": "small",
    "strict_vllm": "strict",
}
"""The group of the tests that use a server. A group's tests run by their last server in this order, so that each server
starts once. Short groups come last, so that two processes that take the groups in this order end together."""
SERVERS: pytest.StashKey[Servers] = pytest.StashKey()
METRICS = ("--enable-per-request-metrics", "--enable-prompt-tokens-details")
TOOLS = ("--enable-auto-tool-choice", "--tool-call-parser", "hermes", "--reasoning-parser", "qwen3")
GENERATION_CONFIG = {
    "max_new_tokens": 5,
    "temperature": 2.0,
    "repetition_penalty": 20.0,
    "top_k": 1,
    "top_p": 0.001,
    "min_p": 1.0,
}

NO_SYSTEM = """\
{%- if messages[0].role == 'system' %}{{ raise_exception('System role not supported') }}{% endif -%}
{%- set complaint = 'Conversation roles must alternate user/assistant/user/assistant/...' -%}
"""
SYSTEM_FIRST = """\
{%- if messages[0].role == 'system' -%}
<|im_start|>system
{{ messages[0].content }}<|im_end|>
{% set messages = messages[1:] -%}
{%- endif -%}
{%- set complaint = 'After the optional system message, conversation roles must alternate user/assistant/user/assistant/...' -%}
"""  # noqa: E501
ROLES_IN_TURN = """\
{%- set turn = namespace(index=0) -%}
{%- for message in messages -%}
{%- if message.role != 'tool' and not message.tool_calls -%}
{%- if (message.role == 'user') != (turn.index % 2 == 0) %}{{ raise_exception(complaint) }}{% endif -%}
{%- set turn.index = turn.index + 1 -%}
{%- endif -%}
<|im_start|>{{ message.role }}
{{ message.content | replace('secret', '') | trim -}}
{%- for call in message.tool_calls or [] %}
<tool_call>{{ call.id }}{{ call.function.name }}</tool_call>
{%- endfor -%}
<|im_end|>
{% endfor -%}
{%- if add_generation_prompt %}<|im_start|>assistant
{% endif -%}
"""
"""Tool results and calls do not count as turns."""


@pytest.hookimpl(tryfirst=True)  # before xdist reads the groups
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    ours = [item for item in items if HERE in item.path.parents]
    for item in ours:
        item.add_marker(pytest.mark.vllm)
        item.add_marker(pytest.mark.xdist_group(_group(item)))
        if item.get_closest_marker("timeout") is None:
            item.add_marker(pytest.mark.timeout(TIMEOUT))
    ordered = iter(sorted(ours, key=_rank))
    items[:] = [next(ordered) if HERE in item.path.parents else item for item in items]


def pytest_runtest_teardown(item: pytest.Item, nextitem: pytest.Item | None) -> None:
    """Stop the servers that the next test does not use: each takes 3 GB."""
    if _fixtures(item) & GROUPS.keys() and not (nextitem is not None and _shared(item, nextitem)):
        item.session.stash[SERVERS].stop()


def _fixtures(item: pytest.Item) -> set[str]:
    return set(getattr(item, "fixturenames", ()))


def _shared(item: pytest.Item, other: pytest.Item) -> set[str]:
    """Return the server fixtures that both tests use."""
    return _fixtures(item) & _fixtures(other) & GROUPS.keys()


def _group(item: pytest.Item) -> str:
    used = _fixtures(item)
    return next((group for name, group in GROUPS.items() if name in used), item.path.stem)


def _rank(item: pytest.Item) -> int:
    """Return the place of its group and, within that, of its last server. Tests without a shared server come first."""
    ranks = list(GROUPS)
    used = [ranks.index(name) for name in _fixtures(item) & GROUPS.keys()]
    return max(used, default=-1)


def _needed(path: Path, what: str) -> Path:
    """Tests on real vLLM are part of the whole: what they lack makes them fail, not go by in silence."""
    if not path.exists():
        pytest.fail(f"{what} is missing: run `make test`, which sets it up ({path.relative_to(ROOT)})", pytrace=False)
    return path


# --- what the set-up has made ---


@pytest.fixture(scope="session")
def vllm_command() -> list[str]:
    """vLLM's program, without arguments."""
    return [str(_needed(ROOT / ".venv-vllm" / "bin" / "vllm", "vLLM for the CPU"))]


@pytest.fixture(scope="session")
def smollm2() -> Path:
    """The folder of SmolLM2-135M-Instruct as `make run` serves it: chat and tools, no thinking."""
    return _needed(MODELS / "smollm2-135m-instruct", "the model SmolLM2")


@pytest.fixture(scope="session")
def tiny_qwen3() -> Path:
    """A model that thinks, calls tools, and says the same every time at temperature 0."""
    return _needed(MODELS / "tiny-qwen3", "the test model tiny-qwen3")


@pytest.fixture(scope="session")
def tiny_qwen3_lora() -> Path:
    """An adapter for it."""
    return _needed(MODELS / "tiny-qwen3-lora", "the test model tiny-qwen3-lora")


@pytest.fixture(scope="session")
def tiny_bert() -> Path:
    """An embedding model of 64 dimensions."""
    return _needed(MODELS / "embed" / "bert", "the test model embed/bert")


@pytest.fixture(scope="session")
def all_minilm() -> Path:
    """all-MiniLM-L6-v2, an embedding model of 384 dimensions."""
    return _needed(MODELS / "all-minilm-l6-v2", "the model all-MiniLM-L6-v2")


@pytest.fixture(scope="session")
def no_template() -> Path:
    """A model without a chat template: it completes, and cannot chat."""
    return _needed(MODELS / "tiny-plain", "the test model tiny-plain")


@pytest.fixture(scope="session")
def tiny_vision() -> Path:
    """A model that takes images and answers something."""
    return _needed(MODELS / "tiny-vision", "the test model tiny-vision")


# --- servers ---


@pytest.fixture(scope="session")
def servers(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Servers]:
    """Starts servers, and stops all of them after the last test."""
    running = [url for url in os.environ.get("VLLAMA_TEST_VLLM_URL", "").split(",") if url]
    prepared = PreparedProcess(lambda: Path(request.getfixturevalue("vllm_command")[0]).with_name("python"))
    made = Servers(prepared, tmp_path_factory.mktemp("vllm"), running=running)
    request.session.stash[SERVERS] = made
    yield made
    made.stop()
    prepared.stop()


@pytest.fixture(scope="session")
def smollm2_spec(smollm2: Path) -> Spec:
    return Spec("smollm2:135m", smollm2, ("--max-model-len", "2048", "--max-num-seqs", "8", *METRICS))


@pytest.fixture
def smollm2_vllm(servers: Servers, smollm2_spec: Spec) -> VllmServer:
    """SmolLM2 as smollm2:135m, 2048 tokens of context, 8 slots."""
    return servers.get(smollm2_spec)


@pytest.fixture
def smollm2_pair(servers: Servers, smollm2: Path) -> tuple[VllmServer, VllmServer]:
    """Two servers of SmolLM2 with 32 slots, for tests that freeze or kill them."""
    spec = Spec("smollm2:135m", smollm2, ("--max-model-len", "2048", "--max-num-seqs", "32"))
    first, second = (servers.get(replace(spec, env=(("REPLICA", name),)), own=True) for name in "12")
    return first, second


@pytest.fixture(scope="session")
def tiny_qwen3_spec(tiny_qwen3: Path) -> Spec:
    return Spec("tiny-qwen3", tiny_qwen3, ("--max-model-len", "1024", *METRICS, *TOOLS))


@pytest.fixture
def tiny_qwen3_vllm(servers: Servers, tiny_qwen3_spec: Spec) -> VllmServer:
    """tiny-qwen3 with tools and thinking, 1024 tokens of context."""
    return servers.get(tiny_qwen3_spec)


@pytest.fixture(scope="session")
def strict_specs(tiny_qwen3: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Spec]:
    """tiny-qwen3 with templates that want user and assistant in turn."""
    folder = tmp_path_factory.mktemp("templates")
    flags = ("--max-model-len", "1024", *METRICS, *TOOLS, "--chat-template")
    specs = {}
    for name, beginning in (("no-system", NO_SYSTEM), ("system-first", SYSTEM_FIRST)):
        path = folder / f"{name}.jinja"
        path.write_text(beginning + ROLES_IN_TURN)
        specs[name] = Spec(name, tiny_qwen3, (*flags, str(path)))
    return specs


@pytest.fixture
def no_system_vllm(servers: Servers, strict_specs: dict[str, Spec]) -> VllmServer:
    """Its template has no system role, as Gemma's."""
    return servers.get(strict_specs["no-system"])


@pytest.fixture
def system_first_vllm(servers: Servers, strict_specs: dict[str, Spec]) -> VllmServer:
    """Its template takes one system message, as Mistral's. It also deletes the word "secret"."""
    return servers.get(strict_specs["system-first"])


@pytest.fixture(scope="session")
def configured_spec(tiny_qwen3: Path, tmp_path_factory: pytest.TempPathFactory) -> Spec:
    """tiny-qwen3 whose generation_config.json has every setting that vLLM reads."""
    folder = tmp_path_factory.mktemp("configured")
    for file in tiny_qwen3.iterdir():
        (folder / file.name).symlink_to(file.resolve())
    path = folder / "generation_config.json"
    settings = json.loads(path.read_text())
    path.unlink()
    path.write_text(json.dumps({**settings, **GENERATION_CONFIG}))
    return Spec("configured", folder, ("--max-model-len", "256", "--trust-request-chat-template", *METRICS, *TOOLS))


@pytest.fixture
def configured_vllm(servers: Servers, configured_spec: Spec) -> VllmServer:
    """Its answers have five tokens, the most probable ones, unless the request says otherwise."""
    return servers.get(configured_spec)


@pytest.fixture
def tiny_bert_vllm(servers: Servers, tiny_bert: Path) -> VllmServer:
    """tiny-bert, 512 tokens of context."""
    return servers.get(Spec("tiny-bert", tiny_bert))


@pytest.fixture
def all_minilm_vllm(servers: Servers, all_minilm: Path) -> VllmServer:
    """all-MiniLM-L6-v2 as all-minilm, 256 tokens of context."""
    return servers.get(Spec("all-minilm", all_minilm, ("--dtype", "float32")))


@pytest.fixture
def tiny_vision_vllm(servers: Servers, tiny_vision: Path) -> VllmServer:
    """tiny-vision, which sees, 1024 tokens of context."""
    return servers.get(Spec("tiny-vision", tiny_vision, (*METRICS, "--trust-request-chat-template")))


# --- a router, for tests that start workers of their own ---


@pytest.fixture
async def running(tmp_path: Path) -> AsyncIterator[Fleet]:
    async with fleet(tmp_path, {}, **PATIENT) as live:
        live.http.timeout = httpx.Timeout(ANSWER_TIMEOUT)
        yield live
