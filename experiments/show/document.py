"""What a report is made of, and how it becomes HTML, Markdown, and a folder of files."""

import itertools
import re
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from pathlib import Path

from callbacks.html_page import page
from experiments.config import ConfigError

FIGURES = "figures"
_FILES = {"report.md", "report.html", FIGURES}

_STYLE = """
h2 { padding-top: 1rem; border-top: 2px solid var(--ink); }
body { max-width: 100rem; }
.rows th, .rows td { padding-inline: .3rem; }
.rows td:nth-child(2) { min-width: 7.5rem; }
.rows th.number abbr { display: inline-block; max-width: 5.5rem; }
/* an interval is broken only where its table is wider than its place */
.rows td.number small { white-space: normal; }
@media (max-width: 36rem) {
  .rows td:nth-child(2) { min-width: 8.5rem; overflow-wrap: anywhere; }
  .rows td:first-child { white-space: normal; min-width: 4.5rem; overflow-wrap: anywhere; }
}
.figures { display: grid; gap: 0 2rem;
  grid-template-columns: repeat(auto-fit, minmax(min(32rem, 100%), 1fr)); }
.figures figure { min-width: 0; }
.wide td, .wide td:first-child { white-space: normal; overflow-wrap: anywhere; min-width: 8rem; }
th[tabindex] { cursor: pointer; }
th[aria-sort]::after { content: " \\2193"; } th[aria-sort="ascending"]::after { content: " \\2191"; }
abbr { text-decoration: underline dotted; text-underline-offset: .2em; }
input[type="search"] { font: inherit; font-size: .85rem; padding: .25rem .5rem; max-width: 100%;
  color: var(--ink); background: var(--paper); border: 1px solid var(--line); border-radius: 4px; }
figure svg { display: block; width: 100%; min-width: 32rem; height: auto; background: #fff;
  border-radius: 4px; }
@media (prefers-color-scheme: dark) { figure svg { filter: invert(.91) hue-rotate(180deg); } }
"""


_SCRIPT = """<script>
// click a head to sort by it; a long table gets a field whose words its rows must hold
for (const table of document.querySelectorAll("table")) {
  const body = table.tBodies[0], number = cell => parseFloat(cell.textContent.replace("+", ""));
  [...table.tHead.rows[0].cells].forEach((head, column) => {
    head.tabIndex = 0;
    head.onclick = () => {
      const up = head.getAttribute("aria-sort") === "descending" ? 1 : -1;
      for (const other of table.tHead.rows[0].cells) other.removeAttribute("aria-sort");
      head.setAttribute("aria-sort", up > 0 ? "ascending" : "descending");
      const missing = up > 0 ? Infinity : -Infinity, key = row => number(row.cells[column]);
      const words = row => row.cells[column].textContent;
      const isNumber = [...body.rows].some(row => !isNaN(key(row))) && head.classList.contains("number");
      const order = isNumber
        ? (a, b) => up * ((isNaN(key(a)) ? missing : key(a)) - (isNaN(key(b)) ? missing : key(b)) || 0)
        : (a, b) => -up * words(a).localeCompare(words(b));
      body.append(...[...body.rows].sort(order));
    };
    head.onkeydown = event => { if (event.key === "Enter") head.onclick(); };
  });
  if (body.rows.length < 6) continue;
  const field = Object.assign(document.createElement("input"), {type: "search", placeholder: "filter rows"});
  field.setAttribute("aria-label", "filter rows");
  field.oninput = () => {
    const wanted = field.value.toLowerCase().split(" ");
    for (const row of body.rows)
      row.hidden = !wanted.every(word => row.textContent.toLowerCase().includes(word));
  };
  table.parentElement.before(field);
}
</script>"""


@dataclass(frozen=True)
class Heading:
    level: int
    text: str


@dataclass(frozen=True)
class Paragraph:
    text: str


@dataclass(frozen=True)
class Bullets:
    items: tuple[str, ...]


@dataclass(frozen=True)
class Table:
    """Attributes:
    title: above the table.
    columns: their heads.
    rows: cells, whose lines are separated by newlines; the first line is what matters most.
    num_labels: columns of words, at the left; the others hold numbers.
    notes: below the table.
    meanings: what columns hold, by their heads, for who points at one.
    """

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    num_labels: int
    notes: tuple[str, ...] = ()
    meanings: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Picture:
    """Attributes:
    name: of its files, without ending.
    title: in words.
    caption: what it shows, and what it leaves out.
    svg: the drawing.
    png: the same as pixels.
    """

    name: str
    title: str
    caption: str
    svg: str
    png: bytes


Block = Heading | Paragraph | Bullets | Table | Picture
"""The one structure that HTML and Markdown are both written from."""


# ---- the folder, written whole or not at all ----


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
            _write_all(blocks, partial)
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


def _write_all(blocks: Sequence[Block], folder: Path) -> None:
    (folder / FIGURES).mkdir(parents=True)
    (folder / "report.md").write_text(render_markdown(blocks, FIGURES), encoding="utf-8")
    (folder / "report.html").write_text(render_html(blocks), encoding="utf-8")
    for block in blocks:
        if isinstance(block, Picture):
            (folder / FIGURES / f"{block.name}.svg").write_text(block.svg, encoding="utf-8")
            (folder / FIGURES / f"{block.name}.png").write_bytes(block.png)


