"""Outputs that were kept are those of the reader, and nothing is read twice."""

import copy
import json
from dataclasses import replace

import pytest
import torch

from datamodules.batches import Batch, Question
from datamodules.bm25 import BM25Index
from datamodules.prompts import PromptBuilder, Shown
from datamodules.templates import Template
from lightning_modules.attention_heads import AttentionHeads
from lightning_modules.candidates import Candidates
from lightning_modules.encoding import build_index
from lightning_modules.loading import load_causal_lm
from lightning_modules.objectives import make_objective
from lightning_modules.read_once import _NAMES, ReadOnce, describe_reader, why_not_kept
from lightning_modules.readers.decoder_only import DecoderOnlyReader
from tests.family_tokenizers import family_tokenizer
from tests.tiny_models import tiny_falcon_rw, tiny_llama, tiny_reader, toy_passages, toy_questions
from tests.toy_training import LIGHTNING_ADVICE, toy_datamodule, toy_module, toy_trainer

pytestmark = pytest.mark.filterwarnings(*LIGHTNING_ADVICE)


def batch(rows=(0, 1, 2), num_passages=3):
    questions = [toy_questions()[row] for row in rows]
    passages = [[toy_passages()[(5 * row + k) % 24] for k in range(num_passages)] for row in rows]
    return Batch(questions, passages, [question.answers[0] for question in questions])


def falcon():
    reader = tiny_reader("independent")
    return DecoderOnlyReader(tiny_falcon_rw(len(reader.tokenizer)), reader.prompts).eval()


READERS = {"llama": lambda: tiny_reader("independent"), "falcon": falcon}


def assert_same(found, expected, rows_of=None):
    for name in ("token_scores", "question_scores", "label_log_probs"):
        torch.testing.assert_close(getattr(found, name), getattr(expected, name), rtol=1e-4, atol=1e-6)
    assert torch.equal(found.row_mask, expected.row_mask)
    assert torch.equal(found.label_mask, expected.label_mask)
    of_rows = found.row_mask[..., None]
    torch.testing.assert_close(
        found.row_scores * of_rows, expected.row_scores * of_rows, rtol=1e-4, atol=1e-6
    )
    for name in ("input_ids", "content_mask", "noun_mask"):
        assert torch.equal(getattr(found.prompts, name), getattr(expected.prompts, name))
    assert torch.equal(found.answer.ids, expected.answer.ids)


@torch.no_grad()
@pytest.mark.parametrize("name", list(READERS))
def test_the_output_is_the_readers(name, tmp_path):
    reader = READERS[name]()
    kept = ReadOnce(reader, tmp_path, num_at_once=4)
    expected = reader.read_signals(batch())
    assert_same(kept.read_signals(batch()), expected)
    assert_same(kept.read(batch()), expected)
    likelihoods = kept.answer_likelihoods(batch(), Shown.EACH_LEFT_OUT)
    by_reader = reader.answer_likelihoods(batch(), Shown.EACH_ALONE)
    torch.testing.assert_close(likelihoods.mean_log_probs(), by_reader.mean_log_probs())
    assert not likelihoods.left_out


@torch.no_grad()
def test_a_pair_is_read_once_whatever_batch_and_process_it_comes_in(tmp_path):
    first = ReadOnce(tiny_reader("independent"), tmp_path)
    whole = first.read_signals(batch())
    assert (first.num_read, first.num_found) == (9, 0)
    again = ReadOnce(tiny_reader("independent"), tmp_path)
    again.reader.model.forward = None  # any pass is an error
    other = again.read_signals(batch((2, 0)))
    assert (again.num_read, again.num_found) == (0, 6)
    width = other.token_scores.shape[1]
    assert torch.equal(other.token_scores[:3], whole.token_scores[6:, -width:]), "to the last bit"
    assert torch.equal(other.label_log_probs[:3], whole.label_log_probs[6:, : other.label_log_probs.shape[1]])


