"""docs/cli.md has the help texts as they are; a night's work does what its page says."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import click
import pytest

from aiomap.cli.commands import aiomap

pytestmark = pytest.mark.once

DOCS = Path(__file__).parent.parent / "docs"
PAGE = DOCS / "cli.md"
NIGHT = DOCS / "night.md"


def help_texts() -> str:
    """The end of the page: what `--help` says, by command."""
    texts: list[str] = []
    for name in ("run", "fetch", "status", "errors", "check", "export"):
        parent = click.Context(aiomap, info_name="aiomap", **aiomap.context_settings)
        context = click.Context(aiomap.commands[name], parent, info_name=name, terminal_width=100)
        texts.append(f"```text\n{aiomap.commands[name].get_help(context)}\n```\n")
    return "\n".join(texts)


def test_the_help_texts_stand_in_the_page_as_they_are() -> None:
    marker = "## The help texts\n\n"
    page = PAGE.read_text(encoding="utf-8")
    if "AIOMAP_WRITE_DOCS" in os.environ:  # AIOMAP_WRITE_DOCS=1 pytest tests/test_cli_docs.py
        page = page.partition(marker)[0] + marker + help_texts()
        PAGE.write_text(page, encoding="utf-8")
    assert page.partition(marker)[2] == help_texts(), "write it anew with AIOMAP_WRITE_DOCS=1"


def steps() -> list[tuple[str, str]]:
    """The blocks of the page of a night's work, with their languages."""
    return re.findall(r"```(\w+)\n(.*?)```", NIGHT.read_text(encoding="utf-8"), re.DOTALL)


@pytest.mark.skipif(shutil.which("bash") is None, reason="the page is for a shell")
def test_the_commands_of_a_nights_work_do_what_the_page_says(tmp_path: Path) -> None:
    environment = {**os.environ, "PATH": f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}", "PYTHONUNBUFFERED": "1"}
    (tmp_path / "bin").mkdir()
    command = tmp_path / "bin" / "aiomap"
    command.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -m aiomap "$@"\n')
    command.chmod(0o755)
    for language, block in steps():
        if language == "python":
            (tmp_path / "job.py").write_text(block)
            continue
        if language != "sh":
            continue
        done = subprocess.run(
            ["bash", "-c", block],  # noqa: S607  (whichever bash there is)
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
        expected = re.search(r"# exit (\d+)", block)
        assert done.returncode == (int(expected[1]) if expected else 0), done.stderr
        for shown in re.findall(r"^# shows: (.*)$", block, re.MULTILINE):
            assert shown in done.stdout + done.stderr
