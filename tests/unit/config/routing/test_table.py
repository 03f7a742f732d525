import dataclasses
import gc
import json
import os
import re
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from pydantic import ValidationError

from vllama_pool.config.routing.model_entry import Target
from vllama_pool.config.routing.table import (
    DEFAULT_FILE,
    RoutingError,
    load,
    parse,
)


def problems(text: str) -> list[str]:
    with pytest.raises(RoutingError) as raised:
        parse(text.encode(), "f.yaml")
    return str(raised.value).splitlines()


def test_a_complete_file_is_loaded() -> None:
    table = parse(
        b"""
models:
  llama3.2:
    serve: meta-llama/Llama-3.2-1B-Instruct
    aliases: [llama3.2:1b]
    options: {temperature: 0, num_predict: -1, stop: ["</s>"], use_mmap: true}
  assistant:
    serve: [Qwen/Qwen3-8B, {model: Qwen/Qwen3-14B, weight: 3}]
    policy: round-robin
    stream_interval: 4
    completions: templated
  qwen3:8b:
    options: {top_k: 20}
workers:
  - url: http://10.0.0.5:8000/
  - {url: "https://gpu-6", name: gpu-6, slots: 64, tags: [a100, fast]}
"""
    )
    llama, assistant, qwen = table.models.values()
    assert (llama.serve, llama.aliases) == ("meta-llama/Llama-3.2-1B-Instruct", ("llama3.2:1b",))
    assert llama.option_values() == {"temperature": 0, "num_predict": -1, "stop": ["</s>"], "use_mmap": True}
    assert assistant.targets("assistant") == (Target(model="Qwen/Qwen3-8B"), Target(model="Qwen/Qwen3-14B", weight=3))
    assert (assistant.policy, assistant.stream_interval, assistant.completions) == ("round-robin", 4, "templated")
    assert qwen.targets("qwen3:8b") == (Target(model="qwen3:8b"),)
    assert [(worker.label, worker.url) for worker in table.workers] == [
        ("http://10.0.0.5:8000", "http://10.0.0.5:8000"),
        ("gpu-6", "https://gpu-6"),
    ]
    assert (table.workers[1].slots, table.workers[1].tags) == (64, ("a100", "fast"))


def test_numbers_of_options_are_those_of_yaml_1_2() -> None:
    table = parse(b"models: {x: {options: {min_p: 5e-2, seed: 0123, num_ctx: 4e3, top_p: .5, num_keep: 0o17}}}")
    values = table.models["x"].option_values()
    assert values == {"min_p": 0.05, "seed": 123, "num_ctx": 4000, "top_p": 0.5, "num_keep": 15}


@pytest.mark.parametrize("text", ["", "models:\nworkers:\n", "models: {}\nworkers: []\n"])
def test_an_empty_file_is_an_empty_table(text: str) -> None:
    table = parse(text.encode())
    assert (table.models, table.workers) == ({}, ())


def test_a_routing_table_is_immutable() -> None:
    table = parse(b"models: {x: {options: {seed: 1}}}")
    with pytest.raises(dataclasses.FrozenInstanceError):
        table.revision = "1"  # type: ignore[misc]
    with pytest.raises(ValidationError):
        table.models["x"].policy = "round-robin"


def test_the_revision_depends_on_the_content_alone() -> None:
    first, second = parse(b"models: {}", "a.yaml"), parse(b"models: {}", "b.yaml")
    assert first.revision == second.revision != parse(b"models: {x: {}}").revision
    assert len(first.revision) == 12


def test_the_place_of_each_key_is_known() -> None:
    table = parse(b"models:\n  x:\n    policy: round-robin\n", "f.yaml")
    assert table.places["models", "x", "policy"] == ("f.yaml", 3, 5)


def test_keys_for_anchors_are_ignored() -> None:
    table = parse(b"x-common: &c {policy: round-robin}\nmodels: {a: *c}")
    assert table.models["a"].policy == "round-robin"


def test_all_problems_are_reported_in_file_order() -> None:
    lines = problems("models:\n  x:\n    sevre: a\n    options: {temperature: hot}\nworkers:\n  - url: ftp://a\nm: 1\n")
    assert lines == [
        "f.yaml:3:5: models.x.sevre: unknown key; did you mean 'serve'?",
        "f.yaml:4:28: models.x.options.temperature: expected a number, got the text 'hot'; correct it",
        "f.yaml:6:10: workers[0].url: not an http:// or https:// URL; write http://host:port",
        "f.yaml:7:1: m: unknown key; write one of include, models, workers, maintenance, teams, keys, reload",
    ]