# ---- HTML ----


def render_html(blocks: Sequence[Block]) -> str:
    """The text of `report.html`; its first heading is its title."""
    title = next(block.text for block in blocks if isinstance(block, Heading))
    parts = []
    for are_pictures, group in itertools.groupby(blocks, key=lambda block: isinstance(block, Picture)):
        shown = "\n".join(map(_html, group))
        parts.append(f'<div class="figures">\n{shown}\n</div>' if are_pictures else shown)
    return page(title, "\n".join([*parts, _SCRIPT]), _STYLE)


def _html(block: Block) -> str:
    match block:
        case Heading(level, text):
            return f"<h{level}>{escape(text)}</h{level}>"
        case Paragraph(text):
            return f"<p>{escape(text)}</p>"
        case Bullets(items):
            return "<ul>\n" + "\n".join(f"<li>{escape(item)}</li>" for item in items) + "\n</ul>"
        case Table():
            return _html_table(block)
        case Picture():
            return (
                f'<figure>\n<div class="scroll">{_inline_svg(block)}</div>\n'
                f"<figcaption><strong>{escape(block.title)}.</strong> "
                f"{escape(block.caption)}</figcaption>\n</figure>"
            )


def _html_table(table: Table) -> str:
    def cells(tag: str, row: Sequence[str]) -> str:
        shown = []
        for i, cell in enumerate(row):
            first, *others = cell.split("\n")
            small = "".join(f"<small>{_breakable(line)}</small>" for line in others)
            kind = "" if i < table.num_labels else ' class="number"'
            words, meaning = escape(first), table.meanings.get(first, "") if tag == "th" else ""
            if meaning:
                words = f'<abbr title="{escape(meaning, quote=True)}">{words}</abbr>'
            shown.append(f"<{tag}{kind}>{words}{small}</{tag}>")
        return f"<tr>{''.join(shown)}</tr>"

    notes = "".join(f'<p class="notes">{escape(note)}</p>\n' for note in table.notes)
    # not a caption, which would scroll away with the table
    title = f"<h3>{escape(table.title)}</h3>\n"
    if not table.rows:
        return title + notes
    kind = "wide" if table.num_labels == len(table.columns) else "rows"
    rows = "\n".join(cells("td", row) for row in table.rows)
    return (
        f'{title}<div class="scroll"><table class="{kind}" aria-label="{escape(table.title)}">\n'
        f"<thead>{cells('th', table.columns)}</thead>\n<tbody>\n{rows}\n</tbody>\n</table></div>\n{notes}"
    )


def _breakable(line: str) -> str:
    """Settings may be broken where their names and values end."""
    return re.sub(r"([_=])", r"\1<wbr>", escape(line))


def _inline_svg(picture: Picture) -> str:
    """The drawing without its XML head, its ids made unlike those of the other drawings in the page."""
    svg = re.sub(r"<metadata>.*?</metadata>", "", picture.svg[picture.svg.index("<svg") :], flags=re.DOTALL)
    svg = re.sub(r'\bid="', f'id="{picture.name}-', svg)
    svg = re.sub(r'(href="#|url\(#)', rf"\g<1>{picture.name}-", svg)
    label = escape(picture.title, quote=True)
    return svg.replace("<svg ", f'<svg role="img" aria-label="{label}" ', 1).rstrip()


# ---- Markdown ----


def render_markdown(blocks: Sequence[Block], figures: str) -> str:
    """The text of `report.md`.

    Args:
        blocks: of the report.
        figures: folder of the pictures, relative to the file.
    """
    return "\n\n".join(_markdown(block, figures) for block in blocks) + "\n"


def _markdown(block: Block, figures: str) -> str:
    match block:
        case Heading(level, text):
            return f"{'#' * level} {_plain(text)}"
        case Paragraph(text):
            return _plain(text)
        case Bullets(items):
            return "\n".join(f"- {_plain(item)}" for item in items)
        case Table():
            return _markdown_table(block)
        case Picture():
            return (
                f"![{_plain(block.title)}]({figures}/{block.name}.png)\n\n"
                f"**{_plain(block.title)}.** {_plain(block.caption)}"
            )


def _markdown_table(table: Table) -> str:
    lines = [f"**{_plain(table.title)}**", ""]
    if table.rows:
        rules = ["---" if i < table.num_labels else "---:" for i in range(len(table.columns))]
        lines += [_markdown_row([_plain(cell) for cell in table.columns]), _markdown_row(rules)]
        lines += [_markdown_row([_plain(cell).replace("\n", "<br>") for cell in row]) for row in table.rows]
        lines.append("")
    lines += [f"{_plain(note)}  " for note in table.notes]
    return "\n".join(lines).rstrip()


def _markdown_row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _plain(text: str) -> str:
    return re.sub(r"([\\|*`<>])", r"\\\1", text)
