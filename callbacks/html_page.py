"""The one look of all HTML pages: self-contained, legible on a phone and on a wide screen, light or dark."""

from html import escape

_STYLE = """
:root { color-scheme: light dark; --ink: #1c1c1c; --soft: #555; --paper: #fff; --panel: #f4f5f7;
  --line: #d9dce0; --accent: #0072b2; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e6e6e6; --soft: #a8adb4; --paper: #17191c; --panel: #24272c; --line: #3b4047;
    --accent: #56b4e9; }
}
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 76rem; padding: 2rem clamp(1rem, 3vw, 2rem) 4rem; color: var(--ink);
  background: var(--paper); overflow-wrap: break-word;
  font: 16px/1.55 system-ui, -apple-system, "Segoe UI", "Liberation Sans", Arial, sans-serif;
  font-variant-numeric: tabular-nums; -webkit-text-size-adjust: 100%; }
h1 { font-size: clamp(1.4rem, 4vw, 1.9rem); line-height: 1.2; margin: 0 0 1rem; }
h2 { font-size: 1.35rem; line-height: 1.3; margin: 3rem 0 1rem; }
h3 { font-size: 1.1rem; margin: 2.2rem 0 .6rem; }
p, li { max-width: 52rem; }
li { margin-bottom: .5rem; }
ul { padding-left: 1.3rem; }
code { background: var(--panel); padding: .1rem .3rem; white-space: pre-wrap; overflow-wrap: anywhere; }
.scroll { overflow-x: auto; margin: .6rem 0; }
table { border-collapse: collapse; font-size: .84rem; line-height: 1.4; }
th, td { padding: .35rem .55rem; text-align: left; vertical-align: top; }
th { border-bottom: 1.5px solid var(--ink); font-weight: 600; vertical-align: bottom; }
td { border-bottom: 1px solid var(--line); }
.number { text-align: right; }
td.number, td:first-child { white-space: nowrap; }
td small { display: block; color: var(--soft); font-size: .75rem; }
.notes { color: var(--soft); font-size: .85rem; margin: 0 0 .2rem; }
figure { margin: 2rem 0; max-width: 52rem; }
figcaption { color: var(--soft); font-size: .88rem; margin-top: .5rem; }
"""


def page(title: str, body: str, extra_style: str = "") -> str:
    """A whole HTML file that needs no other.

    Args:
        title: plain text, of the window and not of the body.
        body: HTML whose text is escaped; tables that may be wide stand in `<div class="scroll">`.
        extra_style: CSS after the shared one, which offers its colours as `--ink`, `--soft`, `--paper`,
            `--panel`, `--line` and `--accent`.
    """
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>{_STYLE}{extra_style}</style>\n</head>\n"
        f"<body>\n{body}\n</body>\n</html>\n"
    )
