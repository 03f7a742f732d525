"""Values from the environment."""

import pytest

from vllama_pool.config.routing.table import RoutingError, RoutingTable, parse
from vllama_pool.config.routing.variables import InvalidVariable, expand, is_variable

ENVIRONMENT = {
    "HOST": "gpu-5",
    "SLOTS": "8",
    "EMPTY": "",
    "PASSWORD": "hunter2",
    "WEIRD": "a\nb: ${HOST}",
    "BAD": "\udcff",
}

IN_BRACKETS = "'${' inside [ ] or { }; put it in quotes, or write the list or mapping in lines"


def table(text: str) -> RoutingTable:
    return parse(text.encode(), "f.yaml", ENVIRONMENT)


def problems(text: str) -> list[str]:
    with pytest.raises(RoutingError) as raised:
        table(text)
    return str(raised.value).splitlines()


@pytest.mark.parametrize(
    ("text", "expanded"),
    [
        ("plain", "plain"),
        ("${HOST}", "gpu-5"),
        ("http://${HOST}:80${SLOTS}", "http://gpu-5:808"),
        ("${NONE:-a b}", "a b"),
        ("${NONE:-}", ""),
        ("${HOST:-x}", "gpu-5"),
        ("${EMPTY:-x}", "x"),
        ("${EMPTY}", ""),
        ("$${HOST}", "${HOST}"),
        ("$$${HOST}", "$${HOST}"),
        ("$HOST $5 $", "$HOST $5 $"),
        ("${NONE:-http://a:80/-}", "http://a:80/-"),
        ("${WEIRD}", "a\nb: ${HOST}"),
    ],
)
def test_variables_are_replaced_once(text: str, expanded: str) -> None:
    assert expand(text, ENVIRONMENT) == expanded


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("${NONE}", "the variable NONE is not set; set it, or write ${NONE:-default}"),
        ("${HOST", "a '${' is not closed; add '}', or write '$${' for the text itself"),
        ("${}", "'${}' is not a variable; write ${NAME} or ${NAME:-default}, or '$${' for the text itself"),
        ("${1}", "'${1}' is not a variable; write ${NAME} or ${NAME:-default}, or '$${' for the text itself"),
        ("${A-b}", "'${A-b}' is not a variable; write ${NAME} or ${NAME:-default}, or '$${' for the text itself"),
        ("${ A }", "'${ A }' is not a variable; write ${NAME} or ${NAME:-default}, or '$${' for the text itself"),
        ("${A:-${HOST}}", "the default of ${A} has a variable itself; write its value"),
        ("${BAD}", "the variable BAD is not UTF-8 text; correct its value"),
    ],
)
def test_a_wrong_variable_is_described(text: str, message: str) -> None:
    with pytest.raises(InvalidVariable) as raised:
        expand(text, ENVIRONMENT)
    assert str(raised.value) == message


@pytest.mark.parametrize(
    ("text", "alone"), [("${A}", True), ("${A:-b}", True), ("${A}${B}", False), ("$${A}", False), (" ${A}", False)]
)
def test_a_variable_alone_is_told_from_a_part_of_a_text(text: str, alone: bool) -> None:
    assert is_variable(text) is alone


def test_a_plain_variable_alone_is_a_scalar_and_all_others_are_texts() -> None:
    loaded = table("workers:\n  - url: http://${HOST}:${NONE:-80}\n    name: ${HOST}\n    slots: ${SLOTS}\n")
    assert [(worker.url, worker.name, worker.slots) for worker in loaded.workers] == [("http://gpu-5", "gpu-5", 8)]
    loaded = table("models: {x: {serve: '${SLOTS}', options: {seed: !!int '${SLOTS}'}}}")
    assert (loaded.models["x"].serve, loaded.models["x"].option_values()) == ("8", {"seed": 8})


def test_an_escaped_variable_stays_a_text() -> None:
    assert table("models: {x: {serve: 'a$${B}'}}").models["x"].serve == "a${B}"
    assert table("models:\n  x:\n    serve: $${SLOTS}\n").models["x"].serve == "${SLOTS}"


def test_a_value_is_never_read_as_yaml_or_expanded_again() -> None:
    assert problems("models:\n  x:\n    serve: ${WEIRD}\n") == [
        "f.yaml:3:12: models.x.serve: has blanks around it or control characters; write the name as vLLM serves it"
    ]


