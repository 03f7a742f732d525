"""Parses YAML into events, with libyaml where it is there, and words its errors."""

from __future__ import annotations

import re
from typing import Any, Protocol

import yaml
from yaml.parser import Parser
from yaml.reader import Reader
from yaml.scanner import Scanner, ScannerError

from vllama_pool.config.routing.places import Place, Problem


class EventParser(Protocol):
    def get_event(self) -> yaml.Event | None: ...


class TolerantParser(Reader, Scanner, Parser):
    """PyYAML's own parser, which is slow, with tabs between tokens as blanks: JSON is often indented with them.

    A tab that indents a block stays an error.
    """

    def __init__(self, text: str) -> None:
        Reader.__init__(self, text)
        Scanner.__init__(self)
        Parser.__init__(self)

    def get_event(self) -> yaml.Event | None:
        try:
            event: yaml.Event | None = super().get_event()  # type: ignore[no-untyped-call]
        except (ValueError, OverflowError):  # of `chr`, for an escape beyond Unicode
            raise ScannerError(None, None, _SURROGATE, self.get_mark()) from None
        return event

    def scan_to_next_token(self) -> None:
        super().scan_to_next_token()
        while self._blank_tabs():
            while self.peek() in (" ", "\t"):
                self.forward()
            super().scan_to_next_token()

    def _blank_tabs(self) -> bool:
        if self.peek() != "\t":
            return False
        if self.flow_level or self.buffer[self.pointer - self.column : self.pointer].strip(" "):
            return True
        end = self.pointer
        while self.buffer[end] in " \t":
            end += 1
        return self.buffer[end] in "#\r\n\0"  # a line without content


def _fastest() -> type[Any]:
    try:
        from yaml.cyaml import CBaseLoader
    except ImportError:
        return TolerantParser
    return CBaseLoader


FASTEST: type[Any] = _fastest()
"""libyaml's parser, or the tolerant one where PyYAML was built without libyaml."""

MAX_TOLERANT = 1 << 18
"""Characters. The tolerant parser takes about a second for so many."""


def may_be_tolerated(error: yaml.YAMLError, text: str) -> bool:
    """Return True for tabs between tokens, and for JSON's escapes of one character as two, which libyaml refuses."""
    mark = getattr(error, "problem_mark", None)
    if mark is None or len(text) > MAX_TOLERANT:
        return False
    return text[mark.index : mark.index + 1] == "\t" or _SURROGATE in str(getattr(error, "problem", ""))


def unusable_character(text: str, file: str) -> Problem | None:
    """Return the problem of the first character that YAML does not allow."""
    found = _UNUSABLE.search(text)
    if not found:
        return None
    name = {"\0": "a NUL character", "\ufeff": "a byte order mark in the middle of the file"}.get(found[0])
    advice = "save the file as UTF-8, or remove it" if found[0] == "\0" else "remove it"
    return Problem(place_at(text, found.start(), file), "", f"{name or 'a control character'}; {advice}")


def place_at(text: str, index: int, file: str) -> Place:
    before = text[:index].replace("\r\n", "\n").replace("\r", "\n")
    return Place(file, before.count("\n") + 1, len(before) - before.rfind("\n"))


def syntax_problem(error: yaml.YAMLError, text: str, file: str) -> Problem:
    conflict = _CONFLICT.search(text)
    if conflict:
        message = f"a conflict marker of a merge ('{conflict[0]}'); resolve the conflict"
        return Problem(place_at(text, conflict.start(), file), "", message)
    mark = getattr(error, "problem_mark", None)
    if mark is None:
        return Problem(Place(file, 1, 1), "", f"not YAML: {error}; correct it")
    return Problem(Place(file, mark.line + 1, mark.column + 1), "", _wording(error, text, mark.index))


def _wording(error: Any, text: str, index: int) -> str:
    problem, here = error.problem or "", text[index : index + 1]
    wording = next((wording for pattern, wording in _WORDINGS if re.search(pattern, problem)), None)
    if wording is None:
        return f"not YAML: {problem}; check the indentation and the quotes"
    if "expected ',' or" in problem and text[max(0, index - 1) : index + 1] == "${":
        return "'${' inside [ ] or { }; put it in quotes, or write the list or mapping in lines"
    if here == "\t":
        wording = "a tab; indent with spaces"
    began = f"line {error.context_mark.line + 1}" if error.context_mark else "the line above"
    return wording.format(here=here, began=began)


_WORDINGS = (
    ("expected ',' or '\\]'", "no ',' or ']' where one is due; close the '[' of {began}, or put the text in quotes"),
    ("expected ',' or '}'", "no ',' or '}}' where one is due; close the '{{' of {began}, or put the text in quotes"),
    ("unexpected end of stream|EOF", "the quotes of {began} are not closed; close them"),
    ("cannot start any token", "a text cannot begin with '{here}'; put it in quotes"),
    ("mapping values are not allowed", "unexpected ':'; check the indentation, or put the text in quotes"),
    ("sequence entries are not allowed", "unexpected '-'; begin the list in a line of its own"),
    ("could not find expected ':'", "no ':' after the key of {began}; add it, or check the indentation"),
    (
        "expected '-' indicator|expected <block end>, but found '\\?'",
        "not an item of the list of {began}; begin it with '-', or check the indentation",
    ),
    (
        "did not find expected key|expected <block end>",
        "not a key of the mapping of {began}; check the indentation and the quotes",
    ),
    ("expected node content|expected the node content", "unexpected '{here}'; remove it, or put the text in quotes"),
    ("expected alphabetic or numeric", "'*' and '&' begin an alias or anchor; put the text in quotes"),
    ("mapping keys are not allowed", "unexpected '?'; put the text in quotes"),
    ("unexpected ':'", "unexpected ':'; put the text in quotes"),
    (
        "comment or line break|indentation indicator",
        "text after '|' or '>'; begin it in the next line, or put it in quotes",
    ),
    (
        "tag URI|URI escape|UTF-8 octet|codec|whitespace or line break|the expected '[!>]'",
        "a text that begins with '!' is a tag; put it in quotes",
    ),
    (
        "unknown escape|expected escape sequence|hexdecimal|hexadecimal",
        "'\\' begins an escape in double quotes; write '\\\\', or use single quotes",
    ),
    ("invalid Unicode character escape", "an escape of half a character or of none; write the character itself"),
    (
        "incompatible YAML document|incompatible version|version number",
        "another version of YAML; remove the %YAML line",
    ),
    ("directive|non-alphabetical", "a line that begins with '%' is a directive; remove it, or put the text in quotes"),
    ("expected <document start>|expected '<document start>'", "text after the end of the document; remove it"),
    ("undefined tag handle", "an unknown tag; remove it, or put the text in quotes"),
    ("tab character", "a tab; indent with spaces"),
)
"""Texts of libyaml and PyYAML, and ours."""

_SURROGATE = "invalid Unicode character escape"
_CONFLICT = re.compile(r"^(?:<{7}|={7}|>{7})(?= |\r?$)", re.MULTILINE)
_UNUSABLE = re.compile(r"[^\t\n\r\x20-\x7e\x85\xa0-\ud7ff\ue000-\ufefe\uff00-\ufffd\U00010000-\U0010ffff]")
