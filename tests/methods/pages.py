"""Pages of the documents whose commands are run."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path


def run_commands(commands: Sequence[str], folder: Path, shorten: Callable[[Path], None]) -> None:
    """Run the commands of a page in a folder, one after the other.

    Args:
        commands: as the page has them, ``wsikit VERB ...``.
        folder: what each prints is left there in ``VERB.txt``.
        shorten: is given each configuration file that ``wsikit config init FILE`` wrote.
    """
    for command in commands:
        words = command.split()[1:]
        done = subprocess.run(
            [sys.executable, "-m", "wsikit.cli", *words], cwd=folder, env=os.environ, capture_output=True, text=True
        )
        assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
        (folder / f"{words[0]}.txt").write_text(done.stdout, "utf-8")
        if words[0] == "config":
            shorten(folder / words[-1])
