"""Routing files that include others."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Any

import pytest

from vllama_pool.config.routing import includes
from vllama_pool.config.routing.include_paths import MAX_MATCHES
from vllama_pool.config.routing.table import RoutingError, RoutingTable, load, parse


def write(folder: Path, **files: str) -> Path:
    """Write files such as `routing="..."` for routing.yaml and `conf_d__a="..."` for conf_d/a.yaml."""
    for name, text in files.items():
        path = folder / f"{name.replace('__', '/')}.yaml"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return folder / "routing.yaml"


def problems(file: Path) -> list[str]:
    """Return the problems, without the folder of the file."""
    with pytest.raises(RoutingError) as raised:
        load(file, {})
    return str(raised.value).replace(f"{file.parent}/", "").replace(str(file.parent), "FOLDER").splitlines()


def names(table: RoutingTable, folder: Path) -> list[str]:
    return [str(path.relative_to(folder)) for path in table.files]


def test_sections_are_united_in_order(tmp_path: Path) -> None:
    file = write(
        tmp_path,
        routing="include: [b.yaml, a.yaml]\nmodels: {own: {}}\nworkers: [{url: 'http://own'}]\n",
        a="models: {a: {}}\nworkers: [{url: 'http://a'}]\n",
        b="models: {b: {}}\nworkers: [{url: 'http://b'}]\nteams:\n",
    )
    table = load(file)
    assert list(table.models) == ["own", "b", "a"]
    assert [worker.url for worker in table.workers] == ["http://own", "http://b", "http://a"]
    assert names(table, tmp_path) == ["routing.yaml", "b.yaml", "a.yaml"]


def test_an_included_file_may_add_any_section_and_be_empty(tmp_path: Path) -> None:
    sha = "0" * 64
    file = write(
        tmp_path,
        routing="include: [teams.yaml, empty.yaml, notes.yaml]\n",
        teams=f"teams: {{a: {{}}}}\nkeys: {{k: {{sha256: '{sha}', team: a}}}}\n",
        empty="# nothing yet\n",
        notes="x-note: &n {policy: round-robin}\nmodels: {m: *n}\n",
    )
    entries = load(file).entries
    assert (list(entries.teams or ()), list(entries.keys or ())) == (["a"], ["k"])
    assert (entries.models or {})["m"].policy == "round-robin"


def test_places_and_problems_name_the_right_file(tmp_path: Path) -> None:
    file = write(
        tmp_path,
        routing="include: [conf/a.yaml]\nmodels:\n  x: {serve: y}\n",
        conf__a="models:\n  a:\n    serve: b\nworkers:\n- url: http://a\n",
    )
    places = load(file).places
    assert places["models", "x", "serve"] == (str(file), 3, 7)
    assert places["models", "a", "serve"] == (str(tmp_path / "conf/a.yaml"), 3, 5)
    assert places["workers", 0, "url"] == (str(tmp_path / "conf/a.yaml"), 5, 3)
    write(
        tmp_path,
        routing="include: [conf/a.yaml]\nmodel: {}\n",
        conf__a="workers:\n- url: ftp://a\nmodels: {a: {srve: x}}\n",
    )
    assert problems(file) == [
        "routing.yaml:2:1: model: unknown key; did you mean 'models'?",
        "conf/a.yaml:2:8: workers[0].url: not an http:// or https:// URL; write http://host:port",
        "conf/a.yaml:3:14: models.a.srve: unknown key; did you mean 'serve'?",
    ]


def test_problems_of_all_files_are_reported_together_syntax_errors_too(tmp_path: Path) -> None:
    file = write(tmp_path, routing="include: [a.yaml, b.yaml]\n", a="models: {x: [\n", b="models: {y: {serv: x}}\n")
    assert problems(file) == [
        "a.yaml:2:1: unexpected ''; remove it, or put the text in quotes",
        "b.yaml:1:14: models.y.serv: unknown key; did you mean 'serve'?",
    ]


def test_a_name_twice_over_files_names_both_places(tmp_path: Path) -> None:
    file = write(
        tmp_path,
        routing="include: [a.yaml]\nmodels:\n  x: {serve: m}\n  y: {aliases: [z]}\nworkers: [{url: 'http://w'}]\n",
        a="models:\n  x: {serve: n}\n  Y:latest: {}\n  z: {}\nworkers:\n  - url: http://w/\n",
    )
    first = tmp_path / "routing.yaml"
    assert problems(file) == [
        "routing.yaml:4:17: models.y.aliases[0]: 'z' already stands for 'z' in a.yaml:4; keep one of them",
        "a.yaml:2:3: models.x: also in routing.yaml:3; keep one of them",
        "a.yaml:3:3: models.Y:latest: the same model name as 'y' in routing.yaml:4; keep one of them",
        "a.yaml:6:10: workers[1].url: the same url as in routing.yaml:5; keep one of them",
    ]
    assert first.exists()


def test_a_section_has_one_form_in_all_files(tmp_path: Path) -> None:
    file = write(tmp_path, routing="include: [a.yaml]\nworkers: [{url: 'http://a'}]\n", a="workers: {a: {}}\n")
    assert problems(file) == ["a.yaml:1:1: workers: also in routing.yaml:2, in another form; keep one form"]
    file = write(tmp_path, routing="include: [a.yaml]\nreload: {orphans: allow}\n", a="reload: {orphans: allow}\n")
    assert problems(file)[-1] == "a.yaml:1:10: reload.orphans: also in routing.yaml:2; keep one of them"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("- a\n", "expected a mapping with sections such as models, got a list; correct it"),
        ("just text\n", "expected a mapping with sections such as models, got the text 'just text'; correct it"),
    ],
)
def test_an_included_file_is_a_mapping(tmp_path: Path, text: str, message: str) -> None:
    assert problems(write(tmp_path, routing="include: [a.yaml]\n", a=text)) == [f"a.yaml:1:1: {message}"]


@pytest.mark.parametrize(
    ("include", "message"),
    [
        ("none.yaml", "none.yaml: No such file or directory; name a readable file"),
        ("/etc/hosts", "'/etc/hosts' is not relative; write it relative to this file"),
        ("~/x.yaml", "'~/x.yaml' is not relative; write it relative to this file"),
        ("../x.yaml", "'../x.yaml' is outside of the folder FOLDER; move the file into it"),
        ("conf/../../x.yaml", "'conf/../../x.yaml' is outside of the folder FOLDER; move the file into it"),
        ("conf", "conf: not a file; name a YAML file"),
        ("''", "is empty or has control characters; write the name of a file"),
        ('"a\\0b"', "is empty or has control characters; write the name of a file"),
        ("conf/**/*.yaml", "'conf/**/*.yaml' has '**'; write each folder with a '*' of its own"),
        ("conv/*.yaml", "no folder of the name in 'conv/*.yaml'; create it, or correct the name"),
        ("routing.yaml", "a circle of includes, routing.yaml -> routing.yaml; remove one of them"),
        ("./conf/../routing.yaml", "a circle of includes, routing.yaml -> routing.yaml; remove one of them"),
        ("${X}", "the variable X is not set; set it, or write ${X:-default}"),
        ("${X:-conf/a.yaml}", "has a variable, which may not choose files; write the name"),
        ("x" * 300, f"{'x' * 300}: File name too long; name a readable file"),
        ("'http://a/b.yaml'", "http:/a/b.yaml: No such file or directory; name a readable file"),
    ],
)
def test_an_include_that_cannot_be_read_is_described(tmp_path: Path, include: str, message: str) -> None:
    file = write(tmp_path, routing=f"models: {{}}\ninclude:\n  - {include}\n", conf__a="models: {a: {}}\n")
    found = problems(file)[0].replace(str(tmp_path), "FOLDER")
    assert found == f"routing.yaml:3:5: include[0]: {message}"


@pytest.mark.parametrize(
    ("include", "place"), [("{a: b}", "expected a list"), ("[3]", "expected text"), ("a.yaml", "expected a list")]
)
def test_includes_are_a_list_of_texts(tmp_path: Path, include: str, place: str) -> None:
    (line,) = problems(write(tmp_path, routing=f"include: {include}\n", a=""))
    assert line.startswith("routing.yaml:1:1")
    assert place in line


def test_an_unreadable_include_is_described(tmp_path: Path) -> None:
    file = write(tmp_path, routing="include: [loop.yaml, pipe]\n")
    (tmp_path / "loop.yaml").symlink_to("loop.yaml")
    os.mkfifo(tmp_path / "pipe")
    assert problems(file) == [
        "routing.yaml:1:11: include[0]: loop.yaml: Too many levels of symbolic links; name a readable file",
        "routing.yaml:1:22: include[1]: pipe: not a file; name a YAML file",
    ]


def test_a_circle_of_includes_is_refused_where_it_closes(tmp_path: Path) -> None:
    file = write(
        tmp_path, routing="include: [a.yaml]\n", a="include: [b.yaml]\n", b="models: {b: {}}\ninclude: [a.yaml]\n"
    )
    assert problems(file) == [
        "b.yaml:2:11: include[0]: a circle of includes, a.yaml -> b.yaml -> a.yaml; remove one of them"
    ]


def test_a_file_is_included_once(tmp_path: Path) -> None:
    file = write(
        tmp_path, routing="include: [a.yaml, b.yaml]\n", a="include: [c.yaml]\n", b="include: [c.yaml]\n", c=""
    )
    assert problems(file) == [
        "b.yaml:1:11: include[0]: c.yaml is included in a.yaml:1; keep one of them",
    ]


def test_an_include_is_relative_to_its_own_file(tmp_path: Path) -> None:
    file = write(
        tmp_path,
        routing="include: [conf/a.yaml]\n",
        conf__a="include: [b.yaml, ../c.yaml]\n",
        conf__b="models: {b: {}}\n",
        c="models: {c: {}}\n",
    )
    assert list(load(file).models) == ["b", "c"]


def test_a_pattern_takes_files_in_order_and_leaves_out_hidden_and_included_ones(tmp_path: Path) -> None:
    file = write(
        tmp_path,
        routing="include: ['*.yaml', 'conf/*.yaml']\nmodels: {own: {}}\n",
        a="include: [conf/9.yaml]\nmodels: {a: {}}\n",
        conf__10="models: {ten: {}}\n",
        conf__9="models: {nine: {}}\n",
        **{"conf__.swap": "]", "conf__sub__deep": "]"},
    )
    (tmp_path / "conf" / "README").write_text("no YAML: [")
    (tmp_path / "conf" / "again.yaml").symlink_to("10.yaml")
    table = load(file)
    assert list(table.models) == ["own", "a", "nine", "ten"]
    assert names(table, tmp_path) == ["routing.yaml", "a.yaml", "conf/9.yaml", "conf/10.yaml"]
    assert table.patterns == (f"{tmp_path}/*.yaml", f"{tmp_path}/conf/*.yaml")


def test_a_pattern_may_match_nothing_and_span_folders(tmp_path: Path) -> None:
    file = write(tmp_path, routing="include: ['teams/*/models.yaml', '*.yml']\n", teams__a__models="models: {a: {}}\n")
    write(tmp_path, teams__b__models="models: {b: {}}\n", teams__b__other="]")
    assert list(load(file).models) == ["a", "b"]


def test_a_pattern_of_too_many_files_is_refused(tmp_path: Path) -> None:
    file = write(tmp_path, routing="include: ['conf/*']\n", **{f"conf__{i}": "" for i in range(includes.MAX_FILES + 2)})
    message = f"more than {includes.MAX_FILES} files with this include; include fewer"
    assert [line.rpartition(": ")[2] for line in problems(file)] == [message]
    for i in range(MAX_MATCHES):
        (tmp_path / "conf" / f"more{i}").touch()
    assert problems(file)[0].endswith(f"'conf/*' matches more than {MAX_MATCHES} files; write a narrower pattern")


@pytest.mark.parametrize("name", [b"a\xff.yaml", b"a\nb.yaml"])
def test_a_name_that_is_no_plain_text_is_refused(tmp_path: Path, name: bytes) -> None:
    file = write(tmp_path, routing="include: ['a*.yaml']\n")
    Path(os.fsdecode(os.fsencode(tmp_path) + b"/" + name)).touch()
    (line,) = problems(file)
    assert line.startswith("routing.yaml:1:11: include[0]: the name '")
    assert line.endswith(".yaml' is not plain text; rename the file")


def test_a_name_with_brackets_is_a_file_if_there_is_one(tmp_path: Path) -> None:
    file = write(tmp_path, routing="include: ['[a].yaml']\n", **{"[a]": "models: {a: {}}\n"})
    assert list(load(file).models) == ["a"]
    assert load(file).patterns == ()


def test_all_files_together_have_a_limit(tmp_path: Path) -> None:
    half = "# " + "x" * (includes.MAX_BYTES // 2)
    file = write(tmp_path, routing="include: [a.yaml, b.yaml]\n", a=half, b=half)
    assert problems(file) == [
        "routing.yaml:1:19: include[1]: b.yaml: larger than 4 MiB, with its includes; make it smaller"
    ]


def test_links_within_the_folder_are_followed_as_kubernetes_mounts_files(tmp_path: Path) -> None:
    mounted = tmp_path / "mounted"
    write(mounted / "..2026_11", routing="include: [teams.yaml, 'conf/*.yaml']\n", teams="models: {old: {}}\n")
    write(mounted / "..2026_12", routing="include: [teams.yaml, 'conf/*.yaml']\n", teams="models: {new: {}}\n")
    write(mounted / "conf" / "..data", a="models: {conf: {}}\n")
    (mounted / "..data").symlink_to("..2026_11")
    for link, target in (
        ("routing.yaml", "..data/routing.yaml"),
        ("teams.yaml", "..data/teams.yaml"),
        ("conf/a.yaml", "..data/a.yaml"),
    ):
        (mounted / link).symlink_to(target)
    table = load(mounted / "routing.yaml")
    assert list(table.models) == ["old", "conf"]
    assert names(table, mounted) == ["routing.yaml", "teams.yaml", "conf/a.yaml"]
    (mounted / "next").symlink_to("..2026_12")
    (mounted / "next").rename(mounted / "..data")
    assert list(load(mounted / "routing.yaml").models) == ["new", "conf"]


def test_a_folder_or_file_that_is_a_link_is_the_place_of_its_includes(tmp_path: Path) -> None:
    write(tmp_path / "real", routing="include: [a.yaml]\n", a="models: {a: {}}\n")
    (tmp_path / "link").symlink_to("real")
    assert list(load(tmp_path / "link" / "routing.yaml").models) == ["a"]
    (tmp_path / "etc").mkdir()
    for name in ("routing.yaml", "a.yaml"):
        (tmp_path / "etc" / name).symlink_to(f"../real/{name}")
    assert list(load(tmp_path / "etc" / "routing.yaml").models) == ["a"]


@pytest.mark.parametrize("include", ["a.yaml", "'a*.yaml'", "out/secret.yaml", "'out/*.yaml'", "'o*/secret.yaml'"])
def test_a_link_out_of_the_folder_is_refused(tmp_path: Path, include: str) -> None:
    write(tmp_path / "elsewhere", secret="models: {secret: {}}\n")
    file = write(tmp_path / "here", routing=f"include: [{include}]\n")
    (tmp_path / "here" / "a.yaml").symlink_to("../elsewhere/secret.yaml")
    (tmp_path / "here" / "out").symlink_to("../elsewhere")
    (line,) = problems(file)
    assert line.startswith("routing.yaml:1:11: include[0]: ")
    assert line.endswith("leads out of the folder FOLDER by a symbolic link; copy the file into it")


def test_the_revision_is_over_all_files(tmp_path: Path) -> None:
    file = write(tmp_path, routing="include: [a.yaml]\n", a="models: {a: {}}\n")
    first = load(file)
    assert first.revision == load(file).revision
    write(tmp_path, a="models: {b: {}}\n")
    assert load(file).revision != first.revision
    write(tmp_path, routing="models: {}\n")
    assert load(file).revision == hashlib.sha256(b"models: {}\n").hexdigest()[:12]


def test_an_error_names_the_files_that_a_watch_must_follow(tmp_path: Path) -> None:
    file = write(tmp_path, routing="include: [missing.yaml, 'conf/*.yaml', bad.yaml]\n", bad="[", conf__a="")
    with pytest.raises(RoutingError) as raised:
        load(file)
    assert [path.name for path in raised.value.files] == ["routing.yaml", "missing.yaml", "a.yaml", "bad.yaml"]
    assert raised.value.patterns == (f"{tmp_path}/conf/*.yaml",)
    assert len(raised.value.revision) == 12


def test_files_that_change_while_they_are_read_are_read_again(tmp_path: Path) -> None:
    file = write(tmp_path, routing="include: [a.yaml]\nmodels: {old: {serve: '${NAME}'}}\n", a="models: {b: {}}\n")

    class Changing(dict[str, str]):
        """Replaces both files while the first one is read."""

        reads = 0

        def get(self, name: str, default: Any = None) -> Any:
            self.reads += 1
            if self.reads == 1:
                write(
                    tmp_path, routing="include: [a.yaml]\nmodels:\n  new: {serve: '${NAME}'}\n", a="models: {c: {}}\n"
                )
            return name if name == "NAME" else default

    environment = Changing()
    assert list(load(file, environment).models) == ["new", "c"]
    assert environment.reads == 2


def test_bytes_without_a_file_include_none() -> None:
    with pytest.raises(RoutingError, match=r"f\.yaml:1:1: include: needs the folder of a file; load one"):
        parse(b"include: [a.yaml]\n", "f.yaml")


def test_a_relative_path_of_the_file_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path, routing="include: [conf/a.yaml]\n", conf__a="models: {a: {}}\n")
    monkeypatch.chdir(tmp_path)
    table = load(Path("routing.yaml"))
    assert table.files == (Path("routing.yaml"), Path("conf/a.yaml"))
    assert table.places["models", "a"] == ("conf/a.yaml", 1, 10)
