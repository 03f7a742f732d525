"""Forms in multipart/form-data: read from a client's body, and built anew for a worker."""

from __future__ import annotations

import re
import secrets
from collections.abc import Iterable
from urllib.parse import unquote

import msgspec
from multipart import MultipartError, MultipartSegment, PushMultipartParser, parse_options_header

from vllama_pool.router.errors import BadRequest, TooLarge

MAX_PARTS = 128
MAX_FIELD = 64 * 1024
"""Bytes of a field that is a text."""
NOT_A_FORM = "this route takes a form; send multipart/form-data"
_FORM = "multipart/form-data"
_EXTENDED_NAME = re.compile(r"filename\*=[^';]*'[^';]*'([^;]*)", re.IGNORECASE)
_UNSAFE = re.compile(r"[^A-Za-z0-9._-]+")
_MEDIA_TYPE = re.compile(r"(?:audio|video)/[a-z0-9.+-]{1,64}")
_OTHER = "application/octet-stream"
_NAME_LENGTH = 64


class FormFile(msgspec.Struct, frozen=True):
    data: bytes
    name: str
    """Safe in a header and in a path."""
    content_type: str = _OTHER


class Form(msgspec.Struct, frozen=True):
    """The first value wins where a name is repeated, but in `lists`."""

    texts: dict[str, str]
    lists: dict[str, list[str]]
    """The values of names that end with "[]"."""
    files: dict[str, FormFile]


def is_form(content_type: str) -> bool:
    return content_type.partition(";")[0].strip().lower() == _FORM


def parse_form(content_type: str, body: bytes, max_file: int) -> Form:
    """`max_file`: bytes. Raises BadRequest and TooLarge."""
    boundary = parse_options_header(content_type)[1].get("boundary")
    if not is_form(content_type) or not boundary:
        raise BadRequest(NOT_A_FORM if boundary else f"{NOT_A_FORM} with a boundary")
    form = Form({}, {}, {})
    try:
        for segment, value in _segments(boundary, body):
            _add(form, segment, value, max_file)
    except MultipartError as error:
        raise BadRequest(f"the form is invalid: {error}") from None
    return form


def _segments(boundary: str, body: bytes) -> Iterable[tuple[MultipartSegment, bytes]]:
    with PushMultipartParser(boundary, max_segment_count=MAX_PARTS) as parser:
        value = b""
        segment: MultipartSegment | None = None
        for event in parser.parse(body):
            if isinstance(event, MultipartSegment):
                segment, value = event, b""
            elif event:
                value += event
            elif segment is not None:
                yield segment, value


def _filename(segment: MultipartSegment) -> str | None:
    """Return the name of a file, also of one that is not ASCII in the style of RFC 5987; None for a text."""
    name: str | None = segment.filename
    if name is not None:
        return name
    extended = _EXTENDED_NAME.search(segment.header("Content-Disposition") or "")
    return unquote(extended[1]) if extended else None


def _add(form: Form, segment: MultipartSegment, value: bytes, max_file: int) -> None:
    name = segment.name or ""
    filename = _filename(segment)
    if filename is not None:
        if len(value) > max_file:
            raise TooLarge(f"the file '{name}' is larger than {max_file / 2**20:g} MiB; send it in parts")
        form.files.setdefault(name, FormFile(value, safe_name(filename), _media_type(segment.content_type)))
        return
    if len(value) > MAX_FIELD:
        raise BadRequest(f"Invalid '{name}': longer than {MAX_FIELD // 1024} KiB.", param=name)
    try:
        text = value.decode()
    except UnicodeDecodeError:
        raise BadRequest(f"Invalid '{name}': not UTF-8.", param=name) from None
    if name.endswith("[]"):
        form.lists.setdefault(name.removesuffix("[]"), []).append(text)
    else:
        form.texts.setdefault(name, text)


def safe_name(name: str) -> str:
    """Keep the end of a file's name, which has its type."""
    base = name.replace("\\", "/").rpartition("/")[2]
    return _UNSAFE.sub("_", base)[-_NAME_LENGTH:].lstrip(".") or "file"


def _media_type(content_type: str | None) -> str:
    return content_type if content_type and _MEDIA_TYPE.fullmatch(content_type) else _OTHER


def build_form(fields: Iterable[tuple[str, str]], name: str, file: FormFile) -> tuple[str, bytes]:
    """Return the Content-Type and the body. Names of fields must be safe; values may be any text."""
    boundary = secrets.token_hex(16)
    parts = [
        b'--%b\r\nContent-Disposition: form-data; name="%b"\r\n\r\n%b\r\n'
        % (boundary.encode(), field.encode(), value.encode())
        for field, value in fields
    ]
    head = (
        f'--{boundary}\r\nContent-Disposition: form-data; name="{name}"; filename="{file.name}"\r\n'
        f"Content-Type: {file.content_type}\r\n\r\n"
    )
    body = b"".join((*parts, head.encode(), file.data, f"\r\n--{boundary}--\r\n".encode()))
    return f"{_FORM}; boundary={boundary}", body
