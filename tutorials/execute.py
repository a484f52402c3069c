"""Execute notebooks in place and store their outputs.

uv run python tutorials/execute.py             # all
uv run python tutorials/execute.py tutorials/01*.ipynb
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

import nbformat
from nbclient import NotebookClient

HERE = Path(__file__).parent

# the same draws whether or not the kernels' caches are complete
os.environ["BAYESLMM_COMPILE"] = "now"


def execute(path: Path, *, timeout: int = 600) -> nbformat.NotebookNode:
    """The notebook at `path`, every cell run in order in a fresh kernel.

    Raises
    ------
    nbclient.exceptions.CellExecutionError
        If a cell raises.
    """
    notebook = nbformat.read(path, as_version=4)
    NotebookClient(notebook, timeout=timeout, kernel_name="python3", record_timing=False).execute(
        cwd=str(path.parent)
    )
    return notebook


def main(arguments: list[str]) -> None:
    """Execute and rewrite the notebooks named, or all."""
    everything = [*sorted(HERE.glob("*.ipynb")), *sorted(HERE.glob("solutions/*.ipynb"))]
    for path in [Path(argument) for argument in arguments] or everything:
        start = time.perf_counter()
        nbformat.write(execute(path), path)
        print(f"{path.name}: {time.perf_counter() - start:.0f} s")


if __name__ == "__main__":
    main(sys.argv[1:])
