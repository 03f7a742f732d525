"""Formats of the errors and warnings of `vllama check`."""

from pathlib import Path

import pytest

from vllama_pool.router.cli.findings import ERROR, WARNING, Finding, as_error, github_command, text_line

ODD = Finding(ERROR, "/repo/a,b:c/100%.yaml", 3, 5, "models.m", "50% of\r\nit: wrong, sorry; correct it")


def test_a_line_of_text_begins_with_the_place() -> None:
    assert text_line(Finding(WARNING, "r.yaml", 3, 5, "models.m", "odd; change it")) == (
        "r.yaml:3:5: warning: models.m: odd; change it"
    )
    assert text_line(Finding(ERROR, "r.yaml", 0, 0, "", "too large; shorten it")) == "r.yaml: too large; shorten it"


def test_a_command_of_github_escapes_its_text_and_its_properties() -> None:
    """In properties, ":" and "," end the value, too."""
    assert github_command(ODD, Path("/repo")) == (
        "::error file=a%2Cb%3Ac/100%25.yaml,line=3,col=5::models.m: 50%25 of%0D%0Ait: wrong, sorry; correct it"
    )


@pytest.mark.parametrize(("file", "shown"), [("r.yaml", "r.yaml"), ("/repo/r.yaml", "r.yaml"), ("/etc/r", "/etc/r")])
def test_a_command_of_github_names_files_below_the_working_folder_relative_to_it(file: str, shown: str) -> None:
    assert github_command(Finding(WARNING, file, 0, 0, "", "x"), Path("/repo")) == f"::warning file={shown}::x"


def test_a_warning_that_counts_as_an_error_keeps_its_place() -> None:
    assert as_error(Finding(WARNING, "f", 1, 2, "k", "m")) == Finding(ERROR, "f", 1, 2, "k", "m")
