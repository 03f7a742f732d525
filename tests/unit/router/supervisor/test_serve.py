from __future__ import annotations

import io
from pathlib import Path

import pytest

from vllama_pool.config.settings import RouterSettings
from vllama_pool.router.supervisor.checks import CannotLaunch
from vllama_pool.router.supervisor.console import Console
from vllama_pool.router.supervisor.serve import example_commands, serve
from vllama_pool.router.supervisor.worker_specs import WorkerGroup


def test_the_commands_to_try_name_the_first_model_and_the_url() -> None:
    commands = example_commands("http://127.0.0.1:8000", ["smollm2:135m"], "vllama")
    assert len(commands) == 3
    assert "http://127.0.0.1:8000/api/chat" in commands[0]
    assert '"smollm2:135m"' in commands[0]
    assert commands[2] == "vllama ps --url http://127.0.0.1:8000"
    keyed = example_commands("http://127.0.0.1:8000", ["m"], "vllama", keyed=True)
    assert [command.startswith("curl -H 'Authorization: Bearer KEY' http://") for command in keyed] == [
        True,
        True,
        False,
    ]


def test_the_start_warns_of_a_model_whose_requests_cannot_wait_for_a_worker(tmp_path: Path) -> None:
    file = tmp_path / "routing.yaml"
    file.write_text("models:\n  m: {scale: {from_zero: true}}\n")
    settings = RouterSettings(max_queue=0, routing_file=file)
    out, err = io.StringIO(), io.StringIO()
    with pytest.raises(CannotLaunch, match="--model is empty"):
        serve(settings, [WorkerGroup([""])], Console(out, err), first_worker_port=8100, worker_host="127.0.0.1")
    (line,) = err.getvalue().splitlines()
    assert line.startswith(
        f"vllama: warning: {file}:2:15: models.m.scale.from_zero: no request can wait for a worker, "
    )
