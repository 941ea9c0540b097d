"""Draws the figure of the method in the README: `python docs/draw_method.py` writes docs/method.svg."""

from html import escape
from pathlib import Path

INK, BLUE, ORANGE, GREY, PAPER = "#1c1c1c", "#0072b2", "#d55e00", "#767676", "#ffffff"
WIDTH, HEIGHT = 980, 330
PASSAGES = (
    ("Paris", 0.62, 0.30),
    ("Rivers of France", 0.10, 0.38),
    ("Lyon", 0.20, 0.22),
    ("Oslo", 0.08, 0.10),
)
"""Title, p_ATTN and p_RETR of each passage: an illustration, not a measurement."""


def box(x: float, y: float, width: float, height: float, lines: list[str], colour: str = INK) -> str:
    """A rounded box with centred lines of text, the first one bold."""
    first = y + height / 2 - 9 * (len(lines) - 1)
    texts = "".join(
        text(x + width / 2, first + 18 * i + 5, line, anchor="middle", bold=i == 0)
        for i, line in enumerate(lines)
    )
    return (
        f'<rect x="{x}" y="{y}" width="{width}" height="{height}" rx="8" fill="{PAPER}" stroke="{colour}" '
        f'stroke-width="1.6"/>{texts}'
    )


def text(
    x: float,
    y: float,
    words: str,
    anchor: str = "start",
    bold: bool = False,
    colour: str = INK,
    size: int = 14,
) -> str:
    weight = ' font-weight="600"' if bold else ""
    return (
        f'<text x="{x}" y="{y}" text-anchor="{anchor}" font-size="{size}" fill="{colour}"{weight}>'
        f"{escape(words)}</text>"
    )


def arrow(points: list[tuple[float, float]], colour: str = INK, dashed: bool = False) -> str:
    path = " ".join(f"{x},{y}" for x, y in points)
    dashes = ' stroke-dasharray="6 4"' if dashed else ""
    head = {INK: "ink", BLUE: "blue", ORANGE: "orange"}[colour]
    return (
        f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="1.8"{dashes} '
        f'marker-end="url(#{head})"/>'
    )


def heads() -> str:
    return "".join(
        f'<marker id="{name}" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="8" markerHeight="8" '
        f'orient="auto"><path d="M0 0 8 4 0 8z" fill="{colour}"/></marker>'
        for name, colour in (("ink", INK), ("blue", BLUE), ("orange", ORANGE))
    )


def passages() -> str:
    """The retrieved passages, each with a bar for p_ATTN and one for p_RETR."""
    parts = [
        text(392, 34, "retrieved passages", bold=True),
        text(560, 34, "p_ATTN", bold=True, colour=ORANGE),
        text(672, 34, "p_RETR", bold=True, colour=BLUE),
    ]
    for i, (title, p_attn, p_retr) in enumerate(PASSAGES):
        y = 48 + 38 * i
        parts += [
            f'<rect x="392" y="{y}" width="150" height="28" rx="5" fill="#f3f3f3" stroke="{GREY}"/>',
            text(402, y + 19, title, size=13),
            f'<rect x="560" y="{y + 5}" width="{130 * p_attn:.0f}" height="18" fill="{ORANGE}"/>',
            f'<rect x="672" y="{y + 5}" width="{130 * p_retr:.0f}" height="18" fill="{BLUE}"/>',
        ]
    return "".join(parts)


def draw() -> str:
    """The whole figure."""
    parts = [
        box(20, 62, 150, 52, ["question Q", "capital of France?"], GREY),
        box(210, 62, 140, 52, ["retriever", "trained"], BLUE),
        passages(),
        box(392, 232, 150, 52, ["reader", "frozen, or trained"], ORANGE),
        box(210, 232, 140, 52, ["answer A", "Paris"], GREY),
        box(792, 96, 180, 64, ["KL(p_ATTN ‖ p_RETR)", "the loss"]),
        arrow([(170, 88), (206, 88)]),
        arrow([(350, 88), (388, 88)]),
        arrow([(467, 206), (467, 228)]),
        arrow([(350, 258), (388, 258)]),
        arrow([(542, 258), (612, 258), (612, 206)], ORANGE),
        text(622, 252, "attention of the answer's rows,", colour=ORANGE, size=13),
        text(622, 270, "summed over each passage (Eq. 1)", colour=ORANGE, size=13),
        arrow([(758, 128), (788, 128)]),
        arrow([(952, 160), (952, 312), (190, 312), (190, 130), (232, 130), (232, 118)], BLUE, dashed=True),
        text(394, 305, "gradient into the retriever alone", colour=BLUE, size=13),
    ]
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" '
        'aria-label="Attention distillation" font-family="system-ui, sans-serif">'
        f'<defs>{heads()}</defs><rect width="{WIDTH}" height="{HEIGHT}" fill="{PAPER}"/>'
        f"{''.join(parts)}</svg>\n"
    )


if __name__ == "__main__":
    Path(__file__).with_name("method.svg").write_text(draw(), encoding="utf-8")
