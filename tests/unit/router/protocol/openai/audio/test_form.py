from __future__ import annotations

import re

import pytest

from vllama_pool.router.errors import BadRequest, TooLarge
from vllama_pool.router.protocol.openai.audio.form import (
    MAX_FIELD,
    MAX_PARTS,
    Form,
    FormFile,
    build_form,
    is_form,
    parse_form,
    safe_name,
)

KIND = "multipart/form-data; boundary=b"


def part(name: str, value: bytes, more: str = "") -> bytes:
    return f'--b\r\nContent-Disposition: form-data; name="{name}"{more}\r\n\r\n'.encode() + value + b"\r\n"


def file(value: bytes, name: str = "a.wav", kind: str = "audio/wav") -> bytes:
    return part("file", value, f'; filename="{name}"\r\nContent-Type: {kind}')


def parsed(*parts: bytes, end: bytes = b"--b--\r\n", max_file: int = 100) -> Form:
    return parse_form(KIND, b"".join(parts) + end, max_file)


def refused(*parts: bytes, end: bytes = b"--b--\r\n") -> str:
    with pytest.raises(BadRequest) as caught:
        parsed(*parts, end=end)
    assert caught.value.status == 400
    return caught.value.text


@pytest.mark.parametrize(
    ("content_type", "expected"),
    [
        (KIND, True),
        ("Multipart/Form-Data ; boundary=b", True),
        ("multipart/mixed; boundary=b", False),
        ("application/json", False),
        ("", False),
    ],
)
def test_forms_are_told_by_their_content_type(content_type: str, expected: bool) -> None:
    assert is_form(content_type) is expected


def test_texts_lists_and_files_are_read() -> None:
    form = parsed(part("model", b"x"), part("g[]", b"word"), file(b"\0\r\n--\xff"), part("g[]", "é".encode()))
    assert form.texts == {"model": "x"}
    assert form.lists == {"g": ["word", "é"]}
    assert form.files == {"file": FormFile(b"\0\r\n--\xff", "a.wav", "audio/wav")}


def test_the_first_of_repeated_names_wins() -> None:
    form = parsed(part("model", b"x"), part("model", b"y"), file(b"1"), file(b"2"))
    assert (form.texts["model"], form.files["file"].data) == ("x", b"1")


@pytest.mark.parametrize(
    ("content_type", "text"),
    [
        ("multipart/form-data", "this route takes a form; send multipart/form-data with a boundary"),
        ("multipart/form-data; boundary=", "this route takes a form; send multipart/form-data with a boundary"),
        ("multipart/mixed; boundary=b", "this route takes a form; send multipart/form-data"),
    ],
)
def test_a_content_type_without_a_boundary_is_refused(content_type: str, text: str) -> None:
    with pytest.raises(BadRequest) as caught:
        parse_form(content_type, b"--b--\r\n", 100)
    assert caught.value.text == text


def test_broken_forms_are_refused() -> None:
    for text in (
        refused(end=b""),
        refused(end=b"no form"),
        refused(part("model", b"x"), end=b""),
        refused(part("model", b"x")[:-10], end=b""),
        refused(b"--b\r\nbroken\r\n\r\nx\r\n"),
        refused(b"--b\r\nContent-Type: text/plain\r\n\r\nx\r\n"),
        refused(*[part("a", b"x")] * (MAX_PARTS + 1)),
        refused(part("a" * 5000, b"x")),
    ):
        assert text.startswith("the form is invalid: ")


def test_long_and_undecodable_texts_are_refused() -> None:
    assert parsed(part("a", b"x" * MAX_FIELD)).texts["a"]
    assert refused(part("a", b"x" * (MAX_FIELD + 1))) == "Invalid 'a': longer than 64 KiB."
    assert refused(part("a", b"\xff")) == "Invalid 'a': not UTF-8."


def test_a_file_over_the_limit_is_a_413() -> None:
    assert parsed(file(b"x" * 100)).files["file"].data == b"x" * 100
    with pytest.raises(TooLarge) as caught:
        parsed(file(b"x" * 2**20), max_file=2**20 - 1)
    assert caught.value.status == 413
    assert caught.value.text.startswith("the file 'file' is larger than 0.999999 MiB")


@pytest.mark.parametrize("name", ["filename*=utf-8''%C3%A9t%C3%A9.mp3", "filename*=UTF-8'fr'%C3%A9.mp3"])
def test_names_of_files_may_be_encoded(name: str) -> None:
    assert parsed(part("file", b"\xff", f"; {name}")).files["file"].name.endswith(".mp3")


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("speech.mp3", "speech.mp3"),
        ("/etc/passwd", "passwd"),
        ('..\\..\\x y\r\nz".wav', "x_y_z_.wav"),
        ("../..", "file"),
        ("", "file"),
        ("é" * 5 + ".ogg", "_.ogg"),
        ("a" * 200 + ".flac", "a" * 59 + ".flac"),
        (".wav", "wav"),
    ],
)
def test_names_of_files_are_made_safe(name: str, expected: str) -> None:
    assert safe_name(name) == expected


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("audio/x-m4a", "audio/x-m4a"),
        ("video/mp4", "video/mp4"),
        ("text/html", "application/octet-stream"),
        ("audio/a;b=c", "audio/a"),
        ("audio/\u00e9", "application/octet-stream"),
    ],
)
def test_only_media_types_of_recordings_are_kept(kind: str, expected: str) -> None:
    assert parsed(file(b"x", kind=kind)).files["file"].content_type == expected


def test_a_form_is_built_that_reads_as_the_same() -> None:
    fields = [("model", 'a"b\r\n--x'), ("g[]", "word"), ("g[]", "segment")]
    sent = FormFile(b"\r\n--b--\r\n" + bytes(range(256)), "a.wav", "audio/wav")
    content_type, body = build_form(fields, "file", sent)
    form = parse_form(content_type, body, 1000)
    assert (form.texts, form.lists, form.files) == (
        {"model": 'a"b\r\n--x'},
        {"g": ["word", "segment"]},
        {"file": sent},
    )
    assert re.fullmatch(r"multipart/form-data; boundary=[0-9a-f]{32}", content_type)
    assert build_form(fields, "file", sent)[0] != content_type
