"""Messages about invalid values of a routing file."""

import pytest
from pydantic import ValidationError

from vllama_pool.config.routing.messages import problem_for
from vllama_pool.config.routing.schema import RoutingFile
from vllama_pool.config.routing.yaml_document import parse


def messages(text: str) -> list[str]:
    document = parse(text.encode(), "f.yaml")
    assert document.problems == []
    with pytest.raises(ValidationError) as raised:
        RoutingFile.model_validate(document.value)
    return [str(problem) for problem in sorted(problem_for(e, document) for e in raised.value.errors())]


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
            "models: {x: {serve: [{model: a, weight: -1}]}}\n",
            "f.yaml:1:41: models.x.serve[0].weight: should be greater than or equal to 0, got the number -1; "
            "write 0 or more",
        ),
        (
            "models: {x: {serve: [{model: a, weight: 1.5}]}}\n",
            "f.yaml:1:41: models.x.serve[0].weight: expected a whole number, got the number 1.5; correct it",
        ),
        (
            "models: {x: {aliases: y}}\n",
            "f.yaml:1:23: models.x.aliases: expected a list, got the text 'y'; write it in brackets: [y]",
        ),
        (
            "models: {x: {policy: fastest}}\n",
            "f.yaml:1:22: models.x.policy: expected 'least-load', 'round-robin', 'prefix-affinity' or 'session', "
            "got the text 'fastest'; write one of them",
        ),
        (
            "models: {x: {stream_interval: 0}}\n",
            "f.yaml:1:31: models.x.stream_interval: should be greater than or equal to 1, got the number 0; "
            "write 1 or more",
        ),
        (
            "models: {x: {stream_interval: '4'}}\n",
            "f.yaml:1:31: models.x.stream_interval: expected a whole number, got the text '4'; write it without quotes",
        ),
        (
            "models: {x: {stream_intervall: 4}}\n",
            "f.yaml:1:14: models.x.stream_intervall: unknown key; did you mean 'stream_interval'?",
        ),
        ("workers: {url: a}\n", "f.yaml:1:10: workers: expected a list, got a mapping; correct it"),
        ("workers: [{}]\n", "f.yaml:1:11: workers[0].url: is missing; add it"),
        (
            "workers: [{url: 'http://a', slots: true}]\n",
            "f.yaml:1:36: workers[0].slots: expected a whole number, got the value true; correct it",
        ),
        (
            "workers: [{url: 'http://a', name: 'a b'}]\n",
            "f.yaml:1:35: workers[0].name: the text 'a b' may only have A-Z a-z 0-9 _ . -, and begins with a "
            "letter, digit or _; rename it",
        ),
    ],
)
def test_a_message_has_the_position_what_is_wrong_and_what_to_do(text: str, line: str) -> None:
    assert messages(text) == line.splitlines()


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("temprature: 1", "unknown option; did you mean 'temperature'?"),
        ("max_tokens: 1", "unknown option; write one of Ollama's option names"),
        ("mirostat: 1", "no longer an option of Ollama; remove it"),
        ("temperature: '1'", "expected a number, got the text '1'; write it without quotes"),
        ("temperature: warm", "expected a number, got the text 'warm'; correct it"),
        ("num_ctx: 8_192", "expected a whole number, got the text '8_192'; write 8192"),
        ("num_ctx: 1e-1", "expected a whole number, got the number 0.1; correct it"),
        ("num_ctx: .inf", "expected a whole number, got no finite number; correct it"),
        ("seed: 12:30:45", "expected a whole number, got the text '12:30:45'; correct it"),
        ("use_mmap: yes", "expected true or false, got the text 'yes'; write true"),
        ("use_mmap: 'Off'", "expected true or false, got the text 'Off'; write false"),
        ("temperature: true", "expected a number, got the value true; correct it"),
        ("temperature: .nan", "should be a finite number, got no finite number; write another number"),
        ("temperature: -1", "should be greater than or equal to 0, got the number -1; write 0 or more"),
        ("top_p: 1.5", "should be less than or equal to 1, got the number 1.5; write 1 or less"),
        ("num_predict: 1.5", "expected a whole number, got the number 1.5; correct it"),
        ("num_ctx: many", "expected a whole number, got the text 'many'; correct it"),
        ("use_mmap: 1", "expected true or false, got the number 1; correct it"),
        ("stop: x", "expected a list, got the text 'x'; write it in brackets: [x]"),
        ("stop: [1]", "expected text, got the number 1; put it in quotes"),
        ("repeat_penalty: 0", "should be greater than 0, got the number 0; write more than 0"),
    ],
)
def test_an_invalid_option_is_described(option: str, message: str) -> None:
    (line,) = messages(f"models: {{x: {{options: {{{option}}}}}}}")
    assert line.startswith("f.yaml:1:")
    assert line.endswith(f": {message}")


def test_a_key_that_is_no_model_name_is_reported_at_the_key() -> None:
    (line,) = messages("models:\n  ok: {serve: a}\n  a b: {serve: c}\n")
    assert line.startswith("f.yaml:3:3: models.a b: the model may have letters")


def test_a_long_list_in_a_message_is_shortened() -> None:
    (line,) = messages(f"models: {{x: {{aliases: {'y' * 100}}}}}\n")
    assert line.endswith(f"[{'y' * 40}]")
    assert len(line) < 200


def test_an_error_without_a_message_of_its_own_is_described_by_its_value() -> None:
    document = parse(b"models: {x: 1}\n", "f.yaml")
    problem = problem_for({"type": "new_in_pydantic", "loc": ("models", "x"), "input": 1}, document)
    assert problem.message == "expected another value, got the number 1; correct it"
