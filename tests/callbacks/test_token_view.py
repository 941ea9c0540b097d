"""A page a validation, of the same questions, and the text that goes to TensorBoard."""

import re

import pytest
from lightning.pytorch.loggers import TensorBoardLogger
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from callbacks.refresh_index import RefreshIndex
from callbacks.token_view import TokenView
from tests.toy_training import LIGHTNING_ADVICE, toy_datamodule, toy_module, toy_trainer

pytestmark = pytest.mark.filterwarnings(*LIGHTNING_ADVICE)


def test_pages_of_the_same_questions(tmp_path):
    logger = TensorBoardLogger(tmp_path, name="", version="events")
    index = RefreshIndex("-1", tmp_path / "index", show_progress=False)
    trainer = toy_trainer(
        tmp_path,
        [index, TokenView(tmp_path / "view", num_questions=3)],
        limit_val_batches=1.0,
        val_check_interval=2,
        max_steps=2,
        logger=logger,
    )
    module, datamodule = toy_module(tmp_path), toy_datamodule()
    trainer.validate(module, datamodule, verbose=False)
    trainer.fit(module, datamodule)
    logger.finalize("success")
    assert sorted(path.name for path in (tmp_path / "view").iterdir()) == [
        "latest.html",
        "step-0.html",
        "step-2.html",
    ]
    start, end, latest = (
        (tmp_path / "view" / f"{name}.html").read_text(encoding="utf-8")
        for name in ("step-0", "step-2", "latest")
    )
    assert latest == end != start
    asked = [re.findall("<h2>(.*)</h2>", page) for page in (start, end)]
    assert asked[0] == asked[1]
    expected = [question.text for question in datamodule.validation[:3]]
    assert [re.sub("<.*?>", "", text) for text in asked[0]] == expected
    assert start.count('<p class="head">') == 3 * 5
    events = EventAccumulator(str(tmp_path / "events"), size_guidance={"tensors": 0})
    events.Reload()
    texts = events.Tensors("token_view/text_summary")
    assert [event.step for event in texts] == [0, 2]
    assert "<strong>" in texts[0].tensor_proto.string_val[0].decode()


def test_the_first_and_the_newest_pages_are_kept(tmp_path):
    """And none of a later step, which a run that was killed had come to."""
    view = TokenView(tmp_path, num_pages=3)
    for step in (0, 5, 10, 15, 20, 25, 100):
        (tmp_path / f"step-{step}.html").touch()
    (tmp_path / "latest.html").touch()
    view._prune(20)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "latest.html",
        "step-0.html",
        "step-15.html",
        "step-20.html",
    ]
    with pytest.raises(ValueError, match="num_pages=1 must be at least 2"):
        TokenView(tmp_path, num_pages=1)


def test_nothing_read_nothing_written(tmp_path):
    callbacks = [RefreshIndex("-1", tmp_path / "index", show_progress=False), TokenView(tmp_path / "view")]
    trainer = toy_trainer(tmp_path, callbacks, limit_val_batches=1)
    trainer.validate(toy_module(tmp_path, num_read=0), toy_datamodule(), verbose=False)
    assert not (tmp_path / "view").exists()
