"""Two processes measure what one does: no question counts twice, whatever the sampler repeats."""

import json

import pytest

from callbacks.alarm_on_collapse import AlarmOnCollapse
from callbacks.log_indicators import LogIndicators
from callbacks.read_start_candidates import ReadStartCandidates
from callbacks.refresh_index import RefreshIndex
from callbacks.save_predictions import SavePredictions
from callbacks.stop_on_interrupt import StopOnInterrupt
from lightning_modules.closed_book import ClosedBookModule
from tests.tiny_models import toy_questions
from tests.toy_training import LIGHTNING_ADVICE, run_script, toy_datamodule, toy_module, toy_trainer

pytestmark = pytest.mark.filterwarnings(*LIGHTNING_ADVICE)


def evaluate(folder, **settings) -> dict:
    """All that is logged by evaluations of an odd number of questions, and what callbacks counted."""
    indicators = LogIndicators((50, 90))
    alarm, candidates = AlarmOnCollapse(folder / "good.ckpt"), ReadStartCandidates((50, 90))
    index = RefreshIndex("-1", folder / "index", show_progress=False)
    predictions = SavePredictions(folder / "predictions.jsonl", indicators)
    callbacks = [alarm, index, indicators, candidates, predictions, StopOnInterrupt(folder / "last.ckpt")]
    trainer = toy_trainer(folder, callbacks, limit_val_batches=1.0, **settings)
    process = folder / f"process{trainer.global_rank}"
    process.mkdir()
    # passages with and without answers, so that the teacher can be judged
    module = toy_module(process, num_passages=20)
    questions = toy_questions()
    data = toy_datamodule(validation=questions[:5], test=questions[5:10])
    measured = {}

    def keep(name: str) -> None:
        logged = {key: float(value) for key, value in trainer.callback_metrics.items()}
        measured[name] = {key: value for key, value in logged.items() if value == value}

    trainer.validate(module, data, verbose=False)
    keep("validation")
    measured["start"] = alarm.start
    for name, of_callback in (
        ("read", indicators.latest_questions),
        ("hits", indicators.latest_hits),
        ("candidates", candidates.latest_questions),
    ):
        measured[name] = sorted(of_callback.question_ids)
    trainer.test(module, data, verbose=False)
    keep("test")
    for num_read in (1, 3):
        with module.evaluating(num_read=num_read):
            trainer.validate(module, data, verbose=False)
        keep(f"first {num_read}")
    asking = toy_trainer(folder, [], **settings)
    asking.test(ClosedBookModule(module.reader, max_new_tokens=3), data, verbose=False)
    measured["closed book"] = {key: float(value) for key, value in asking.callback_metrics.items()}
    return measured


TWO_PROCESSES = """
import json, sys
from pathlib import Path
from tests.lightning_modules.test_two_processes import evaluate
import torch.distributed

if __name__ == "__main__":
    folder = Path(sys.argv[1])
    measured = evaluate(folder, devices=2, strategy="ddp")
    if torch.distributed.get_rank() == 0:
        (folder / "measured.json").write_text(json.dumps(measured))
"""


def test_two_processes_measure_what_one_does(tmp_path):
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
    one = evaluate(tmp_path / "one")
    run_script(tmp_path / "two", TWO_PROCESSES)
    two = json.loads((tmp_path / "two" / "measured.json").read_text())
    assert one.keys() == two.keys()
    for name, measured in one.items():
        expected = measured if isinstance(measured, list) else pytest.approx(measured, rel=1e-4, abs=1e-5)
        assert two[name] == expected, name
    assert one["hits"] == [f"q{i}" for i in range(5)]
    assert one["validation"].keys() >= {"validation/passage_words", "validation/kl", "validation/em"}
    lines = [
        json.loads(line)["id"]
        for path in (tmp_path / "two").glob("predictions.jsonl*")
        for line in path.read_text().splitlines()
    ]
    assert sorted(lines) == [f"q{i}" for i in range(5, 10)]