def test_an_anchor_takes_its_value_with_it_and_notes_are_not_expanded() -> None:
    text = "x-note: ${NONE}\nx-all: &all\n  seed: ${SLOTS}\nmodels:\n  x:\n    options: *all\n"
    assert table(text).models["x"].option_values() == {"seed": 8}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "models:\n  x:\n    serve: ${NONE}\n",
            "f.yaml:3:12: models.x.serve: the variable NONE is not set; set it, or write ${NONE:-default}",
        ),
        (
            "models:\n  ${HOST}: {}\n",
            "f.yaml:2:3: models: the key ${HOST} has a variable, which only values may have; write its name",
        ),
        ("models: {x: {serve: [${HOST}]}}\n", f"f.yaml:1:23: {IN_BRACKETS}"),
        ("models: {x: {serve: ${HOST}}}\n", f"f.yaml:1:22: {IN_BRACKETS}"),
    ],
)
def test_a_variable_where_none_may_be_is_refused(text: str, message: str) -> None:
    assert problems(text)[0] == message


@pytest.mark.parametrize(
    "text",
    [
        "models:\n  x:\n    policy: ${PASSWORD}\n",
        "models:\n  x:\n    aliases: ${PASSWORD}\n",
        "models:\n  x:\n    stream_interval: ${PASSWORD}\n",
        "models:\n  x:\n    timeouts:\n      stall: ${PASSWORD}\n",
        "models:\n  x:\n    fallback: ${PASSWORD}\n",
        "models:\n  x: ${PASSWORD}\n",
        "models:\n  x:\n    options:\n      num_ctx: '${PASSWORD}'\n      use_mmap: a${PASSWORD}\n",
        "models:\n  x:\n    aliases: ['${PASSWORD}', '${PASSWORD}']\n",
        "models:\n  x:\n    serve: ['${PASSWORD}', '${PASSWORD}']\n",
        "models:\n  x:\n    serve: !!int ${PASSWORD}\n",
        "workers:\n  - url: http://user:${PASSWORD}@host\n",
        "workers:\n  - url: ${PASSWORD}\n    name: '(${PASSWORD})'\n",
        "workers:\n  - url: http://host\n    tags: ['(${PASSWORD})']\n",
        "keys:\n  a:\n    sha256: ${PASSWORD}\n    team: ${PASSWORD}\n",
        "models:\n  hunter2: {}\n  x:\n    serve: ${PASSWORD}\n    aliases: ['${PASSWORD}']\n",
    ],
)
def test_a_value_never_appears_in_a_message(text: str) -> None:
    found = problems(text)
    assert found
    if "hunter2" not in text:
        assert "hunter2" not in "\n".join(found)
    else:
        assert all("'${PASSWORD}'" in line for line in found)


def test_a_wrong_value_is_described_by_its_source() -> None:
    assert problems("workers:\n  - url: http://a\n    slots: '${SLOTS}'\n    name: x\n") == [
        "f.yaml:3:12: workers[0].slots: expected a whole number, got text from '${SLOTS}'; "
        "write it without quotes, outside of [ ] and { }"
    ]
    assert problems("workers:\n  - url: http://a\n    slots: ${HOST}\n") == [
        "f.yaml:3:12: workers[0].slots: expected a whole number, got text from '${HOST}'; correct the variable"
    ]
    assert problems("models:\n  x:\n    serve: ${SLOTS}\n") == [
        "f.yaml:3:12: models.x.serve: expected a served model or a list of them, got a number from '${SLOTS}'; "
        "put it in quotes"
    ]


def test_a_part_of_a_long_value_never_appears_either() -> None:
    secret = "correct horse battery staple, 'quoted', and more than forty characters"
    for text in ("timeouts: {{stall: {}}}", "limits: {{wait: {}}}", "serve: {}", "split: {}", "aliases: [{}]"):
        with pytest.raises(RoutingError) as raised:
            parse(f"models:\n  x: {{{text.format(chr(39) + '${S}' + chr(39))}}}\n".encode(), "f", {"S": secret + "\n"})
        assert not [word for word in ("correct horse", "battery", "quoted", "forty") if word in str(raised.value)]


def test_a_variable_with_other_text_is_no_number() -> None:
    assert problems("workers:\n  - url: http://a\n    slots: ${SLOTS}0\n") == [
        "f.yaml:3:12: workers[0].slots: expected a whole number, got text from '${SLOTS}0'; "
        "write one variable and nothing else"
    ]


def test_long_values_are_bounded() -> None:
    with pytest.raises(RoutingError, match="the values of the variables are too long; shorten them"):
        parse(("a: [" + "'${X}', " * 1000 + "]").encode(), "f.yaml", {"X": "x" * 5000})
