"""Broken routing files: each message names the place and the cure."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from vllama_pool.config.routing.table import RoutingError, load

SYNTAX = {
    "a list that is not closed": (
        "models:\n  x: {aliases: [a, b}\n",
        "2:21: no ',' or ']' where one is due; close the '[' of line 2, or put the text in quotes",
    ),
    "a mapping that is not closed": (
        "models:\n  x: {serve: a\n  y: {serve: b}\n",
        "3:4: no ',' or '}' where one is due; close the '{' of line 2, or put the text in quotes",
    ),
    "quotes that are not closed": (
        'models:\n  x: {serve: "a}\n  y: {}\n',
        "4:1: the quotes of line 2 are not closed; close them",
    ),
    "a quote within quotes": (
        "models:\n  x:\n    system: 'it's'\n",
        "3:17: not a key of the mapping of line 3; check the indentation and the quotes",
    ),
    "a colon within a text": (
        "models:\n  x: serve: a\n",
        "2:11: unexpected ':'; check the indentation, or put the text in quotes",
    ),
    "a key without a colon": (
        "models:\n  x:\n    serve\n    policy: round-robin\n",
        "4:11: unexpected ':'; check the indentation, or put the text in quotes",
    ),
    "a key that is indented too little": (
        "models:\n  x:\n    serve: a\n   policy: round-robin\n",
        "4:4: not a key of the mapping of line 2; check the indentation and the quotes",
    ),
    "an item beside keys": (
        "workers:\n  - url: http://a\n  name: a\n",
        "3:3: not an item of the list of line 2; begin it with '-', or check the indentation",
    ),
    "a list in the line of its key": (
        "workers: - url: http://a\n",
        "1:10: unexpected '-'; begin the list in a line of its own",
    ),
    "a text that begins with @": (
        "models:\n  x: {serve: @a}\n",
        "2:14: a text cannot begin with '@'; put it in quotes",
    ),
    "a star without quotes": (
        "models:\n  *: {serve: a}\n",
        "2:4: '*' and '&' begin an alias or anchor; put the text in quotes",
    ),
    "a pattern that begins with a star": (
        "models:\n  *-coder : {serve: a}\n",
        "2:3: no anchor '&-coder' above it in this file; add it, or put the text in quotes",
    ),
    "an unknown escape": (
        'models:\n  x: {serve: "C:\\models"}\n',
        "2:17: '\\' begins an escape in double quotes; write '\\\\', or use single quotes",
    ),
    "an escape beyond Unicode": (
        'models:\n  x: {serve: "\\U00110000"}\n',
        "2:17: an escape of half a character or of none; write the character itself",
    ),
    "half of an escaped character": (
        'models:\n  x: {serve: "\\ud83d"}\n',
        "2:14: models.x.serve: has half of a surrogate pair; write the character itself",
    ),
    "a tag with a broken escape": (
        "models:\n  x: {serve: !%zz a}\n",
        "2:15: a text that begins with '!' is a tag; put it in quotes",
    ),
    "a comma twice": (
        "models:\n  x: {aliases: [a,,b]}\n",
        "2:19: unexpected ','; remove it, or put the text in quotes",
    ),
    "a brace too many": (
        "models: {}\n}\n",
        "2:1: not a key of the mapping of line 1; check the indentation and the quotes",
    ),
    "another version of YAML": ("%YAML 2.0\n---\nmodels: {}\n", "1:1: another version of YAML; remove the %YAML line"),
    "a directive": (
        "%models\n",
        "1:8: a line that begins with '%' is a directive; remove it, or put the text in quotes",
    ),
    "text after the end": ("models: {}\n...\nmore: 1\n", "3:1: text after the end of the document; remove it"),
    "a second document": (
        "models: {}\n---\nworkers: []\n",
        "2:1: a second document begins; keep one document in a file",
    ),
    "a merge conflict": (
        "models:\n<<<<<<< HEAD\n  x: {}\n=======\n  y: {}\n>>>>>>> other\n",
        "2:1: a conflict marker of a merge ('<<<<<<<'); resolve the conflict",
    ),
    "a tab that indents": ("models:\n\tx: {}\n", "2:1: a tab; indent with spaces"),
    "a tab after spaces": ("models:\n  x:\n  \tserve: a\n", "3:3: a tab; indent with spaces"),
    "a tab in a block of text": ("models:\n  x:\n    system: |\n\ta\n", "4:1: a tab; indent with spaces"),
    "a tag": ("models:\n  x: {serve: !env A}\n", "2:14: models.x.serve: the tag !env is not supported; remove it"),
    "an unknown tag handle": (
        "models:\n  x: {serve: !e!x A}\n",
        "2:14: an unknown tag; remove it, or put the text in quotes",
    ),
    "an unknown anchor": (
        "models:\n  x: {options: *common}\n",
        "2:16: no anchor '&common' above it in this file; add it, or put the text in quotes",
    ),
    "an anchor twice": (
        "x-a: &a {}\nx-b: &a {}\nmodels: {}\n",
        "2:6: the anchor '&a' is also set in line 1; rename one of them",
    ),
    "an anchor that holds itself": (
        "models:\n  x: &x\n    options: *x\n",
        "3:14: the alias '*x' is inside its own anchor, without end; remove it",
    ),
    "a merge of a text": (
        "models:\n  x: {<<: a}\n",
        "2:11: models.x: '<<' takes an anchored mapping; write '<<: *name'",
    ),
    "two merges": (
        "x-a: &a {}\nmodels:\n  x:\n    <<: *a\n    <<: *a\n",
        "5:5: models.x: '<<' is written twice; write '<<: [*a, *b]'",
    ),
    "a key twice": (
        "models:\n  x: {}\n  x: {serve: a}\n",
        "3:3: models.x: written twice, first in line 2; keep one of them",
    ),
    "a key in YAML's numbers": (
        "models:\n  3.2: {}\n",
        '2:3: models: the key 3.2 is read as the number 3.2; put it in quotes: "3.2"',
    ),
    "a list as a key": ("models:\n  ? [a]\n  : {}\n", "2:5: models: a list or mapping cannot be a key; write text"),
    "a no-break space": (
        "models:\n  \u00a0x: {}\n",
        "2:3: models: the key '\\xa0x' has no-break spaces around it; write plain spaces",
    ),
    "a control character": ("models:\n  x: \x07\n", "2:6: a control character; remove it"),
    "a byte order mark within": (
        "models: {}\n\ufeffworkers: []\n",
        "2:1: a byte order mark in the middle of the file; remove it",
    ),
    "Windows line ends and a mistake": (
        "models:\r\n  x:\r\n    serv: a\r\n",
        "3:5: models.x.serv: unknown key; did you mean 'serve'?",
    ),
    "nothing but a text": ("models\n", "1:1: expected a mapping, got the text 'models'; correct it"),
    "a list": ("- models: {}\n", "1:1: expected a mapping, got a list; correct it"),
    "half of a file": (
        "models:\n  x:\n    serve: [a, {model: b, wei",
        "4:1: no ',' or '}' where one is due; close the '{' of line 3, or put the text in quotes",
    ),
}

MEANING = {
    "a wrong type": (
        "models:\n  x: {stream_interval: many}\n",
        "2:24: models.x.stream_interval: expected a whole number, got the text 'many'; correct it",
    ),
    "a number in quotes": (
        "workers:\n  - {url: 'http://a', slots: '8'}\n",
        "2:30: workers[0].slots: expected a whole number, got the text '8'; write it without quotes",
    ),
    "a text where a list belongs": (
        "models:\n  x: {aliases: y}\n",
        "2:16: models.x.aliases: expected a list, got the text 'y'; write it in brackets: [y]",
    ),
    "a yes of YAML 1.1": (
        "models:\n  x: {options: {use_mmap: on}}\n",
        "2:27: models.x.options.use_mmap: expected true or false, got the text 'on'; write true",
    ),
    "an empty value": (
        "workers:\n  - url: http://a\n    slots:\n",
        "3:11: workers[0].slots: is empty; write something or leave the key out",
    ),
    "an empty entry": ("models:\n  x:\n", "2:5: models.x: is empty; write something under it or remove it"),
    "an unknown section": ("modles: {}\n", "1:1: modles: unknown key; did you mean 'models'?"),
    "an unknown key": ("models:\n  x: {servr: a}\n", "2:7: models.x.servr: unknown key; did you mean 'serve'?"),
    "an unknown option": (
        "models:\n  x: {options: {temprature: 1}}\n",
        "2:17: models.x.options.temprature: unknown option; did you mean 'temperature'?",
    ),
    "an unknown key of a target": (
        "models:\n  x: {serve: [{model: a, wieght: 1}]}\n",
        "2:26: models.x.serve[0].wieght: unknown key; did you mean 'weight'?",
    ),
    "an unknown key of limits": (
        "models:\n  x: {limits: {concurency: 1}}\n",
        "2:16: models.x.limits.concurency: unknown key; did you mean 'concurrency'?",
    ),
    "an unknown key of a policy": (
        "models:\n  x: {policy: {type: session, form: key}}\n",
        "2:31: models.x.policy.form: unknown key; write one of type, by",
    ),
    "an unknown key of another policy": (
        "models:\n  x: {policy: {type: prefix-affinity, bond: 2}}\n",
        "2:39: models.x.policy.bond: unknown key; did you mean 'bound'?",
    ),
    "an unknown key of a selector": (
        "models:\n  x: {workers: {requires: [a]}}\n",
        "2:17: models.x.workers.requires: unknown key; did you mean 'require'?",
    ),
    "an unknown reason of fallbacks": (
        "models:\n  x: {fallback: {overload: [a]}}\n",
        "2:18: models.x.fallback.overload: unknown key; did you mean 'overloaded'?",
    ),
    "an unknown key of a team's limits": (
        "teams:\n  a: {limits: {outputs: 1}}\n",
        "2:16: teams.a.limits.outputs: unknown key; did you mean 'output'?",
    ),
    "an unknown key of a key": (
        "keys:\n  a: {sha: 1}\n",
        "2:7: keys.a.sha: unknown key; did you mean 'sha256'?",
    ),
    "an unknown key of maintenance": (
        "maintenance:\n  - {worker: [a], message: b}\n",
        "2:6: maintenance[0].worker: unknown key; did you mean 'workers'?",
    ),
    "an option beside options": (
        "models:\n  x: {temperature: 1}\n",
        "2:7: models.x.temperature: unknown key; write it under 'options'",
    ),
    "a key of the entry among its options": (
        "models:\n  x:\n    options:\n      seed: 1\n      policy: round-robin\n",
        "5:7: models.x.options.policy: unknown option; write it beside 'options'",
    ),
    "a section that is indented": (
        "models:\n  x: {serve: a}\n  workers:\n    - url: http://a\n",
        "4:5: models.workers: expected a mapping, got a list; 'workers' is a section: begin it at the left margin",
    ),
    "a missing key": ("workers:\n  - name: a\n", "2:5: workers[0].url: is missing; add it"),
    "a name that no client can ask for": (
        "models:\n  a b: {}\n",
        "2:3: models.a b: the model may have letters, digits, '_', '-' and '.' only, and begins with a letter, "
        "digit or '_'; write [namespace/]model[:tag]",
    ),
    "a name twice": (
        "models:\n  x: {}\n  X:latest: {}\n",
        "3:3: models.X:latest: the same model name as 'x' in line 2; keep one of them",
    ),
    "an alias of two entries": (
        "models:\n  x: {aliases: [z]}\n  y: {aliases: [z]}\n",
        "3:17: models.y.aliases[0]: 'z' already stands for 'x' in line 2; keep one of them",
    ),
    "entries that serve each other": (
        "models:\n  x: {serve: y}\n  y: {serve: x}\n",
        "2:14: models.x.serve: 'y' is another entry, in line 3; write what workers serve, such as 'x', or make 'x' "
        "an alias of it",
    ),
    "a loop of fallbacks": (
        "models:\n  x: {fallback: [y]}\n  y: {fallback: [x]}\n",
        "3:18: models.y.fallback[0]: the fallbacks lead in a circle: x -> y -> x; remove one of them",
    ),
    "all weights 0": (
        "models:\n  x:\n    serve:\n      - {model: a, weight: 0}\n      - {model: b, weight: 0}\n",
        "4:7: models.x.serve: all weights are 0; give one a weight of 1 or more",
    ),
    "a negative weight": (
        "models:\n  x: {serve: [{model: a, weight: -1}]}\n",
        "2:34: models.x.serve[0].weight: should be greater than or equal to 0, got the number -1; write 0 or more",
    ),
    "a negative limit": (
        "models:\n  x: {limits: {queue: -5}}\n",
        "2:23: models.x.limits.queue: should be greater than or equal to 0, got the number -5; write 0 or more",
    ),
    "a limit of no request": (
        "models:\n  x: {limits: {concurrency: 0}}\n",
        "2:29: models.x.limits.concurrency: should be greater than or equal to 1, got the number 0; write 1 or more",
    ),
    "an absurd limit on waiting requests": (
        "models:\n  x: {limits: {queue: 1000001}}\n",
        "2:23: models.x.limits.queue: should be less than or equal to 1000000, got the number 1000001; write 1000000 "
        "or less",
    ),
    "an absurd number of requests in progress": (
        "models:\n  x: {limits: {concurrency: 1e9}}\n",
        "2:29: models.x.limits.concurrency: should be less than or equal to 1000000, got the number 1000000000; "
        "write 1000000 or less",
    ),
    "an absurd limit of a team": (
        "teams:\n  a: {limits: {concurrency: -1}}\n",
        "2:29: teams.a.limits.concurrency: should be greater than or equal to 1, got the number -1; write 1 or more",
    ),
    "a negative wait": (
        "models:\n  x: {limits: {wait: -1}}\n",
        "2:22: models.x.limits.wait: should be greater than 0, got the number -1; write more than 0",
    ),
    "a wait of more than a day": (
        "models:\n  x: {limits: {wait: 25h}}\n",
        "2:22: models.x.limits.wait: should be less than or equal to 86400, got the number 90000; write 86400 or less",
    ),
    "a wait for a worker of no time": (
        "models:\n  x: {scale: {from_zero: true, wait: 0}}\n",
        "2:38: models.x.scale.wait: should be greater than 0, got the number 0; write more than 0",
    ),
    "a negative hold": (
        "models:\n  x: {scale: {from_zero: true, hold: -5s}}\n",
        "2:38: models.x.scale.hold: should be greater than 0, got the number -5; write more than 0",
    ),
    "an absurd hold": (
        "models:\n  x: {scale: {from_zero: true, hold: 1000h}}\n",
        "2:38: models.x.scale.hold: should be less than or equal to 86400, got the number 3.6e+06; write 86400 or less",
    ),
    "a scale without from_zero": (
        "models:\n  x: {scale: {wait: 5m}}\n",
        "2:7: models.x.scale.from_zero: is missing; add it",
    ),
    "a from_zero that is no truth value": (
        "models:\n  x: {scale: {from_zero: 1}}\n",
        "2:26: models.x.scale.from_zero: expected true or false, got the number 1; correct it",
    ),
    "a scale that is no mapping": (
        "models:\n  x: {scale: true}\n",
        "2:14: models.x.scale: expected a mapping, got the value true; correct it",
    ),
    "an unknown key of scale": (
        "models:\n  x: {scale: {from_zero: true, waits: 5m}}\n",
        "2:32: models.x.scale.waits: unknown key; did you mean 'wait'?",
    ),
    "a pattern without a worker": (
        "models:\n  'a*': {scale: {from_zero: true}}\n",
        "2:29: models.a*.scale.from_zero: a pattern has no name to list without a worker; give the model an entry of "
        "its own",
    ),
    "a queue of none before a model without a worker": (
        "models:\n  x: {scale: {from_zero: true}, limits: {queue: 0}}\n",
        "2:49: models.x.limits.queue: no request may wait, but scale.from_zero lets them wait for a worker; raise it "
        "or remove scale",
    ),
    "a share of more than all": (
        "models:\n  x: {shadow: {model: a, share: 5}}\n",
        "2:33: models.x.shadow.share: should be less than or equal to 1, got the number 5; write 1 or less",
    ),
    "a wrong duration": (
        "models:\n  x: {timeouts: {stall: 5 min}}\n",
        "2:25: models.x.timeouts.stall: '5 min' is not a duration; write seconds, or a duration such as 30s, 5m "
        "or 1h30m",
    ),
    "an unknown policy": (
        "models:\n  x: {policy: fastest}\n",
        "2:15: models.x.policy: expected 'least-load', 'round-robin', 'prefix-affinity' or 'session', got the text "
        "'fastest'; write one of them",
    ),
    "an unknown policy with settings": (
        "models:\n  x: {policy: {type: fastest}}\n",
        "2:15: models.x.policy: expected a policy's name, or {type: prefix-affinity, ...} or {type: session, ...}, "
        "got a mapping; correct it",
    ),
    "a pattern that explodes": (
        "models:\n  'a*b*c*d*e*': {}\n",
        "2:3: models.a*b*c*d*e*: has 5 '*'; use at most 3",
    ),
    "a pattern with stars side by side": (
        "models:\n  'a**': {}\n",
        "2:3: models.a**: has two '*' side by side; one matches any number of characters",
    ),
    "a capture without a star": (
        "models:\n  'a*': {serve: 'b-{2}'}\n",
        "2:17: models.a*.serve: {2} stands for a '*' of the entry's name, which has 1 of them; correct it",
    ),
    "a tag that is required and excluded": (
        "models:\n  x: {workers: {require: [a], exclude: [a]}}\n",
        "2:27: models.x.workers.require[0]: 'a' is also excluded; remove one of them",
    ),
    "a URL with a password": (
        "workers:\n  - url: http://me:hunter2@a\n",
        "2:10: workers[0].url: has a user name or password; remove it, workers take VLLAMA_WORKER_KEY",
    ),
    "a worker twice": (
        "workers:\n  - url: http://a\n  - url: http://a:80/\n",
        "3:10: workers[1].url: the same url as in line 2; keep one of them",
    ),
    "maintenance of nothing": (
        "maintenance:\n  - message: later\n",
        "2:5: maintenance[0]: names no workers and no tags; add one of them",
    ),
    "a team that does not exist": (
        f"keys:\n  a: {{sha256: '{'0' * 64}', team: b}}\n",
        "2:89: keys.a.team: 'b' is not a team; add it under teams, or remove it",
    ),
    "a weight of a key in a team": (
        f"teams: {{b: {{}}}}\nkeys:\n  a: {{sha256: '{'0' * 64}', team: b, weight: 2}}\n",
        "3:92: keys.a.weight: the team 'b' has the weight of its keys; remove this one, or move it to the team",
    ),
    "a missing include": (
        "include: [none.yaml]\n",
        "1:11: include[0]: FOLDER/none.yaml: No such file or directory; name a readable file",
    ),
    "a file that includes itself": (
        "include: [bad.yaml]\n",
        "1:11: include[0]: a circle of includes, bad.yaml -> bad.yaml; remove one of them",
    ),
    "an include outside of the folder": (
        "include: [../x.yaml]\n",
        "1:11: include[0]: '../x.yaml' is outside of the folder FOLDER; move the file into it",
    ),
    "a variable that is not set": (
        "models:\n  x:\n    serve: ${MODEL}\n",
        "3:12: models.x.serve: the variable MODEL is not set; set it, or write ${MODEL:-default}",
    ),
    "a variable in a key": (
        "models:\n  ${MODEL}: {}\n",
        "2:3: models: the key ${MODEL} has a variable, which only values may have; write its name",
    ),
}


def lines(folder: Path, data: bytes) -> list[str]:
    """Return the problems of a file, without its name."""
    file = folder / "bad.yaml"
    file.write_bytes(data)
    with pytest.raises(RoutingError) as raised:
        load(file, {})
    found = str(raised.value).replace(f"{file}:", "").splitlines()
    return [line.replace(str(folder), "FOLDER").strip() for line in found]


@pytest.mark.parametrize("case", SYNTAX)
def test_a_mistake_in_yaml_is_one_message_with_place_and_cure(case: str, tmp_path: Path) -> None:
    text, message = SYNTAX[case]
    assert lines(tmp_path, text.encode()) == [message]


@pytest.mark.parametrize("case", MEANING)
def test_a_wrong_value_is_a_message_with_place_and_cure(case: str, tmp_path: Path) -> None:
    text, message = MEANING[case]
    assert message in lines(tmp_path, text.encode())


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"models:\n  x: {serve: \xe9}\n", "2:14: not UTF-8 text; save the file as UTF-8"),
        ("models: {}\n".encode("utf-16"), "1:1: not UTF-8 text; save the file as UTF-8"),
        ("models: {}\n".encode("utf-16-le"), "1:2: a NUL character; save the file as UTF-8, or remove it"),
        (b"models: {}\n\0\0\0\0", "2:1: a NUL character; save the file as UTF-8, or remove it"),
        (b"#" * (5 << 20), "larger than 4 MiB, with its includes; make it smaller"),
    ],
    ids=["latin-1", "utf-16", "utf-16 without a mark", "zeros of a lost page", "too large"],
)
def test_bytes_that_are_no_text_are_described(data: bytes, message: str, tmp_path: Path) -> None:
    assert lines(tmp_path, data) == [message]


@pytest.mark.parametrize("data", [b"\xef\xbb\xbfmodels:\n  x: {}\n", b"models:\r\n  x: {}\r\n", b"models:\r  x: {}\r"])
def test_a_byte_order_mark_and_other_line_ends_are_fine(data: bytes, tmp_path: Path) -> None:
    (tmp_path / "good.yaml").write_bytes(data)
    assert list(load(tmp_path / "good.yaml", {}).models) == ["x"]


NESTED = 2_000_000
DEEP = "nested more than 64 levels deep; write it flatter"
MANY = "more than 500000 values; use fewer anchors, or make the file smaller"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[" * NESTED, f"1:65: {DEEP}"),
        ("{" * NESTED, f"1:65: {DEEP}"),
        ("- " * (NESTED // 2), f"1:129: {DEEP}"),
        ("? " * (NESTED // 2), f"1:129: {DEEP}"),
        ("{a: " * (NESTED // 4), f"1:257: {DEEP}"),
        ("[\n" * (NESTED // 2), f"65:1: {DEEP}"),
        ("".join(f"{' ' * depth}a:\n" for depth in range(1900)), f"65:65: {DEEP}"),
        ("x-a: " + "[" * NESTED, f"1:69: {DEEP}"),
        ("[" * 60 + "a," * 600_000, MANY),
        ("a: [" + "1," * 600_000 + "]", MANY),
        ("a: &a [" + "x," * 1000 + "]\nb: &b [" + "*a," * 1000 + "]\n", f"2:4: b: {MANY}"),
        (
            "a: &a [x]\n" + "".join(f"{c}: &{c} [{', '.join(['*' + chr(ord(c) - 1)] * 9)}]\n" for c in "bcdefghijk"),
            MANY,
        ),
        ("x-a: &a {" + ",".join(f"k{i}: 1" for i in range(2000)) + "}\nb:\n" + "- {<<: *a}\n" * 500, MANY),
        ("'" * NESTED, "expected a mapping"),
        ('"' + "\\n" * (NESTED // 2), "the quotes of line 1 are not closed; close them"),
        ("a" * NESTED + ": 1", "unexpected ':'"),
        ("&a " * (NESTED // 3), "text after the end of the document"),
        ("!a " * (NESTED // 3), "text after the end of the document"),
        ("models: {" + "a: {}, " * 1000 + "}", "more than 100 problems; correct the first ones"),
        ("\t" * NESTED + "a: 1", "a tab; indent with spaces"),
        ("models: {x: {policy: '" + "//" * (NESTED // 2) + "'}}", "expected 'least-load', "),
        ("models: {x: {policy: '" + "a:" * (NESTED // 2) + "'}}", "expected 'least-load', "),
        (f"models: {{? {'x' * NESTED}\n: {{}}}}", "is longer than 600 characters; shorten it"),
        (f"models: {{x: {{aliases: [{'x' * NESTED}, {'x' * NESTED}]}}}}", "the same alias as 'xxx"),
        ("a: *" + "x" * NESTED, "add it, or put the text in quotes"),
        ("${" * (NESTED // 2), "a '${' is not closed; add '}'"),
        ("models: {" + ", ".join(f"m{i}: {{x: 1}}" for i in range(5000)) + "}", "unknown key"),
    ],
    ids=lambda value: value[:16].encode("unicode_escape").decode(),
)
def test_huge_files_end_in_a_message_soon(text: str, message: str, tmp_path: Path) -> None:
    began = time.process_time()
    found = lines(tmp_path, text.encode())
    assert any(message in line for line in found)
    assert max(map(len, found)) < 2500
    assert time.process_time() - began < 30
