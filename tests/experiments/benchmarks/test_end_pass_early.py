"""The benchmark of passes that end early, in small."""

from dataclasses import replace

import pytest
import torch

from datamodules.batches import Batch
from experiments.benchmarks.end_pass_early import in_turns, main
from lightning_modules.readers.decoder_only import DecoderOnlyReader
from tests.tiny_models import save_tiny_models, tiny_reader, toy_passages, toy_questions


def test_a_line_for_each_choice_of_heads(capsys, tmp_path):
    reader, _ = save_tiny_models(tmp_path)
    arguments = ["--reader", str(reader), "--passages", "2", "--repeats", "2", "--heads", "0.1", "layers:0-1"]
    assert main(arguments) == 0
    _, head, *lines = capsys.readouterr().out.splitlines()
    assert head.split()[0] == "heads"
    assert [line.split()[:2] for line in lines] == [["0.1", "0"], ["layers:0-1", "1"]]


class Wrong(DecoderOnlyReader):
    def read_attention(self, batch):
        output = super().read_attention(batch)
        return replace(output, token_scores=output.token_scores.nextafter(torch.tensor(9.0)))


def test_other_scores_are_no_saving():
    reader = tiny_reader()
    batch = Batch(toy_questions()[:1], [toy_passages()[:2]], ["Paris"])
    assert len(in_turns(reader, batch, 1)[1]) == 1
    with pytest.raises(ValueError, match="gives other token scores"):
        in_turns(Wrong(reader.model, reader.prompts), batch, 1)
