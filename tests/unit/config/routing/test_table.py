import dataclasses
import json
import os
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from vllama_pool.config.routing.schema import json_schema
from vllama_pool.config.routing.table import (
    DEFAULT_FILE,
    ModelRoute,
    RoutingError,
    RoutingTable,
    ServeTarget,
    StaticWorker,
    load,
    parse,
)


def problems(text: str) -> list[str]:
    with pytest.raises(RoutingError) as raised:
        parse(text.encode(), "f.yaml")
    return str(raised.value).splitlines()


def only_problem(text: str) -> str:
    lines = problems(text)
    assert len(lines) == 1, lines
    return lines[0]


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
  qwen3:8b:
    options: {top_k: 20}
workers:
  - url: http://10.0.0.5:8000/
  - {url: "https://gpu-6", name: gpu-6, slots: 64, tags: [a100, fast]}
"""
    )
    assert table.models == (
        ModelRoute(
            "llama3.2",
            (ServeTarget("meta-llama/Llama-3.2-1B-Instruct"),),
            ("llama3.2:1b",),
            {"temperature": 0, "num_predict": -1, "stop": ["</s>"], "use_mmap": True},
        ),
        ModelRoute(
            "assistant",
            (ServeTarget("Qwen/Qwen3-8B"), ServeTarget("Qwen/Qwen3-14B", 3)),
            policy="round-robin",
        ),
        ModelRoute("qwen3:8b", (ServeTarget("qwen3:8b"),), (), {"top_k": 20}),
    )
    assert table.workers == (
        StaticWorker("http://10.0.0.5:8000", "http://10.0.0.5:8000"),
        StaticWorker("https://gpu-6", "gpu-6", 64, ("a100", "fast")),
    )


@pytest.mark.parametrize("text", ["", "models:\nworkers:\n", "models: {}\nworkers: []\n"])
def test_an_empty_file_is_an_empty_table(text: str) -> None:
    assert parse(text.encode()) == RoutingTable()


def test_a_routing_table_is_immutable() -> None:
    table = parse(b"models: {x: {options: {seed: 1}}}")
    with pytest.raises(dataclasses.FrozenInstanceError):
        table.models[0].name = "y"  # type: ignore[misc]
    with pytest.raises(TypeError):
        table.models[0].options["seed"] = 2  # type: ignore[index]


def test_all_problems_are_reported_in_file_order() -> None:
    lines = problems("models:\n  x:\n    sevre: a\n    options: {temperature: hot}\nworkers:\n  - url: ftp://a\nm: 1\n")
    assert lines == [
        "f.yaml:3:5: models.x.sevre: unknown key; did you mean 'serve'?",
        "f.yaml:4:28: models.x.options.temperature: expected a number, got the text 'hot'; correct it",
        "f.yaml:6:10: workers[0].url: not an http:// or https:// URL; write http://host:port",
        "f.yaml:7:1: m: unknown key; write one of models, workers",
    ]


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("- a\n", "f.yaml:1:1: expected a mapping, got a list; correct it"),
        ("model: {}\n", "f.yaml:1:1: model: unknown key; did you mean 'models'?"),
        ("models: [a]\n", "f.yaml:1:9: models: expected a mapping, got a list; correct it"),
        (
            "models:\n  x:\n",
            "f.yaml:2:5: models.x: is empty; write something under it or remove it",
        ),
        ("models: {x: a}\n", "f.yaml:1:13: models.x: expected a mapping, got the text 'a'; correct it"),
        ("models: {x: {fallback: [y]}}\n", "f.yaml:1:14: models.x.fallback: not supported yet; remove it"),
        ("models: {x: {limits: {}}}\n", "f.yaml:1:14: models.x.limits: not supported yet; remove it"),
        (
            "models: {x: {serve: 3.2}}\n",
            "f.yaml:1:21: models.x.serve: expected a served model or a list of them, got the number 3.2; "
            "put it in quotes",
        ),
        (
            "models: {x: {serve: {model: a}}}\n",
            "f.yaml:1:21: models.x.serve: expected a served model or a list of them, got a mapping; correct it",
        ),
        ("models: {x: {serve: []}}\n", "f.yaml:1:21: models.x.serve: is empty; write something or leave the key out"),
        ("models: {x: {serve: ''}}\n", "f.yaml:1:21: models.x.serve: is empty; write something or leave the key out"),
        (
            "models: {x: {serve: [{modle: a}]}}\n",
            "f.yaml:1:22: models.x.serve[0].model: is missing; add it\n"
            "f.yaml:1:23: models.x.serve[0].modle: unknown key; did you mean 'model'?",
        ),
        (
            "models: {x: {serve: [{model: a, weight: 0}]}}\n",
            "f.yaml:1:41: models.x.serve[0].weight: should be greater than or equal to 1, got the number 0; correct it",
        ),
        (
            "models: {x: {serve: [{model: a, weight: 1.5}]}}\n",
            "f.yaml:1:41: models.x.serve[0].weight: expected a whole number, got the number 1.5; correct it",
        ),
        (
            "models: {x: {serve: [a, {model: A}]}}\n",
            "f.yaml:1:33: models.x.serve[1].model: 'A' is listed twice, first in line 1; give it one weight",
        ),
        (
            "models: {x: {aliases: y}}\n",
            "f.yaml:1:23: models.x.aliases: expected a list, got the text 'y'; write it in brackets: [y]",
        ),
        (
            "models: {x: {policy: fastest}}\n",
            "f.yaml:1:22: models.x.policy: expected 'least-load' or 'round-robin', got the text 'fastest'; "
            "write one of them",
        ),
        ("workers: {url: a}\n", "f.yaml:1:10: workers: expected a list, got a mapping; correct it"),
        ("workers: [{}]\n", "f.yaml:1:11: workers[0].url: is missing; add it"),
        (
            "workers: [{url: 'http://a', slots: true}]\n",
            "f.yaml:1:36: workers[0].slots: expected a whole number, got the value true; correct it",
        ),
        (
            "workers: [{url: 'http://a', name: 'a b'}]\n",
            "f.yaml:1:35: workers[0].name: the text 'a b' may only have A-Z a-z 0-9 _ . -; rename it",
        ),
        (
            "a: [1\n",
            "f.yaml:2:1: not YAML: expected ',' or ']', but got '<stream end>'; check the indentation and the quotes",
        ),
    ],
)
def test_each_problem_says_what_is_wrong_and_what_to_do(text: str, line: str) -> None:
    assert problems(text) == line.splitlines()


@pytest.mark.parametrize(
    ("option", "what"),
    [
        ("temprature: 1", "unknown option; did you mean 'temperature'?"),
        ("max_tokens: 1", "unknown option; write one of Ollama's option names"),
        ("mirostat: 1", "no longer an option of Ollama; remove it"),
        ("temperature: '1'", "expected a number, got the text '1'; correct it"),
        ("temperature: true", "expected a number, got the value true; correct it"),
        ("temperature: .nan", "should be a finite number, got no finite number; correct it"),
        ("temperature: -1", "should be greater than or equal to 0, got the number -1; correct it"),
        ("top_p: 1.5", "should be less than or equal to 1, got the number 1.5; correct it"),
        ("num_predict: 1.5", "expected a whole number, got the number 1.5; correct it"),
        ("num_ctx: many", "expected a whole number, got the text 'many'; correct it"),
        ("use_mmap: 1", "expected true or false, got the number 1; correct it"),
        ("stop: x", "expected a list, got the text 'x'; write it in brackets: [x]"),
        ("stop: [1]", "expected text, got the number 1; put it in quotes"),
        ("repeat_penalty: 0", "should be greater than 0, got the number 0; correct it"),
    ],
)
def test_options_are_checked_by_ollamas_names_and_types(option: str, what: str) -> None:
    assert only_problem(f"models: {{x: {{options: {{{option}}}}}}}").endswith(f": {what}")


@pytest.mark.parametrize(
    ("text", "line"),
    [
        (
            "models:\n  llama3: {serve: a}\n  LLAMA3:latest: {serve: b}\n",
            "f.yaml:3:3: models.LLAMA3:latest: the same model name as 'llama3' in line 2; keep one of them",
        ),
        (
            "models:\n  x: {serve: a}\n  x: {serve: b}\n",
            "f.yaml:3:3: models.x: written twice, first in line 2; keep one of them",
        ),
        (
            "models:\n  x: {serve: a, aliases: [X:latest]}\n",
            "f.yaml:2:27: models.x.aliases[0]: 'X:latest' is the model's own name, in line 2; remove it",
        ),
        (
            "models:\n  x: {serve: a, aliases: [y, Y]}\n",
            "f.yaml:2:30: models.x.aliases[1]: the same alias as 'y' in line 2; remove it",
        ),
        (
            "models:\n  x: {serve: a, aliases: [y]}\n  y: {serve: b}\n",
            "f.yaml:2:27: models.x.aliases[0]: 'y' already stands for 'y' in line 3; keep one of them",
        ),
        (
            "models:\n  x: {serve: a, aliases: [z]}\n  y:\n    serve: b\n    aliases: [z]\n",
            "f.yaml:5:15: models.y.aliases[0]: 'z' already stands for 'x' in line 2; keep one of them",
        ),
        (
            "models:\n  x: {serve: a}\n  y: {serve: X}\n",
            "f.yaml:3:14: models.y.serve: 'X' is another entry, in line 2; write what workers serve, such as 'a', "
            "or make 'y' an alias of it",
        ),
        (
            "workers:\n  - url: http://a:80\n  - url: HTTP://A/\n",
            "f.yaml:3:10: workers[1].url: the same url as in line 2; keep one of them",
        ),
        (
            "workers:\n  - {url: 'http://a', name: n}\n  - {url: 'http://b', name: n}\n",
            "f.yaml:3:29: workers[1].name: the same name as in line 2; keep one of them",
        ),
    ],
)
def test_a_conflict_names_both_lines(text: str, line: str) -> None:
    assert only_problem(text) == line


def test_entries_that_serve_each_other_are_each_refused() -> None:
    lines = problems("models:\n  a: {serve: b}\n  b: {serve: c}\n  c: {serve: a}\n")
    assert [line.partition(" is another entry")[0] for line in lines] == [
        "f.yaml:2:14: models.a.serve: 'b'",
        "f.yaml:3:14: models.b.serve: 'c'",
        "f.yaml:4:14: models.c.serve: 'a'",
    ]


def test_an_entry_that_serves_its_own_name_may_be_served_by_others() -> None:
    table = parse(b"models:\n  a: {serve: [b, c]}\n  b: {options: {seed: 1}}\n")
    assert [target.model for target in table.models[0].serve] == ["b", "c"]


def test_a_conflict_is_found_beside_another_problem() -> None:
    lines = problems("models:\n  x: {serve: 3, aliases: [y]}\n  Y: {serve: b, nope: 1}\n")
    assert len(lines) == 3
    assert any("'y' already stands for 'Y'" in line for line in lines)


@pytest.mark.parametrize("name", ["a b", "../x", "a/b/c/d", "x@sha256:1", "x:"])
def test_names_follow_ollamas_grammar(name: str) -> None:
    assert only_problem(f'models: {{"{name}": {{serve: a}}}}').endswith("; write [namespace/]model[:tag]")
    assert ": models.x.aliases[0]: " in only_problem(f'models: {{x: {{serve: a, aliases: ["{name}"]}}}}')


@pytest.mark.parametrize("name", ["x:cloud", "x:8b-cloud"])
def test_cloud_names_are_refused(name: str) -> None:
    assert "remove the cloud suffix" in only_problem(f'models: {{"{name}": {{serve: a}}}}')


def test_served_names_need_not_follow_ollamas_grammar() -> None:
    table = parse(b"models: {x: {serve: /models/Llama 3.gguf}}")
    assert table.models[0].serve == (ServeTarget("/models/Llama 3.gguf"),)
    assert "control characters" in only_problem('models: {x: {serve: "a\\nb"}}')


def test_a_url_with_a_password_is_not_repeated() -> None:
    assert "hunter2" not in only_problem("workers: [{url: 'http://u:hunter2@a'}]")


def test_load_errors_name_the_file(tmp_path: Path) -> None:
    file = tmp_path / "r.yaml"
    file.write_text("models: {x: {serv: a}}\n")
    with pytest.raises(RoutingError) as raised:
        load(file)
    assert str(raised.value) == f"{file}:1:14: models.x.serv: unknown key; did you mean 'serve'?"
    file.write_text("models: {x: {serve: a}}\n")
    assert load(file).models[0].name == "x"


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
    assert load(DEFAULT_FILE) == RoutingTable()
    commented = DEFAULT_FILE.read_text().partition("models: {}\n")[2]
    lines = [line.removeprefix("# ") for line in commented.splitlines() if line.startswith("# ")]
    example = parse("\n".join(line for line in lines if line[0] == " " or line.endswith("s:")).encode())
    assert [route.name for route in example.models] == ["llama3.2", "assistant", "qwen3:8b"]
    assert example.models[1].policy == "round-robin"
    assert [worker.name for worker in example.workers] == ["gpu-5"]


def test_the_shipped_json_schema_is_the_loaders() -> None:
    shipped = json.loads(DEFAULT_FILE.with_name("routing.schema.json").read_text())
    assert shipped == json_schema(), (
        "regenerate it: python -m vllama_pool.config.routing.schema > config/routing.schema.json"
    )


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
        lines = ["routing.yaml"] if all(route.serve for route in table.models) else []
    assert lines
    assert all(line.startswith("routing.yaml") for line in lines)
