"""Whatever a setting says, it is understood, or one message says what is wrong with it."""

from collections.abc import Callable
from contextlib import suppress

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from callbacks.refresh_schedule import parse_refresh
from callbacks.threshold import Threshold
from datamodules.templates import parse_template
from experiments.config import load_config
from lightning_modules.head_lists import parse_heads

PARSERS: dict[str, tuple[Callable[[str], object], list[str]]] = {
    "heads": (parse_heads, ["3.1,14.*,0-3.*", "qrhead:16", "layers:10-14", "core:8"]),
    "refresh": (parse_refresh, ["0-500:50,500-2000:250", "when_stale:0.9", "-1", "100"]),
    "template": (parse_template, ["user:\n{title} {text}\n{question}\nassistant:\n{answer}", "{{}}"]),
    "threshold": (
        Threshold.parse,
        ["validation/hr_at_5 >= start - 0.02 for 3 then stop", "until a <= 1e3"],
    ),
}


@st.composite
def near(draw: st.DrawFn, texts: list[str]) -> str:
    """One of some texts with a part lost, doubled, or replaced by anything."""
    text = draw(st.sampled_from(texts))
    start = draw(st.integers(0, len(text)))
    end = draw(st.integers(start, len(text)))
    put = draw(st.text(max_size=8) | st.sampled_from([text, text[start:end] * 2, "9" * 400, "-", "1e999"]))
    return text[:start] + put + text[end:]


@pytest.mark.parametrize("name", PARSERS)
@given(data=st.data())
def test_settings_are_understood_or_refused(name, data):
    parse, texts = PARSERS[name]
    text = data.draw(st.text() | near(texts))
    with suppress(ValueError):
        assert parse(text) == parse(text)


@given(near(["training.retriever_lr=1e-5", "retrieval.candidates=both", "data.validation=a.jsonl"]))
@example("evaluation.percentiles=[90,[95]]")
@example("reader={a: 1}")
@example("seed=" + "[" * 200)
@settings(max_examples=40)
def test_overrides_are_understood_or_refused(override):
    with suppress(ValueError):
        load_config("quickstart", [override])