def test_a_syntax_error_is_reported_with_its_position() -> None:
    what = "no ',' or ']' where one is due; close the '[' of line 1, or put the text in quotes"
    assert problems("a: [1\n") == [f"f.yaml:2:1: {what}"]


def test_a_conflict_is_found_beside_another_problem() -> None:
    lines = problems("models:\n  x: {serve: 3, aliases: [y]}\n  Y: {serve: b, nope: 1}\n")
    assert len(lines) == 3
    assert any("'y' already stands for 'Y'" in line for line in lines)


def test_load_errors_name_the_file(tmp_path: Path) -> None:
    file = tmp_path / "r.yaml"
    file.write_text("models: {x: {serv: a}}\n")
    with pytest.raises(RoutingError) as raised:
        load(file)
    assert str(raised.value) == f"{file}:1:14: models.x.serv: unknown key; did you mean 'serve'?"
    file.write_text("models: {x: {serve: a}}\n")
    assert list(load(file).models) == ["x"]


def test_load_refuses_unreadable_files(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path, why in (
        (tmp_path / "none.yaml", "No such file"),
        (tmp_path, "not a file"),
        (tmp_path / "pipe", "not a file"),
    ):
        with pytest.raises(RoutingError, match=why) as raised:
            load(path)
        assert str(raised.value).startswith(f"{path}: ")


def test_the_default_file_is_an_empty_table_and_its_examples_load() -> None:
    table = load(DEFAULT_FILE)
    assert (table.models, table.workers) == ({}, ())
    commented = DEFAULT_FILE.read_text().partition("models: {}\n")[2]
    lines = [line.removeprefix("# ") for line in commented.splitlines() if line.startswith("# ")]
    example = parse("\n".join(line for line in lines if line[0] == " " or re.fullmatch("[a-z]+:", line)).encode())
    assert {"llama3.2", "assistant", "qwen3:8b", "team-*"} <= set(example.models)
    assert (example.models["assistant"].policy, example.models["assistant"].stream_interval) == ("round-robin", 4)
    assert [worker.name for worker in example.workers] == ["gpu-5"]


keys = st.sampled_from(
    ["models", "workers", "serve", "aliases", "options", "url", "model", "weight", "x", "y:1", "seed"]
)
values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | keys,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(keys, inner, max_size=4),
    max_leaves=12,
)


@given(
    st.fixed_dictionaries(
        {"models": st.dictionaries(keys, st.dictionaries(keys, values, max_size=4), max_size=3), "workers": values}
    )
    | values
)
@example("\r")
def test_any_bytes_load_or_raise_routing_error(value: object) -> None:
    try:
        table = parse(json.dumps(value).encode())
    except RoutingError as error:
        lines = str(error).splitlines()
    else:
        lines = ["routing.yaml"] if all(entry.targets(name) for name, entry in table.models.items()) else []
    assert lines
    assert all(line.startswith("routing.yaml") for line in lines)


def test_what_was_read_is_freed_without_the_garbage_collector() -> None:
    """A collection of a large file's tree would pause the router."""
    gc.collect()
    gc.disable()
    try:
        table = parse(b"models:\n" + b"".join(b"  m%d: {aliases: [a%d]}\n" % (i, i) for i in range(100)))
        assert len(table.models) == 100
        del table
        assert gc.collect() < 200
    finally:
        gc.enable()


LARGE_OPTIONS = {"temperature": 0.7, "stop": ["end"], "num_predict": 4999, "top_p": 0.9}
LARGE = """\
  model-{i}:
    serve: [{{model: org/Model-{i}, weight: 3}}, {{model: org/Model-{i}-fp8, weight: 1}}]
    aliases: [m{i}:1b, "alias-{i}:latest"]
    options: {{<<: *common, num_predict: {i}, top_p: 9e-1}}
    policy: round-robin
"""


def test_a_large_file_is_loaded(tmp_path: Path, record_property: Callable[[str, object], None]) -> None:
    file = tmp_path / "routing.yaml"
    entries = "".join(LARGE.format(i=i) for i in range(5000))
    patterns = "".join(f"  pattern-{i}-*: {{serve: 'org/{{1}}-{i}'}}\n" for i in range(500))
    file.write_text(f"x-common: &common {{temperature: 0.7, stop: [end]}}\nmodels:\n{entries}{patterns}")
    load(DEFAULT_FILE)
    began = time.process_time()
    table = load(file)
    seconds = time.process_time() - began
    record_property("figure", f"a routing file of 5,000 models and 500 patterns loads in {seconds:.2f} s of CPU time")
    assert len(table.models) == 5500
    assert table.models["model-4999"].option_values() == LARGE_OPTIONS
    assert table.places["models", "model-4999", "policy"] == (str(file), 5 * 4999 + 7, 5)
    assert seconds < 20
