from __future__ import annotations

import pytest

from vllama_pool.router.supervisor.checks import CannotLaunch
from vllama_pool.router.supervisor.worker_specs import WorkerGroup, expand_group, expand_groups, share_gpus
from vllama_pool.workers.agent.command_line import WorkerSpec


def test_replicas_take_consecutive_ports_and_numbered_names() -> None:
    workers = expand_group(WorkerGroup(["org/SmolLM2-135M"], ["smollm2"], replicas=3), first_port=8100)
    assert [(worker.name, worker.port) for worker in workers] == [
        ("smollm2-0", 8100),
        ("smollm2-1", 8101),
        ("smollm2-2", 8102),
    ]


def test_workers_of_two_models_get_consecutive_ports() -> None:
    workers = expand_group(WorkerGroup(["a/x", "b/y"], replicas=2), first_port=9000, host="gpu1")
    assert [(worker.name, worker.port) for worker in workers] == [
        ("x-gpu1-9000", 9000),
        ("x-gpu1-9001", 9001),
        ("y-gpu1-9002", 9002),
        ("y-gpu1-9003", 9003),
    ]


def test_a_single_worker_keeps_the_name_without_a_number() -> None:
    assert expand_group(WorkerGroup(["m"], ["llama"]))[0].name == "llama"


def test_without_models_there_are_no_workers() -> None:
    assert expand_groups([WorkerGroup([], replicas=2)]) == []


@pytest.mark.parametrize(
    ("groups", "first_port", "advice"),
    [
        ([WorkerGroup(["a", "b"], ["x"])], 8100, "one for each model"),
        ([WorkerGroup(["a", "b"], ["x", "x"])], 8100, "give each a name of its own"),
        ([WorkerGroup(["a"], ["x"]), WorkerGroup(["b"], ["x"])], 8100, "give each a name of its own"),
        ([WorkerGroup(["a"], replicas=4)], 65533, "--vllm-port"),
        ([WorkerGroup(["a"], replicas=2), WorkerGroup(["b"])], 65534, "--vllm-port"),
        ([WorkerGroup(["a"], replicas=2, gpus=["0", "1", "2"])], 8100, "a multiple of 2"),
    ],
)
def test_impossible_groups_are_refused_with_the_option_to_change(
    groups: list[WorkerGroup], first_port: int, advice: str
) -> None:
    with pytest.raises(CannotLaunch, match=advice):
        expand_groups(groups, first_port=first_port)


def test_each_group_keeps_its_own_flags_and_ports_continue() -> None:
    chat = WorkerGroup(["a"], ["chat"], replicas=2, gpus=["0", "1"], flags=["--max-model-len", "2048"])
    embedding = WorkerGroup(["b"], gpus=["0"], engine="simulated", tags=["rack-3", "a100"])
    assert expand_groups([chat, embedding], first_port=9000, host="gpu1") == [
        WorkerSpec("a", "chat-0", 9000, ("--max-model-len", "2048"), gpus=("0",)),
        WorkerSpec("a", "chat-1", 9001, ("--max-model-len", "2048"), gpus=("1",)),
        WorkerSpec("b", "b-gpu1-9002", 9002, engine="simulated", tags=("rack-3", "a100"), gpus=("0",)),
    ]


def test_neighbouring_gpus_go_to_the_same_worker() -> None:
    assert share_gpus(["0", "1", "2", "3"], 2) == [("0", "1"), ("2", "3")]
    assert share_gpus([], 2) == [(), ()]
