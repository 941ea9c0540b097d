"""A token view as an HTML page, and as Markdown for TensorBoard."""

from collections.abc import Sequence
from html import escape

from callbacks.attended_tokens import PassageView, Piece, QuestionView
from callbacks.html_page import page
from callbacks.markdown_text import plain

_FULL_SHADE = 4.0
"""Times an even share of the attention, from which on the shade is full."""

# Okabe and Ito's orange, which all readers tell from the underlines' blue; darker where text is light
_STYLE = """
:root { --shading: 230 159 0; }
@media (prefers-color-scheme: dark) { :root { --shading: 150 84 0; } }
body { max-width: 56rem; }
h2 { font-size: 1.1rem; margin: 2.2rem 0 .2rem; }
p { margin: .2rem 0; }
.legend, .given { color: var(--soft); font-size: .9rem; }
.legend span { color: var(--ink); margin-right: .7rem; }
.legend span span { margin-right: 0; }
section > div { border: 1px solid var(--line); border-radius: 6px; padding: .6rem .9rem; margin: .7rem 0;
  break-inside: avoid; }
.head { display: flex; flex-wrap: wrap; gap: .1rem 1.4rem; align-items: baseline; font-size: .85rem;
  color: var(--soft); }
.head b { color: var(--ink); }
.head i { display: inline-block; height: .55rem; background: var(--accent); margin-left: .4rem; }
.head .attn, .head .retr { min-width: 13rem; }
.head .retr i { background: var(--soft); }
.hit { color: var(--accent); font-weight: 600; margin-left: auto; }
@media (max-width: 36rem) {
  .head { display: grid; grid-template-columns: 1.5rem 1fr; }
  .head .retr, .head .hit { grid-column: 2; margin-left: 0; }
}
.title { font-weight: 600; }
[style^="--shade"] { background: rgb(var(--shading) / var(--shade)); }
.a { font-weight: 800; text-decoration: underline solid var(--accent) 2px; text-underline-offset: 3px; }
.n { text-decoration: underline dotted var(--ink) 2px; text-underline-offset: 3px; }
.a.n { text-decoration: underline double var(--accent) 2px; }
* { print-color-adjust: exact; -webkit-print-color-adjust: exact; }
"""


def html_page(views: Sequence[QuestionView], step: int) -> str:
    """A page that needs no other file; the passages' tokens are shaded by how much they are attended to."""
    what = ", ".join(dict.fromkeys(view.scores_are for view in views))
    samples = "".join(
        f"<span>{_shaded(Piece(f' {share:g}× ', share, False, False))}</span>" for share in (0.5, 1, 2, 4)
    )
    legend = (
        f'<p class="legend"><span>shade: {what}, in even shares of the passage</span>{samples}'
        '<span><span class="a">answer</span></span><span><span class="n">noun of the question</span></span>'
        f"<br>From {_FULL_SHADE:g}× on the shade is full. p_ATTN: what the reader teaches; p_RETR: what the "
        "retriever says. Passages are cut as the reader saw them; a ✓ is for the whole passage.</p>"
    )
    title = f"Token view, step {step}"
    sections = "\n".join(_section(view) for view in views)
    return page(title, f"<h1>{title}</h1>\n{legend}\n{sections}", _STYLE)


def _section(view: QuestionView) -> str:
    passages = "\n".join(_passage(passage, rank) for rank, passage in enumerate(view.passages, start=1))
    reader = "" if view.prediction is None else f" · reader: <b>{escape(view.prediction) or '(nothing)'}</b>"
    answers = " / ".join(map(escape, view.question.answers))
    return (
        f"<section>\n<h2>{_asked(view)}</h2>\n"
        f'<p class="given">answer: <b>{answers}</b>{reader}</p>\n{passages}\n</section>'
    )


def _asked(view: QuestionView) -> str:
    """The question with its nouns marked."""
    text, end, parts = view.question.text, 0, []
    for first, last in view.question.nouns:
        parts.append(f'{escape(text[end:first])}<span class="n">{escape(text[first:last])}</span>')
        end = last
    return "".join(parts) + escape(text[end:])


def _passage(passage: PassageView, rank: int) -> str:
    hit = '<span class="hit">✓ holds an answer</span>' if passage.holds_answer else ""
    title = "".join(map(_shaded, passage.title))
    text = "".join(map(_shaded, passage.text))
    return (
        f'<div><p class="head"><b>{rank}</b>{_bar("p_ATTN", "attn", passage.p_attn)}'
        f"{_bar('p_RETR', 'retr', passage.p_retr)}{hit}</p>\n"
        f'<p><span class="title">{title}</span></p>\n<p>{text}</p></div>'
    )


def _bar(name: str, kind: str, probability: float) -> str:
    return (
        f'<span class="{kind}">{name} {probability:.3f}<i style="width:{6 * probability:.2f}rem"></i></span>'
    )


def _shaded(piece: Piece) -> str:
    """The space before a word stays outside of its marks."""
    bare = piece.text.lstrip()
    space = piece.text[: len(piece.text) - len(bare)]
    shade = min(piece.attention / _FULL_SHADE, 1.0)
    marks = " ".join(name for name, holds in (("a", piece.in_answer), ("n", piece.in_noun)) if holds)
    css = f' class="{marks}"' if marks else ""
    return (
        f'{escape(space)}<span{css} style="--shade:{shade:.2f}" '
        f'title="{piece.attention:.2f}×">{escape(bare)}</span>'
    )


def markdown(views: Sequence[QuestionView], num_top: int = 8) -> str:
    """Tables of passages with their most attended tokens in bold: TensorBoard lets no styles through."""
    return "\n\n---\n\n".join(_table(view, num_top) for view in views)


def _table(view: QuestionView, num_top: int) -> str:
    lines = [
        f"**{plain(view.question.text)}**",
        f"answers: {plain(' / '.join(view.question.answers))}",
    ]
    rows = ["| rank | holds an answer | p_ATTN | p_RETR | most attended in bold |", "|---|---|---|---|---|"]
    for rank, passage in enumerate(view.passages, start=1):
        hit = "yes" if passage.holds_answer else ""
        pieces = [*passage.title, Piece(": ", 0.0, False, False), *passage.text]
        top = sorted(pieces, key=lambda piece: -piece.attention)[:num_top]
        text = "".join(_emphasized(piece, any(piece is one for one in top)) for piece in pieces)
        rows.append(f"| {rank} | {hit} | {passage.p_attn:.3f} | {passage.p_retr:.3f} | {text.strip()} |")
    return "\n\n".join([*lines, "\n".join(rows)])


def _emphasized(piece: Piece, is_top: bool) -> str:
    bare = piece.text.strip()
    if not is_top or not bare:
        return plain(piece.text)
    space = " " if piece.text[0].isspace() else ""
    return f"{space}<strong>{plain(bare)}</strong>"  # asterisks within a word would not always do