@torch.no_grad()
def test_another_answer_question_or_text_is_another_pair(tmp_path):
    kept = ReadOnce(tiny_reader("independent"), tmp_path)
    one = batch((0,), 1)
    kept.read(one)
    passage = one.passages[0][0]
    for other in (
        replace(one, answers=["Lyon"]),
        replace(one, questions=[replace(one.questions[0], text="what is it")]),
        replace(one, passages=[[replace(passage, text="another text")]]),
        replace(one, passages=[[replace(passage, title="another title")]]),
    ):
        before = kept.num_read
        kept.read(other)
        assert kept.num_read == before + 1
    same = replace(one, questions=[replace(one.questions[0], id="another id", nouns=())])
    before = kept.num_read
    assert not kept.read(same).prompts.noun_mask.any(), "nouns are marked anew"
    assert kept.num_read == before


@torch.no_grad()
def test_another_reader_or_template_has_a_folder_of_its_own(tmp_path):
    plain = tiny_reader("independent")
    trained = tiny_reader("independent")
    trained.model.lm_head.weight.add_(0.1)
    chosen = DecoderOnlyReader(plain.model, plain.prompts, AttentionHeads.parse("0.1"))
    shorter = plain.showing(max_tokens_per_passage=40)
    written = plain.showing(template=Template(*["{passage}\nQ: {question}\nA: {answer}"] * 2))
    readers = [plain, trained, chosen, shorter, written]
    assert len({str(describe_reader(reader)) for reader in readers}) == len(readers)
    for reader in readers:
        kept = ReadOnce(reader, tmp_path)
        assert_same(kept.read_signals(batch()), reader.read_signals(batch()))
        assert kept.num_found == 0
    assert describe_reader(plain.showing(passage_order="shuffled")) == describe_reader(plain)


@torch.no_grad()
def test_what_a_configuration_or_an_upgrade_changes_is_read_anew(tmp_path, monkeypatch):
    """The weights are the same, and so is where they lie."""
    folder, cache = tmp_path / "reader", tmp_path / "cache"
    tiny_reader("independent").save(folder)

    def load():
        model, tokenizer = load_causal_lm(folder)
        return DecoderOnlyReader(model, PromptBuilder(tokenizer, "independent"))

    def read(reader):
        kept = ReadOnce(reader, cache)
        assert_same(kept.read_signals(batch()), reader.read_signals(batch()))
        return kept.num_read

    assert [read(load()), read(load())] == [9, 0]
    config = folder / "config.json"
    settings = json.loads(config.read_text())
    settings["rope_parameters"]["rope_theta"] = 77.0
    config.write_text(json.dumps(settings))
    assert [read(load()), read(load())] == [9, 0]
    reader = load()
    for package in ("transformers", "torch"):
        monkeypatch.setattr(f"lightning_modules.read_once.{package}.__version__", "99.0")
        assert [read(reader), read(reader)] == [9, 0], package


def test_another_chat_template_is_another_reader():
    chats = []
    for begun in ("", "<think>"):
        tokenizer = copy.deepcopy(family_tokenizer("smollm2"))
        tokenizer.chat_template = tokenizer.chat_template.replace("assistant\n", f"assistant\n{begun}")
        prompts = PromptBuilder(tokenizer, "independent", template="chat")
        chats.append(DecoderOnlyReader(tiny_llama(len(tokenizer)), prompts))
    first, other = (describe_reader(reader) for reader in chats)
    assert first["model"] == other["model"]
    assert first["prompts"] != other["prompts"]


@torch.no_grad()
def test_mixed_precision_is_kept_apart(tmp_path):
    kept = ReadOnce(tiny_reader("independent"), tmp_path)
    kept.read(batch())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        kept.read(batch())
    assert kept.num_found == 0
    assert len(list(tmp_path.iterdir())) == 2


@torch.no_grad()
def test_the_bound_is_of_all_readers_together(tmp_path):
    """Each choice of heads has a folder of its own."""
    plain = tiny_reader("independent")

    def read(text, max_bytes=8 << 30):
        reader = DecoderOnlyReader(plain.model, plain.prompts, AttentionHeads.parse(text))
        kept = ReadOnce(reader, tmp_path, max_bytes)
        kept.read_signals(batch())
        return kept.num_read, sum(path.stat().st_size for path in tmp_path.rglob("*.arrows"))

    _, of_one = read("0.0")
    bound = 5 * of_one // 2
    for text in ("0.1", "0.2", "0.3", "1.0"):
        assert read(text, bound)[1] <= bound
    assert [read(text)[0] for text in ("1.0", "0.0")] == [0, 9], "the oldest have gone"


