"""The page is well-formed and escapes what it shows; TensorBoard's own sanitiser keeps the Markdown."""

from html.parser import HTMLParser

import pytest

from callbacks.attended_tokens import PassageView, Piece, QuestionView
from callbacks.token_page import html_page, markdown
from datamodules.batches import Question
from lightning_modules.readers.outputs import DropOutput


def view(**changes) -> QuestionView:
    title = [Piece(" <b>|Ti", 1.0, False, False), Piece("tle", 0.5, False, False)]
    text = [
        Piece(" _x_", 0.1, False, True),
        Piece(" Paris", 9.0, True, False),
        Piece(" *&*", 0.0, False, False),
    ]
    passages = [PassageView(title, text, True, 0.75, 0.25), PassageView([], text, False, 0.25, 0.75)]
    question = Question("q", "is <i> a capital", ("Paris", "A|B"), nouns=((9, 16),))
    return QuestionView(
        **{
            "question": question,
            "passages": passages,
            "prediction": "<u>",
            "scores_are": "attention",
            **changes,
        }
    )


class Page(HTMLParser):
    """Checks that tags are closed, and gathers what is shown."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.text: list[str] = []
        self.styles: dict[str, str] = {}
        self.classes: dict[str, str] = {}
        self._attributes: dict[str, str] = {}
        self.feed(page)
        assert not self.open

    def handle_starttag(self, tag, attrs) -> None:
        if tag not in ("meta", "br"):
            self.open.append(tag)
        self._attributes = dict(attrs)

    def handle_endtag(self, tag) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data) -> None:
        self.text.append(data)
        self.styles.setdefault(data, self._attributes.get("style", ""))
        self.classes.setdefault(data, self._attributes.get("class", ""))


def test_the_page():
    page = Page(html_page([view(), view()], step=7))
    shown = "".join(page.text)
    assert "Token view, step 7" in shown
    assert shown.count("is <i> a capital") == 2
    assert shown.count("<b>|Title") == 2, "a title of two tokens is read as one word"
    assert shown.count("✓ holds an answer") == 2
    assert "p_ATTN 0.750" in shown
    assert "reader: <u>" in shown
    assert page.styles["_x_"] == "--shade:0.03"
    assert page.classes["_x_"] == "n"
    assert page.classes["capital"] == "n"


def test_shades_end_at_full():
    page = html_page([view()], step=0)
    assert '<span class="a" style="--shade:1.00" title="9.00×">Paris</span>' in page
    assert "--shading: 230 159 0" in page
    assert "http" not in page, "self-contained"


def test_it_says_what_the_shade_is():
    assert "shade: attention" in html_page([view()], 0)
    assert "shade: drop in the answer" in html_page([view(scores_are=DropOutput.scores_are)], 0)


@pytest.mark.filterwarnings("ignore:html5lib's sanitizer is deprecated:DeprecationWarning")
def test_tensorboard_keeps_the_markdown():
    from tensorboard.plugin_util import markdown_to_safe_html

    html = markdown_to_safe_html(markdown([view()], num_top=1))
    assert html.count("<strong>Paris</strong>") == 2
    assert html.count("<td>") == 2 * 5, "no text breaks the table"
    for text in ("&lt;b&gt;|Title", "_x_", "*&amp;*", "Paris / A|B", "is &lt;i&gt; a capital"):
        assert text in html
    assert "&lt;strong" not in html
