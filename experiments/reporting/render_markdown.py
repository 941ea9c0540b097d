"""A report as Markdown, with pictures beside it."""

import re
from collections.abc import Sequence

from experiments.reporting.document import Block, Bullets, Heading, Paragraph, Picture, Table


def render_markdown(blocks: Sequence[Block], figures: str) -> str:
    """The text of `report.md`.

    Args:
        blocks: of the report.
        figures: folder of the pictures, relative to the file.
    """
    return "\n\n".join(_render(block, figures) for block in blocks) + "\n"


def _render(block: Block, figures: str) -> str:
    match block:
        case Heading(level, text):
            return f"{'#' * level} {_escape(text)}"
        case Paragraph(text):
            return _escape(text)
        case Bullets(items):
            return "\n".join(f"- {_escape(item)}" for item in items)
        case Table():
            return _render_table(block)
        case Picture():
            return (
                f"![{_escape(block.title)}]({figures}/{block.name}.png)\n\n"
                f"**{_escape(block.title)}.** {_escape(block.caption)}"
            )


def _render_table(table: Table) -> str:
    lines = [f"**{_escape(table.title)}**", ""]
    if table.rows:
        rules = ["---" if i < table.num_labels else "---:" for i in range(len(table.columns))]
        lines += [_row([_escape(cell) for cell in table.columns]), _row(rules)]
        lines += [_row([_escape(cell).replace("\n", "<br>") for cell in row]) for row in table.rows]
        lines.append("")
    lines += [f"{_escape(note)}  " for note in table.notes]
    return "\n".join(lines).rstrip()


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _escape(text: str) -> str:
    return re.sub(r"([\\|*`<>])", r"\\\1", text)
