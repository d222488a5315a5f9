"""README and docs: every Python block runs, in the order of its page."""

from __future__ import annotations

import linecache
from collections.abc import Callable
from pathlib import Path

import pytest
from sybil import Document
from sybil.parsers.markdown import PythonCodeBlockParser

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


@pytest.fixture
def show_source(monkeypatch: pytest.MonkeyPatch) -> Callable[[Path], None]:
    """Lets `inspect` find the source of a page's functions, as in a file that has its Python blocks alone."""

    def show(page: Path) -> None:
        lines, inside = list[str](), False
        for line in page.read_text().splitlines(keepends=True):
            fence = line.startswith("```")
            lines.append(line if inside and not fence else "\n")
            inside = line.startswith("```python") or (inside and not fence)
        monkeypatch.setitem(linecache.cache, str(page), (0, None, lines, str(page)))

    return show


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_python_block_of_the_page_runs(page: Path, show_source: Callable[[Path], None]) -> None:
    show_source(page)
    document = Document.parse(str(page), PythonCodeBlockParser())
    for example in document.examples():
        example.evaluate()


def test_the_pages_do_have_python_blocks() -> None:
    assert sum(page.read_text().count("```python") for page in PAGES) > 15


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_link_between_pages_leads_somewhere(page: Path) -> None:
    import re

    for target in re.findall(r"\]\(([^)#:]+)\)", page.read_text()):
        assert (page.parent / target).exists(), target
