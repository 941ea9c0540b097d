"""The layout is written once and names what runs really log; passages arrive as readable text."""

import re

import pytest
import torch
from lightning.pytorch.loggers import TensorBoardLogger
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator, TensorEvent
from tensorboard.plugins.custom_scalar import layout_pb2

from callbacks.dashboard import Dashboard, _describe, layout
from callbacks.refresh_index import RefreshIndex
from callbacks.stop_on_indicators import MONITORS
from callbacks.threshold import Threshold
from datamodules.batches import Passage, Question
from datamodules.passages import build_knowledge_base
from experiments import run
from lightning_modules.evaluation import Evaluation
from lightning_modules.metrics.measures import RETRIEVAL_HIT
from tests.tiny_models import toy_passages
from tests.toy_files import as_overrides, toy_settings
from tests.toy_training import LIGHTNING_ADVICE, toy_datamodule, toy_module, toy_trainer

pytestmark = pytest.mark.filterwarnings(*LIGHTNING_ADVICE)


def patterns(with_reader_loss: bool) -> set[str]:
    """The regular expressions that TensorBoard looks for tags with."""
    charts = [chart for category in layout(with_reader_loss).values() for chart in category.values()]
    return {pattern for kind, tags in charts if kind == "Multiline" for pattern in tags}


def margin_tags(with_reader_loss: bool) -> set[str]:
    """The tags of charts with bounds, which TensorBoard takes as they are written."""
    charts = [chart for category in layout(with_reader_loss).values() for chart in category.values()]
    assert {kind for kind, _ in charts} == {"Multiline", "Margin"}
    return {tag for kind, tags in charts if kind == "Margin" for tag in tags}


def read_events(folder) -> EventAccumulator:
    events = EventAccumulator(str(folder), size_guidance={"tensors": 0})
    events.Reload()
    return events


def texts(events: EventAccumulator) -> list[str]:
    return [event.tensor_proto.string_val[0].decode() for event in table_events(events)]


def table_events(events: EventAccumulator) -> list[TensorEvent]:
    """By step: the files of a validation and of training may have been begun in the same second."""
    return sorted(events.Tensors("retrieved/text_summary"), key=lambda event: event.step)


@pytest.fixture
def validated(tmp_path):
    """Events of two validations of a knowledge base whose passages hold pipes and line ends."""
    passages = [
        Passage(p.id, p.title.replace(" of ", " | "), p.text.replace(" and ", " | and\n"))
        for p in toy_passages()
    ]
    logger = TensorBoardLogger(tmp_path, name="", version="events")
    index = RefreshIndex("-1", tmp_path / "index", show_progress=False)
    module = toy_module(tmp_path)
    module.knowledge_base = build_knowledge_base(passages, tmp_path / "piped.arrow")
    trainer = toy_trainer(
        tmp_path,
        [index, Dashboard(num_questions=3, num_passages=6)],
        limit_val_batches=1.0,
        val_check_interval=2,
        max_steps=2,
        logger=logger,
    )
    trainer.validate(module, toy_datamodule(), verbose=False)
    trainer.fit(module, toy_datamodule())
    logger.finalize("success")
    return read_events(tmp_path / "events")


def test_the_layout_is_written_once(validated):
    [event] = validated.Tensors("custom_scalars__config__")
    written = layout_pb2.Layout.FromString(event.tensor_proto.string_val[0])
    assert [category.title for category in written.category] == list(layout(with_reader_loss=False))
    tags = {tag for c in written.category for chart in c.chart for tag in chart.multiline.tag}
    assert tags == patterns(with_reader_loss=False)
    margins = {
        tag
        for category in written.category
        for chart in category.chart
        for series in chart.margin.series
        for tag in (series.value, series.lower, series.upper)
    }
    assert margins == margin_tags(with_reader_loss=False)


def test_passages_are_shown_as_tables(validated):
    first, second = texts(validated)
    assert [event.step for event in table_events(validated)] == [0, 2]
    for text in (first, second):
        assert text.count("what is the capital of") == 3
        assert text.count("answers: ") == text.count("reader: ") == 3
        rows = [line for line in text.split("\n") if line.startswith("|")]
        assert len(rows) == 3 * (2 + 6 - 1), "head, rule and the five passages that were retrieved"
        for row in rows:
            cells = row.replace("\\|", "").strip("|").split("|")
            assert len(cells) == 5, f"a bare pipe breaks the table: {row}"
        assert "\\|" in text


