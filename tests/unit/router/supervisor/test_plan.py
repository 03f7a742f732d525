"""Plans of `vllama serve`, and the options that it refuses."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from vllama_pool.router.supervisor.child import ChildKind
from vllama_pool.router.supervisor.plan import (
    LISTEN_FD,
    CannotLaunch,
    WorkerGroup,
    WorkerPlan,
    check_model,
    check_ports,
    deal,
    listen,
    plan_groups,
    plan_workers,
    router_specs,
    try_commands,
    url,
    worker_spec,
)


def test_replicas_take_consecutive_ports_and_numbered_names() -> None:
    plans = plan_workers(WorkerGroup(["org/SmolLM2-135M"], ["smollm2"], replicas=3), first_port=8100)
    assert [(plan.name, plan.port) for plan in plans] == [
        ("smollm2-0", 8100),
        ("smollm2-1", 8101),
        ("smollm2-2", 8102),
    ]


def test_workers_of_two_models_get_consecutive_ports() -> None:
    plans = plan_workers(WorkerGroup(["a/x", "b/y"], replicas=2), first_port=9000, host="gpu1")
    assert [(plan.name, plan.port) for plan in plans] == [
        ("x-gpu1-9000", 9000),
        ("x-gpu1-9001", 9001),
        ("y-gpu1-9002", 9002),
        ("y-gpu1-9003", 9003),
    ]


def test_a_single_worker_keeps_the_name_without_a_number() -> None:
    assert plan_workers(WorkerGroup(["m"], ["llama"]))[0].name == "llama"


def test_without_models_no_worker_is_planned() -> None:
    assert plan_groups([WorkerGroup([], replicas=2)]) == []


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
def test_impossible_plans_are_refused_with_the_option_to_change(
    groups: list[WorkerGroup], first_port: int, advice: str
) -> None:
    with pytest.raises(CannotLaunch, match=advice):
        plan_groups(groups, first_port=first_port)


def test_each_group_keeps_its_own_flags_and_ports_continue() -> None:
    chat = WorkerGroup(["a"], ["chat"], replicas=2, gpus=["0", "1"], args=["--max-model-len", "2048"])
    embedding = WorkerGroup(["b"], gpus=["0"], engine="simulated")
    assert plan_groups([chat, embedding], first_port=9000, host="gpu1") == [
        WorkerPlan("chat-0", "a", 9000, ("--max-model-len", "2048"), ("0",)),
        WorkerPlan("chat-1", "a", 9001, ("--max-model-len", "2048"), ("1",)),
        WorkerPlan("b-gpu1-9002", "b", 9002, (), ("0",), "simulated"),
    ]


def test_neighbouring_gpus_go_to_the_same_worker() -> None:
    assert deal(["0", "1", "2", "3"], 2) == [("0", "1"), ("2", "3")]
    assert deal([], 2) == [(), ()]


def test_each_replica_sees_its_own_gpu() -> None:
    plans = plan_workers(WorkerGroup(["m"], replicas=2, gpus=["4", "GPU-7f"]))
    specs = [worker_spec(plan, {"PATH": "/bin", "CUDA_VISIBLE_DEVICES": "4,GPU-7f"}) for plan in plans]
    assert [spec.env["CUDA_VISIBLE_DEVICES"] for spec in specs] == ["4", "GPU-7f"]


def test_the_agents_command_line_passes_vllm_flags_unchanged() -> None:
    flags = ("--gpu-memory-utilization", "0.3", "--served-model-name", "a", "b", "--port-like", "x y")
    spec = worker_spec(WorkerPlan("w-0", "./m", 8100, flags), {"PATH": "/bin"})
    assert spec.kind is ChildKind.WORKER
    command = spec.argv[spec.argv.index("worker") :]
    assert command == (
        *("worker", "--model", "./m", "--name", "w-0", "--port", "8100", "--engine", "vllm", "--"),
        *flags,
    )
    assert "CUDA_VISIBLE_DEVICES" not in spec.env


def test_secrets_reach_children_only_through_the_environment() -> None:
    environ = {"VLLAMA_WORKER_KEY": "s3cret-s3cret-s3cret", "REDIS_URL": "redis://:s3cret@h"}
    specs = [*router_specs(2, 7, environ), worker_spec(WorkerPlan("w", "m", 1), environ)]
    for spec in specs:
        assert "s3cret" not in " ".join(spec.argv)
        assert spec.env["VLLAMA_WORKER_KEY"] == "s3cret-s3cret-s3cret"


def test_workers_do_not_get_the_routers_own_secrets() -> None:
    own = dict.fromkeys(("VLLAMA_API_KEYS", "VLLAMA_API_KEYS_FILE", "VLLAMA_ADMIN_KEY", "VLLAMA_ADMIN_KEY_FILE"), "x")
    environ = {**own, "VLLAMA_FLEET_SECRET": "s", "PATH": "/bin"}
    assert worker_spec(WorkerPlan("w", "m", 1), environ).env == {"VLLAMA_FLEET_SECRET": "s", "PATH": "/bin"}
    (router,) = router_specs(1, 7, environ)
    assert own.keys() <= router.env.keys()


def test_router_processes_share_the_listening_socket() -> None:
    specs = router_specs(2, 7, {})
    assert [spec.name for spec in specs] == ["router-0", "router-1"]
    assert all(spec.fds == (7,) and spec.env[LISTEN_FD] == "7" for spec in specs)


def test_a_folder_with_config_json_is_accepted_as_a_model(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    check_model(WorkerPlan("w", str(tmp_path), 1))


def test_a_hub_name_is_passed_to_vllm_unchecked() -> None:
    check_model(WorkerPlan("w", "meta-llama/Llama-3.2-1B", 1))


@pytest.mark.parametrize("model", ["./nowhere", "/no/such/folder", "~/nowhere", "a/b/c"])
def test_a_missing_model_folder_is_refused(model: str) -> None:
    with pytest.raises(CannotLaunch, match="no model at"):
        check_model(WorkerPlan("w", model, 1))


def test_a_folder_without_a_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CannotLaunch, match=r"no config\.json"):
        check_model(WorkerPlan("w", str(tmp_path), 1))


def test_an_invalid_worker_name_is_refused() -> None:
    with pytest.raises(CannotLaunch, match="not a valid worker id"):
        check_model(WorkerPlan("a b", "org/m", 1))


def test_an_empty_model_is_reported_as_empty() -> None:
    with pytest.raises(CannotLaunch, match="--model is empty"):
        check_model(WorkerPlan("w", "", 1))


def test_vllm_flags_that_vllama_sets_itself_are_refused() -> None:
    with pytest.raises(CannotLaunch, match="--uds"):
        check_model(WorkerPlan("w", "org/m", 1, ("--uds", "/tmp/s")))


def test_a_port_in_use_is_one_line_that_says_what_to_do() -> None:
    with listen("127.0.0.1", 0) as first:
        port = first.getsockname()[1]
        with pytest.raises(CannotLaunch) as caught:
            listen("127.0.0.1", port)
    assert f"127.0.0.1:{port} is in use" in str(caught.value)
    assert f"--port {port + 1}" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_an_address_of_another_machine_is_refused() -> None:
    with pytest.raises(CannotLaunch, match="not an address of this machine"):
        listen("192.0.2.1", 0)


@pytest.mark.skipif(not socket.has_ipv6, reason="no IPv6")
def test_ipv6_loopback_can_be_listened_on() -> None:
    with listen("::1", 0) as sock:
        assert sock.family == socket.AF_INET6


def test_workers_whose_port_is_in_use_are_refused() -> None:
    plans = plan_workers(WorkerGroup(["m"], ["m"], replicas=2), first_port=8100)
    check_ports(plans, 11434, lambda port: True)
    with pytest.raises(CannotLaunch, match="port 8101 for worker m-1"):
        check_ports(plans, 11434, lambda port: port != 8101)
    with pytest.raises(CannotLaunch, match="port 8100 for worker m-0"):
        check_ports(plans, 8100, lambda port: True)


@pytest.mark.parametrize(
    ("host", "expected"),
    [("127.0.0.1", "http://127.0.0.1:1"), ("0.0.0.0", "http://127.0.0.1:1"), ("::", "http://[::1]:1")],
)
def test_the_url_of_a_wildcard_address_is_reachable(host: str, expected: str) -> None:
    assert url(host, 1) == expected


def test_the_commands_to_try_name_the_first_model_and_the_url() -> None:
    commands = try_commands("http://127.0.0.1:8000", ["smollm2:135m"], "vllama")
    assert len(commands) == 3
    assert "http://127.0.0.1:8000/api/chat" in commands[0]
    assert '"smollm2:135m"' in commands[0]
    assert commands[2] == "vllama ps --url http://127.0.0.1:8000"
    keyed = try_commands("http://127.0.0.1:8000", ["m"], "vllama", keyed=True)
    assert [command.startswith("curl -H 'Authorization: Bearer KEY' http://") for command in keyed] == [
        True,
        True,
        False,
    ]
