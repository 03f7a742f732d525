"""Ollama's own command line: the requests of each command, and the types that its strict decoder requires."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from tests.contract.replays.conftest import Replay

CLIENT = "ollama-cli"
TIME = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{1,9})?(Z|[+-]\d\d:\d\d)"
COUNTS = ("total_duration", "load_duration", "prompt_eval_count", "prompt_eval_duration", "eval_count", "eval_duration")


def check_line(line: dict[str, Any]) -> None:
    """Check the types that Go decodes."""
    assert re.fullmatch(TIME, line["created_at"])
    assert isinstance(line["done"], bool)
    assert all(type(line.get(name, 0)) is int for name in COUNTS)


async def test_the_liveness_request_gets_an_empty_200(replay: Replay) -> None:
    answer = await replay("alive")
    assert answer.status_code == 200
    assert answer.content == b""


async def test_the_version_is_three_numbers(replay: Replay) -> None:
    assert re.fullmatch(r"\d+\.\d+\.\d+", (await replay.object("version"))["version"])


async def test_list_has_digests_sizes_and_times(replay: Replay) -> None:
    for model in (await replay.object("list"))["models"]:
        assert len(model["digest"]) >= 12
        assert type(model["size"]) is int
        assert re.fullmatch(TIME, model["modified_at"])
        assert not {"remote_model", "remote_host"} & set(model)


async def test_ps_has_expiry_size_and_context_length(replay: Replay) -> None:
    for model in (await replay.object("ps"))["models"]:
        assert re.fullmatch(TIME, model["expires_at"])
        assert type(model["size_vram"]) is int
        assert type(model["context_length"]) is int
        assert len(model["digest"]) >= 12


async def test_show_accepts_the_old_field_name(replay: Replay) -> None:
    shown = await replay.object("show")
    assert shown["details"]["family"]
    assert shown["model_info"]["general.architecture"]
    assert re.fullmatch(TIME, shown["modified_at"])


async def test_run_streams_the_thoughts_of_a_thinking_model(replay: Replay) -> None:
    assert "thinking" in (await replay.object("show to run"))["capabilities"]
    *parts, last = await replay.lines("run")
    for line in (*parts, last):
        check_line(line)
    assert "".join(part.get("thinking", "") for part in parts)
    assert "Simulated answer" in "".join(part["response"] for part in parts)
    assert last["response"] == ""
    assert all(last[name] > 0 for name in COUNTS)
    assert last["context"]
    assert all(type(token) is int for token in last["context"])


async def test_run_of_an_unknown_model_fails_at_its_pull(replay: Replay) -> None:
    assert (await replay("show unknown")).status_code == 404
    lines = await replay.lines("pull unknown")
    assert lines == [{"status": "pulling manifest"}, {"error": "pull model manifest: file does not exist"}]


async def test_the_interactive_run_loads_and_chats(replay: Replay) -> None:
    assert (await replay.object("load"))["done_reason"] == "load"
    lines = await replay.lines("chat")
    for line in lines:
        check_line(line)
    assert lines[-1]["done"] is True


async def test_run_embeds_with_an_embedding_model(replay: Replay) -> None:
    assert (await replay.object("show to run", "embedder"))["capabilities"] == ["embedding"]
    (vector,) = (await replay.object("embed"))["embeddings"]
    assert len(vector) == 64


async def test_stop_unloads_a_model(replay: Replay) -> None:
    await replay.object("show to run")
    assert (await replay.object("stop"))["done_reason"] == "unload"
    assert (await replay("stop", "nope")).json()["error"].endswith("not found")


async def test_pull_of_a_served_model_succeeds(replay: Replay) -> None:
    lines = await replay.lines("pull")
    assert lines[0] == {"status": "pulling manifest"}
    assert lines[-1] == {"status": "success"}
    assert all(re.fullmatch("sha256:[0-9a-f]{64}", line["digest"]) for line in lines if "digest" in line)


async def test_copies_are_served_and_removed(replay: Replay) -> None:
    copied = await replay("cp")
    assert (copied.status_code, copied.content) == (200, b"")
    assert (await replay.lines("run", "second"))[-1]["model"] == "second"
    assert (await replay.object("stop", "second"))["done_reason"] == "unload"
    removed = await replay("rm", "second")
    assert (removed.status_code, removed.content) == (200, b"")
    assert (await replay("show", "second")).status_code == 404


async def test_a_saved_model_keeps_its_parameters_and_messages(replay: Replay) -> None:
    assert (await replay.lines("save"))[-1] == {"status": "success"}
    shown = await replay.object("show", "saved")
    assert re.search(r"^temperature +0\.5$", shown["parameters"], re.MULTILINE)
    assert [message["content"] for message in shown["messages"]] == ["hello", "hello to you"]
    await replay.lines("chat", "saved")
    sent = replay.upstream_body()
    assert sent["temperature"] == 0.5
    assert [message["content"] for message in sent["messages"]] == ["hello", "hello to you", "hello"]


@pytest.mark.parametrize("name", ["thinker", "nope"])
async def test_served_models_and_unknown_names_cannot_be_removed(replay: Replay, name: str) -> None:
    answer = await replay("rm", name)
    assert answer.status_code == {"thinker": 403, "nope": 404}[name]
    assert isinstance(answer.json()["error"], str)
