"""Programs in processes of their own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def program(*arguments: str, folder: Path, ends: int = 0, **variables: str) -> str:
    """What a Python program says in that folder; it must end with that exit code."""
    settings = os.environ | {"PYTHONPATH": str(ROOT)} | variables
    done = subprocess.run(
        [sys.executable, *arguments], capture_output=True, text=True, cwd=folder, env=settings
    )
    assert done.returncode == ends, (
        f"{done.returncode}, not {ends}: {done.stdout[-2000:]}\n{done.stderr[-6000:]}"
    )
    return done.stdout
