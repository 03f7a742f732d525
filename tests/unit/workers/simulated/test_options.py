"""The command line: vLLM's flags in vLLM's place."""

from __future__ import annotations

from pathlib import Path

import pytest

from vllama_pool.workers.simulated.faults import Cut
from vllama_pool.workers.simulated.options import parse_arguments


def test_vllms_command_line_is_understood() -> None:
    argv = "serve org/model --served-model-name a b --host 127.0.0.2 --port 8100 --max-num-seqs=16 --max-model-len 2048"
    options, ignored = parse_arguments(argv.split(), {})
    assert options.names == ("a", "b")
    assert (options.root, options.host, options.port) == ("org/model", "127.0.0.2", 8100)
    assert (options.slots, options.max_model_len) == (16, 2048)
    assert ignored == []


def test_the_models_own_name_is_served_where_no_other_is_given() -> None:
    assert parse_arguments(["org/model"], {})[0].names == ("org/model",)
    assert parse_arguments(["--model", "x"], {})[0].names == ("x",)


def test_unsupported_flags_are_ignored_and_reported() -> None:
    argv = ["m", "--dtype", "auto", "--enforce-eager", "--gpu-memory-utilization", "0.3", "-tp", "2"]
    options, ignored = parse_arguments(argv, {})
    assert options.model == "m"
    assert ignored == argv[1:]


def test_speed_multiplies_what_takes_time() -> None:
    pace = parse_arguments(["m", "--tokens-per-second", "40", "--speed", "0.5", "--ttft", "0.1"], {})[0].pace
    assert pace.tokens_per_second == 20.0
    assert pace.ttft == 0.2


def test_the_tool_and_reasoning_flags_work_as_vllms() -> None:
    flags = ["--enable-auto-tool-choice", "--tool-call-parser", "hermes", "--reasoning-parser", "qwen3"]
    options = parse_arguments(["m", *flags], {})[0]
    assert (options.tool_calls, options.tool_parser, options.reasoning) == (True, True, True)
    assert not parse_arguments(["m", "--enable-auto-tool-choice"], {})[0].tool_calls


def test_vllms_environment_is_read() -> None:
    environment = {
        "VLLM_API_KEY": "k",
        "VLLM_SERVER_DEV_MODE": "1",
        "VLLM_HTTP_TIMEOUT_KEEP_ALIVE": "60",
        "VLLM_MAX_STOP_STRINGS": "64",
    }
    options = parse_arguments(["m"], environment)[0]
    assert (options.api_keys, options.dev_mode, options.keep_alive) == (("k",), True, 60.0)
    assert options.max_stop_strings == 64


def test_faults_are_given_as_json() -> None:
    options = parse_arguments(["m", "--fault", '{"kind":"cut","count":1}', "--fault", '[{"kind":"cut"}]'], {})[0]
    assert options.faults == (Cut(count=1), Cut())


@pytest.mark.parametrize(
    ("flags", "complaint"),
    [
        (["--fault", "{}"], "not a fault"),
        (["--speed", "0"], "must be more than 0"),
        (["--max-num-seqs", "0"], "must be at least 1"),
    ],
)
def test_bad_values_are_refused(flags: list[str], complaint: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parse_arguments(["m", *flags], {})
    assert complaint in capsys.readouterr().err


def test_max_new_tokens_of_the_models_files_is_a_default_and_of_a_flag_a_limit(tmp_path: Path) -> None:
    (tmp_path / "generation_config.json").write_text('{"max_new_tokens": 5}')
    limits = {
        (): (5, None),
        ("--generation-config", "vllm"): (None, None),
        ("--generation-config", str(tmp_path)): (5, 5),
        ("--override-generation-config", '{"max_new_tokens": 7}'): (7, 7),
    }
    for flags, (default, limit) in limits.items():
        options, _ = parse_arguments([str(tmp_path), *flags], {})
        assert (options.default_max_tokens, options.max_max_tokens) == (default, limit)


def test_a_worker_transcribes_where_a_flag_says_so() -> None:
    assert parse_arguments(["m", "--transcription"], {})[0].transcription
    assert not parse_arguments(["m"], {})[0].transcription
