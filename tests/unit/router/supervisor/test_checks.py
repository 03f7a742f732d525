from __future__ import annotations

from pathlib import Path

import pytest

from vllama_pool.router.supervisor.checks import CannotLaunch, check_ports, check_worker
from vllama_pool.router.supervisor.worker_specs import WorkerGroup, expand_group
from vllama_pool.workers.agent.command_line import WorkerSpec


def test_a_folder_with_config_json_is_accepted_as_a_model(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    check_worker(WorkerSpec(str(tmp_path), "w", 1))


def test_a_hub_name_is_passed_to_vllm_unchecked() -> None:
    check_worker(WorkerSpec("meta-llama/Llama-3.2-1B", "w", 1))


@pytest.mark.parametrize("model", ["./nowhere", "/no/such/folder", "~/nowhere", "a/b/c"])
def test_a_missing_model_folder_is_refused(model: str) -> None:
    with pytest.raises(CannotLaunch, match="no model at"):
        check_worker(WorkerSpec(model, "w", 1))


def test_a_folder_without_a_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CannotLaunch, match=r"no config\.json"):
        check_worker(WorkerSpec(str(tmp_path), "w", 1))


def test_an_invalid_worker_name_is_refused() -> None:
    with pytest.raises(CannotLaunch, match="not a valid worker id"):
        check_worker(WorkerSpec("org/m", "a b", 1))


def test_an_empty_model_is_reported_as_empty() -> None:
    with pytest.raises(CannotLaunch, match="--model is empty"):
        check_worker(WorkerSpec("", "w", 1))


def test_vllm_flags_that_vllama_sets_itself_are_refused() -> None:
    with pytest.raises(CannotLaunch, match="--uds"):
        check_worker(WorkerSpec("org/m", "w", 1, ("--uds", "/tmp/s")))


def test_workers_whose_port_is_in_use_are_refused() -> None:
    workers = expand_group(WorkerGroup(["m"], ["m"], replicas=2), first_port=8100)
    check_ports(workers, 11434, lambda port: True)
    with pytest.raises(CannotLaunch, match="port 8101 for worker m-1"):
        check_ports(workers, 11434, lambda port: port != 8101)
    with pytest.raises(CannotLaunch, match="port 8100 for worker m-0"):
        check_ports(workers, 8100, lambda port: True)
