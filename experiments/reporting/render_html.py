"""A report as one HTML file that needs no other."""

import re
from collections.abc import Sequence
from html import escape

from experiments.reporting.document import Block, Bullets, Heading, Paragraph, Picture, Table

_STYLE = """
body { margin: 0 auto; max-width: 76rem; padding: 2rem 2rem 4rem; background: #fff; color: #1c1c1c;
  font: 16px/1.55 system-ui, -apple-system, "Segoe UI", "Liberation Sans", Arial, sans-serif; }
h1 { font-size: 1.9rem; line-height: 1.2; margin: 0 0 1rem; }
h2 { font-size: 1.4rem; margin: 3rem 0 1rem; padding-top: 1rem; border-top: 2px solid #1c1c1c; }
h3 { font-size: 1.1rem; margin: 2.2rem 0 .6rem; }
p, li { max-width: 52rem; }
li { margin-bottom: .5rem; }
.scroll { overflow-x: auto; margin: 1.6rem 0 .4rem; }
table { border-collapse: collapse; font-size: .8rem; line-height: 1.4; font-variant-numeric: tabular-nums; }
caption { text-align: left; font-weight: 600; font-size: 1rem; padding-bottom: .5rem; }
th, td { padding: .35rem .5rem; text-align: left; vertical-align: top; }
th { border-bottom: 1.5px solid #1c1c1c; font-weight: 600; vertical-align: bottom; }
td { border-bottom: 1px solid #ddd; }
.number { text-align: right; }
td.number, td:first-child { white-space: nowrap; }
td small { display: block; color: #5a5a5a; font-size: .72rem; }
.wide td, .wide td:first-child { white-space: normal; overflow-wrap: anywhere; min-width: 6rem; }
.notes { color: #444; font-size: .82rem; margin: 0 0 .2rem; }
figure { margin: 2rem 0; max-width: 52rem; }
figure svg { width: 100%; height: auto; display: block; }
figcaption { color: #333; font-size: .88rem; margin-top: .5rem; }
"""


def render_html(blocks: Sequence[Block], title: str) -> str:
    """The text of `report.html`."""
    body = "\n".join(_render(block) for block in blocks)
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>{_STYLE}</style>\n</head>\n<body>\n{body}\n</body>\n</html>\n"
    )


def _render(block: Block) -> str:
    match block:
        case Heading(level, text):
            return f"<h{level}>{escape(text)}</h{level}>"
        case Paragraph(text):
            return f"<p>{escape(text)}</p>"
        case Bullets(items):
            return "<ul>\n" + "\n".join(f"<li>{escape(item)}</li>" for item in items) + "\n</ul>"
        case Table():
            return _render_table(block)
        case Picture():
            return (
                f"<figure>\n{_inline(block)}\n<figcaption><strong>{escape(block.title)}.</strong> "
                f"{escape(block.caption)}</figcaption>\n</figure>"
            )


def _render_table(table: Table) -> str:
    def cells(tag: str, row: Sequence[str]) -> str:
        shown = []
        for i, cell in enumerate(row):
            first, *others = cell.split("\n")
            small = "".join(f"<small>{escape(line)}</small>" for line in others)
            kind = "" if i < table.num_labels else ' class="number"'
            shown.append(f"<{tag}{kind}>{escape(first)}{small}</{tag}>")
        return f"<tr>{''.join(shown)}</tr>"

    notes = "".join(f'<p class="notes">{escape(note)}</p>\n' for note in table.notes)
    if not table.rows:
        return f"<h3>{escape(table.title)}</h3>\n{notes}"
    kind = ' class="wide"' if table.num_labels == len(table.columns) else ""
    rows = "\n".join(cells("td", row) for row in table.rows)
    return (
        f'<div class="scroll"><table{kind}>\n<caption>{escape(table.title)}</caption>\n'
        f"<thead>{cells('th', table.columns)}</thead>\n<tbody>\n{rows}\n</tbody>\n</table></div>\n{notes}"
    )


def _inline(picture: Picture) -> str:
    """The drawing without its XML head, its ids made unlike those of the other drawings in the page."""
    svg = re.sub(r"<metadata>.*?</metadata>", "", picture.svg[picture.svg.index("<svg") :], flags=re.DOTALL)
    svg = re.sub(r'\bid="', f'id="{picture.name}-', svg)
    svg = re.sub(r'(href="#|url\(#)', rf"\g<1>{picture.name}-", svg)
    label = escape(picture.title, quote=True)
    return svg.replace("<svg ", f'<svg role="img" aria-label="{label}" ', 1).rstrip()
