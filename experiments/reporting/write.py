"""A report's folder, written whole or not at all."""

import tempfile
from collections.abc import Sequence
from pathlib import Path

from experiments.config import ConfigError
from experiments.reporting.compose import TITLE
from experiments.reporting.document import Block, Picture
from experiments.reporting.render_html import render_html
from experiments.reporting.render_markdown import render_markdown

FIGURES = "figures"
_FILES = {"report.md", "report.html", FIGURES}


def check_folder(folder: Path) -> None:
    """Refuses a folder that holds anything but an earlier report, which would be lost.

    Raises:
        ConfigError: it does, or it is a file.
    """
    if not folder.exists():
        return
    if not folder.is_dir():
        raise ConfigError(f"--out {folder} is a file; name a folder")
    held = {path.name for path in folder.iterdir()}
    is_report = "report.md" in held and "report.html" in held and held <= _FILES
    if held and not is_report:
        raise ConfigError(f"--out {folder} holds other files than a report's; name a new or an empty folder")


def write_report(blocks: Sequence[Block], folder: Path) -> None:
    """Writes `report.md`, `report.html`, and `figures/` with each picture as PNG and SVG.

    An earlier report in the folder is replaced.

    Raises:
        ConfigError: the folder holds something else, or cannot be written.
    """
    check_folder(folder)
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        # beside the folder, so that renaming is one step
        with tempfile.TemporaryDirectory(prefix=f".{folder.name}.", dir=folder.parent) as scratch:
            partial = Path(scratch) / "new"
            _write(blocks, partial)
            old = Path(scratch) / "old"
            if folder.exists():
                folder.rename(old)
            try:
                partial.rename(folder)
            except OSError:
                if old.exists():
                    old.rename(folder)
                raise
    except OSError as error:
        raise ConfigError(
            f"cannot write the report to {folder}: {error.strerror}; name another --out"
        ) from error


def _write(blocks: Sequence[Block], folder: Path) -> None:
    (folder / FIGURES).mkdir(parents=True)
    (folder / "report.md").write_text(render_markdown(blocks, FIGURES), encoding="utf-8")
    (folder / "report.html").write_text(render_html(blocks, TITLE), encoding="utf-8")
    for block in blocks:
        if isinstance(block, Picture):
            (folder / FIGURES / f"{block.name}.svg").write_text(block.svg, encoding="utf-8")
            (folder / FIGURES / f"{block.name}.png").write_bytes(block.png)
