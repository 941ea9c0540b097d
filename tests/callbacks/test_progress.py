"""Bars that count optimizer steps, and are gone when they are done."""

import re
import sys
import time

import pytest

import callbacks.progress as progress
from callbacks.progress import StepProgress, progress_bar
from callbacks.refresh_index import RefreshIndex
from tests.toy_training import LIGHTNING_ADVICE, toy_datamodule, toy_module, toy_trainer

pytestmark = pytest.mark.filterwarnings(*LIGHTNING_ADVICE)


@pytest.fixture
def bars(monkeypatch):
    """All bars that are made, in order."""
    made = []

    def make(*args, **kwargs):
        made.append(progress_bar(*args, **kwargs))
        return made[-1]

    monkeypatch.setattr(progress, "progress_bar", make)
    return made


def test_steps_are_counted_not_batches(tmp_path, bars):
    trainer = toy_trainer(
        tmp_path,
        [RefreshIndex("-1", tmp_path / "index", show_progress=False), StepProgress()],
        max_steps=3,
        accumulate_grad_batches=2,
        limit_val_batches=2,
        val_check_interval=4,
    )
    module = toy_module(tmp_path)
    trainer.fit(module, toy_datamodule())
    trainer.test(module, toy_datamodule(), verbose=False)
    shown = [(bar.desc.rstrip(": "), bar.n, bar.total) for bar in bars]
    assert shown == [("Training", 3, 3), ("Validating", 2, 2), ("Testing", 3, 3)]
    assert "kl=" in bars[0].postfix
    assert all(bar.disable for bar in bars), "closed"


def test_a_failing_run_closes_its_bars(tmp_path, bars):
    module = toy_module(tmp_path)
    module.training_step = lambda *_args: 1 / 0
    index = RefreshIndex("-1", tmp_path / "index", show_progress=False)
    with pytest.raises(ZeroDivisionError):
        toy_trainer(tmp_path, [index, StepProgress()]).fit(module, toy_datamodule())
    assert bars
    assert all(bar.disable for bar in bars)


def test_a_bar_shows_rate_and_time_left(capsys, monkeypatch):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    with progress_bar(10, "Encoding passages", "passages") as bar:
        bar.mininterval = 0
        bar.update(5)
        bar.refresh()
    shown = capsys.readouterr().err
    assert "Encoding passages" in shown
    assert "5/10" in shown
    assert "passages/s" in shown
    assert "<" in shown, "elapsed<left"


@pytest.mark.parametrize(
    ("total", "line"),
    [
        (10, r"Encoding passages: 5 of 10 \(50%\), .*passages/s, 00:0\d left, kl=0.1"),
        (None, r"Encoding passages: 5, .*passages/s, kl=0.1"),
    ],
)
def test_a_log_gets_lines_in_place_of_a_bar(capsys, monkeypatch, total, line):
    monkeypatch.setattr(progress, "_PAUSE_S", 0.0)
    with progress_bar(total, "Encoding passages", "passages") as bar:
        time.sleep(0.01)
        bar.set_postfix_str("kl=0.1", refresh=False)
        bar.update(5)
    shown = capsys.readouterr().err
    assert re.fullmatch(f"({line}\n)+", "\n".join(shown.splitlines()[1:]) + "\n"), "after that of the start"
    assert "\r" not in shown


def test_a_hidden_bar_shows_nothing(capsys):
    with progress_bar(10, "Encoding passages", "passages", is_shown=False) as bar:
        bar.update(5)
    assert capsys.readouterr().err == ""


def test_a_log_is_left_alone_by_what_takes_seconds(capsys):
    with progress_bar(10, "Encoding passages", "passages") as bar:
        for _ in range(10):
            bar.update()
    assert capsys.readouterr().err.strip() == ""


def test_long_numbers_are_short_where_asked_for(capsys, monkeypatch):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    for prefixes in (False, True):
        with progress_bar(4_000_000_000, "Downloading", "B", prefixes=prefixes) as bar:
            bar.update(1_000_000_000)
            bar.refresh()
    shown = capsys.readouterr().err
    assert "1000000000/4000000000" in shown
    assert "1.00G/4.00G" in shown
