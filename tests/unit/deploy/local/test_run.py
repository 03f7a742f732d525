"""`make run`: the command for each kind of machine and model."""

from __future__ import annotations

from deploy.local.package_managers import ROOT
from deploy.local.run import plan_launch
from deploy.local.setup import MINILM, SMOLLM2

Arguments = tuple[str, ...]


def option(argv: Arguments, name: str) -> str:
    return argv[argv.index(name) + 1]


def groups(argv: Arguments) -> tuple[Arguments, Arguments]:
    """Return the arguments for the chat model and for the embedding model."""
    middle = argv.index("--and")
    return argv[:middle], argv[middle + 1 :]


def test_without_a_gpu_two_workers_share_the_cores() -> None:
    launch = plan_launch((), cores=8, model="", port="")
    assert launch.parts == ("dev", "vllm", "smollm2", "minilm")
    assert launch.argv[1] == "serve"
    assert option(launch.argv, "--port") == "11434"
    assert option(launch.argv, "--model") == str(SMOLLM2)
    assert option(launch.argv, "--served-model-name") == "smollm2:135m"
    assert option(launch.argv, "--replicas") == "2"
    assert "--gpus" not in launch.argv
    assert launch.env["VLLAMA_VLLM"] == str(ROOT / ".venv-vllm/bin/vllm")
    assert launch.env["OMP_NUM_THREADS"] == "4"
    assert launch.env["VLLM_CPU_OMP_THREADS_BIND"] == "nobind", "both workers would bind to the same cores"


def test_each_gpu_gets_a_worker() -> None:
    launch = plan_launch(("0", "1", "2"), cores=64, model="", port="8000")
    assert option(launch.argv, "--port") == "8000"
    assert option(launch.argv, "--replicas") == "3"
    assert option(launch.argv, "--gpus") == "0,1,2"
    assert option(launch.argv, "--served-model-name") == "smollm2:135m"
    assert "--enforce-eager" not in launch.argv
    assert launch.env["VLLAMA_VLLM"] == str(ROOT / ".venv-vllm-cuda/bin/vllm")
    assert "OMP_NUM_THREADS" not in launch.env


def test_a_given_model_keeps_its_name_and_may_be_downloaded() -> None:
    launch = plan_launch(("0",), cores=8, model="Qwen/Qwen3-8B", port="")
    assert launch.parts == ("dev", "vllm")
    assert option(launch.argv, "--model") == "Qwen/Qwen3-8B"
    assert "--served-model-name" not in launch.argv
    assert "HF_HUB_OFFLINE" not in launch.env


def test_make_run_without_a_model_starts_an_embedding_worker() -> None:
    _, arguments = groups(plan_launch((), cores=2, model="", port="").argv)
    assert option(arguments, "--model") == str(MINILM)
    assert option(arguments, "--served-model-name") == option(arguments, "--name") == "all-minilm"
    assert "--replicas" not in arguments


def test_the_embedding_worker_shares_the_first_gpu() -> None:
    chat, arguments = groups(plan_launch(("2", "3"), cores=2, model="", port="").argv)
    assert option(arguments, "--gpus") == "2"
    shares = [float(option(some, "--gpu-memory-utilization")) for some in (chat, arguments)]
    assert sum(shares) < 0.92, "vLLM's default share"


def test_a_given_model_runs_without_an_embedding_worker() -> None:
    launch = plan_launch(("0",), cores=8, model="Qwen/Qwen3-8B", port="")
    assert not {"--and", "--gpu-memory-utilization"} & set(launch.argv)


def test_extra_arguments_follow_ours_and_override_them() -> None:
    for model in ("", "Qwen/Qwen3-8B"):
        argv = plan_launch((), 2, model, "", ["--max-num-seqs", "2"]).argv
        assert (groups(argv)[0] if "--and" in argv else argv)[-2:] == ("--max-num-seqs", "2")


def test_a_machine_with_one_core_gets_one_thread() -> None:
    assert plan_launch((), cores=1, model="", port="").env["OMP_NUM_THREADS"] == "1"