@pytest.mark.parametrize("is_trained", [False, True])
def test_why_nothing_can_be_kept(is_trained, tmp_path):
    together = tiny_reader("concatenated")
    reason = why_not_kept(together, is_trained)
    assert reason is not None
    assert ("is trained" if is_trained else "depends on the others") in reason
    if not is_trained:
        with pytest.raises(ValueError, match="depends on the others"):
            ReadOnce(together, tmp_path)
        assert why_not_kept(tiny_reader("independent"), is_trained) is None


def losses_of_a_run(folder, cache, objective, **settings):
    kept = ReadOnce(tiny_reader("independent"), cache)
    module = toy_module(
        folder, reader=kept.reader, objective=objective, num_passages=3, read_once=kept, **settings
    )
    module.bm25, module.candidates = BM25Index.build(module.knowledge_base), Candidates("bm25")
    module.index = build_index(module.retriever, module.knowledge_base)
    losses = []
    module.log = lambda name, value, **_: losses.append(float(value)) if name == "train/loss" else None
    torch.manual_seed(0)
    toy_trainer(folder, [], max_steps=6).fit(module, toy_datamodule())
    return losses, kept


def test_a_second_run_reads_nothing_and_gives_the_same_numbers(tmp_path):
    first, kept = losses_of_a_run(tmp_path / "a", tmp_path / "cache", "signals")
    assert kept.num_read > 0
    second, kept = losses_of_a_run(tmp_path / "b", tmp_path / "cache", "signals")
    assert kept.num_read == 0
    assert second == first
    other, kept = losses_of_a_run(tmp_path / "c", tmp_path / "cache", "adist")
    assert kept.num_read == 0, "what another objective needs is kept too"
    assert other != first


def test_what_cannot_be_kept_is_refused_by_the_module(tmp_path):
    kept = ReadOnce(tiny_reader("independent"), tmp_path)
    with pytest.raises(ValueError, match="read_once: the reader is trained"):
        toy_module(tmp_path, train_reader=True, read_once=kept)
    with pytest.raises(ValueError, match="read_once: the reader sees all passages of a question together"):
        toy_module(tmp_path, read_once=kept)


@pytest.mark.parametrize("name", ["adist", "pdist", "signals"])
@torch.no_grad()
def test_objectives_read_off_what_is_kept(name, tmp_path):
    reader, objective = tiny_reader("independent"), make_objective(name)
    log_p_retr = torch.zeros(3, 3)
    kept = objective.passage_scores(objective.read(ReadOnce(reader, tmp_path), batch()), log_p_retr)
    fresh = objective.passage_scores(objective.read(reader, batch()), log_p_retr)
    torch.testing.assert_close(kept, fresh, rtol=1e-4, atol=1e-6)


def test_questions_are_told_by_their_text(tmp_path):
    kept = ReadOnce(tiny_reader("independent"), tmp_path)
    questions = [Question("same", "who", ("x",)), Question("same", "what", ("x",))]
    passage = toy_passages()[0]
    with torch.no_grad():
        kept.read(Batch(questions, [[passage], [passage]], ["x", "x"]))
    assert kept.num_read == 2


@torch.no_grad()
def test_a_reader_that_has_moved_has_another_store(tmp_path, monkeypatch):
    """What a device computes is not kept as if another one had."""
    kept = ReadOnce(tiny_reader("independent"), tmp_path)
    kept.read_signals(batch())
    before = kept._store(_NAMES).folder
    monkeypatch.setattr(type(kept.reader), "device", property(lambda _: torch.device("cuda")))
    moved = kept._store(_NAMES)
    assert moved.folder != before
    assert moved.folder == ReadOnce(kept.reader, tmp_path)._store(_NAMES).folder
