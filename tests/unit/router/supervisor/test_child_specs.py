from __future__ import annotations

from vllama_pool.router.instance import LISTEN_FD, RouterInstance
from vllama_pool.router.supervisor.child import ChildKind
from vllama_pool.router.supervisor.child_specs import agent_child_spec, router_child_specs
from vllama_pool.router.supervisor.worker_specs import WorkerGroup, expand_group
from vllama_pool.workers.agent.command_line import WorkerSpec

WORKER = WorkerSpec("m", "w", 1)


def test_each_replica_gets_its_own_gpu_in_cuda_visible_devices() -> None:
    workers = expand_group(WorkerGroup(["m"], replicas=2, gpus=["4", "GPU-7f"]))
    specs = [agent_child_spec(worker, {"PATH": "/bin", "CUDA_VISIBLE_DEVICES": "4,GPU-7f"}) for worker in workers]
    assert [spec.env["CUDA_VISIBLE_DEVICES"] for spec in specs] == ["4", "GPU-7f"]


def test_the_agents_command_line_passes_vllm_flags_unchanged() -> None:
    flags = ("--gpu-memory-utilization", "0.3", "--served-model-name", "a", "b", "--port-like", "x y")
    spec = agent_child_spec(WorkerSpec("./m", "w-0", 8100, flags), {"PATH": "/bin"})
    assert spec.kind is ChildKind.WORKER
    command = spec.argv[spec.argv.index("worker") :]
    assert command == (
        *("worker", "--model", "./m", "--name", "w-0", "--port", "8100", "--engine", "vllm", "--"),
        *flags,
    )
    assert "CUDA_VISIBLE_DEVICES" not in spec.env


def test_the_agents_command_line_has_the_workers_tags() -> None:
    argv = agent_child_spec(WorkerSpec("./m", "w-0", 8100, ("--x",), tags=("a100", "zone-b")), {}).argv
    assert argv[-4:] == ("--tag=a100", "--tag=zone-b", "--", "--x")


def test_secrets_reach_children_only_through_the_environment() -> None:
    environ = {"VLLAMA_WORKER_KEY": "s3cret-s3cret-s3cret", "REDIS_URL": "redis://:s3cret@h"}
    specs = [*router_child_specs(RouterInstance.new_family(2), 7, environ), agent_child_spec(WORKER, environ)]
    for spec in specs:
        assert "s3cret" not in " ".join(spec.argv)
        assert spec.env["VLLAMA_WORKER_KEY"] == "s3cret-s3cret-s3cret"


def test_workers_do_not_get_the_routers_own_secrets() -> None:
    own = dict.fromkeys(("VLLAMA_API_KEYS", "VLLAMA_API_KEYS_FILE", "VLLAMA_ADMIN_KEY", "VLLAMA_ADMIN_KEY_FILE"), "x")
    environ = {**own, "VLLAMA_FLEET_SECRET": "s", "PATH": "/bin"}
    assert agent_child_spec(WORKER, environ).env == {"VLLAMA_FLEET_SECRET": "s", "PATH": "/bin"}
    (router,) = router_child_specs(RouterInstance.new_family(1), 7, environ)
    assert own.keys() <= router.env.keys()


def test_router_processes_share_the_listening_socket() -> None:
    specs = router_child_specs(RouterInstance.new_family(2), 7, {})
    assert [spec.name for spec in specs] == ["router-0", "router-1"]
    assert all(spec.fds == (7,) and spec.env[LISTEN_FD] == "7" for spec in specs)