@pytest.mark.filterwarnings("ignore:html5lib's sanitizer is deprecated")
def test_what_is_shown_loads_nothing_and_links_to_nothing():
    """As TensorBoard's own conversion shows it."""
    from tensorboard.plugin_util import markdown_to_safe_html

    evil = '![x](http://evil.org/x.png) <img src="http://evil.org/y.png"> [z](http://evil.org) `c`'
    question = Question("q", evil, (evil,))
    passages = [[Passage("p", evil, f"{evil} | {evil}")]]
    evaluation = Evaluation([question], passages, torch.ones(1, 1, dtype=torch.bool), 1, predictions=[evil])
    page = markdown_to_safe_html(_describe(evaluation, 0, 5))
    assert "<table>" in page
    assert not re.search("<(img|a|code)", page)
    assert page.count("![x](http://evil.org/x.png)") >= 5, "in question, answer, prediction, title and text"


@pytest.mark.parametrize(
    ("experiment", "trains_reader", "generates", "missing"),
    [
        ("offshelf_vital", True, True, set()),
        ("quickstart", False, False, {"^validation/em$", "^validation/f1$"}),
    ],
)
def test_a_run_logs_every_tag_of_the_layout(tmp_path, experiment, trains_reader, generates, missing):
    settings = toy_settings(
        tmp_path, trainer__max_steps=2, evaluation__generate_in_validation=str(generates).lower()
    )
    settings["data.validation"] = settings["data.train"]  # enough questions to compare with the start
    assert run.main(["--exp", experiment, *as_overrides(settings)]) == 0
    [events] = (tmp_path / "runs").glob(f"{experiment}/*/tensorboard*")
    logged = read_events(events).Tags()["scalars"]
    found = {pattern for pattern in patterns(trains_reader) if any(re.search(pattern, tag) for tag in logged)}
    assert patterns(trains_reader) - found == missing
    changes = {tag for tag in logged if tag.startswith("stopping/")}
    # of too few questions is the AUC, since hardly any of them has passages of both kinds
    monitors = (MONITORS[0], RETRIEVAL_HIT.name) if trains_reader else (RETRIEVAL_HIT.name,)
    charts = layout(trains_reader, monitors)["5 Decisions: change since the start, with its bounds"]
    assert {tag for _, tags in charts.values() for tag in tags} == changes
    assert all(sum(bool(re.search(pattern, tag)) for tag in logged) == 1 for pattern in found)


def test_thresholds_stand_beside_what_they_bound():
    bounds = [Threshold.parse("m >= 0.3"), Threshold.parse("until n <= start")]
    found = layout(False, monitors=(), thresholds=bounds)
    assert [category for category in found if category.startswith("5 ")] == ["5 Decisions: thresholds"]
    assert found["5 Decisions: thresholds"] == {
        "m >= 0.3 for 2 then stop": ["Multiline", ["^m$", "^stopping/threshold_1$"]],
        "until n <= start for 1": ["Multiline", ["^n$", "^stopping/threshold_2$"]],
    }
    assert "5 Decisions: thresholds" not in layout(False)


def test_only_the_loss_of_the_objective_has_a_chart():
    for loss_name, other in (("kl", "emdr2"), ("emdr2", "kl")):
        charts = [tags for c in layout(False, loss_name=loss_name).values() for _, tags in c.values()]
        tags = [tag for of_chart in charts for tag in of_chart]
        assert {f"^train/{loss_name}$", f"^validation/{loss_name}$"} <= set(tags)
        assert not any(other in tag for tag in tags)


def test_a_chart_holds_one_hit_rate_and_its_baseline():
    charts = layout(False)["3 Retrieval and teacher"]
    assert {name: tags for name, (_, tags) in charts.items() if name.startswith("Hit Rate")} == {
        f"Hit Rate@{k}": [f"^validation/hr_at_{k}$", f"^validation/bm25/hr_at_{k}$"] for k in (1, 5, 20)
    }
