from pathlib import Path

from vllama_pool.router.compat.rules.docs_table import markdown

PAGE = Path(__file__).resolve().parents[5] / "docs" / "ollama-compatibility.md"


def test_the_table_in_the_docs_matches_the_rules() -> None:
    assert markdown() in PAGE.read_text(), (
        "write the output of vllama_pool.router.compat.rules.docs_table.markdown() into docs/ollama-compatibility.md"
    )
