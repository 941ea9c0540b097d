"""Token texts that add up to the text, for byte-level and SentencePiece tokens, and what is marked in it."""

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from callbacks.attended_tokens import view_question, word_spans
from datamodules.answer_matching import AnswerMatch
from datamodules.batches import Batch
from datamodules.token_pieces import token_pieces
from lightning_modules.evaluation import ReadQuestions, find_hits
from lightning_modules.metrics.units import passage_units
from tests.tiny_models import tiny_reader_of, tiny_tokenizer, toy_passages, toy_questions

TEXT = " Paris, the naïve café 日本 — “quoted”."


def sentencepiece_tokenizer() -> PreTrainedTokenizerFast:
    """Words begin with ▁, as T5's do; the rest are characters."""
    characters = sorted({*TEXT, "▁"} - {" "})
    vocabulary = [("<unk>", 0.0), ("</s>", 0.0), ("▁the", -1.0), ("▁Pa", -1.0), ("▁", -2.0)]
    vocabulary += [(character, -5.0) for character in characters if character != "▁"]
    tokenizer = Tokenizer(models.Unigram(vocabulary, unk_id=0))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="</s>", unk_token="<unk>")


@pytest.mark.parametrize("tokenizer", [tiny_tokenizer(), sentencepiece_tokenizer()], ids=["bytes", "pieces"])
def test_texts_add_up(tokenizer):
    ids = tokenizer(TEXT, add_special_tokens=False)["input_ids"]
    texts = token_pieces(tokenizer, ids)
    assert "".join(texts).strip() == TEXT.strip()
    assert len(texts) == len(ids)
    assert not any("\ufffd" in text for text in texts)
    assert " the" in texts or " t" in texts


def test_bytes_of_a_character_stay_together():
    tokenizer = tiny_tokenizer()
    texts = token_pieces(tokenizer, tokenizer("a日b")["input_ids"])
    assert texts == ["a", "", "", "日", "b"]


def test_words_are_whole_and_in_any_case():
    text = "Paris, comparison; PARIS in New\n York. C++ or c"
    assert [text[a:b] for a, b in word_spans(text, ["paris"])] == ["Paris", "PARIS"]
    assert [text[a:b] for a, b in word_spans(text, ["new york"])] == ["New\n York"]
    assert [text[a:b] for a, b in word_spans(text, ["C++"])] == ["C++"]
    assert word_spans(text, ["par", " ", ""]) == []


@pytest.mark.parametrize("kind", ["concatenated", "independent", "fusion_in_decoder"])
def test_a_view_of_each_reader(kind):
    reader, tokenizer = tiny_reader_of(kind), tiny_tokenizer()
    questions, all_passages = toy_questions()[:2], toy_passages()
    passages = [[all_passages[0], all_passages[12]], [all_passages[13], all_passages[1]]]
    answers = [question.answers[0] for question in questions]
    batch = Batch(questions, passages, answers)
    output = reader.read(batch)
    p = output.token_scores.new_tensor([[0.25, 0.75], [0.5, 0.5]])
    is_hit = find_hits(questions, passages, AnswerMatch.TOKENS)
    read = ReadQuestions(is_hit, p.log(), passage_units(output, reader), batch, output, p.log(), p.sum())
    for row in range(2):
        view = view_question(read, row, "xy"[row], tokenizer)
        assert view.question is questions[row]
        assert view.prediction == "xy"[row]
        assert view.scores_are == "attention"
        for k, passage in enumerate(view.passages):
            assert "".join(p.text for p in passage.title).strip() == passages[row][k].title
            assert "".join(p.text for p in passage.text).strip() == passages[row][k].text
            assert passage.holds_answer == bool(is_hit[row, k])
            assert passage.p_attn == pytest.approx([[0.25, 0.75], [0.5, 0.5]][row][k])
            pieces = passage.title + passage.text
            assert sum(p.attention for p in pieces) == pytest.approx(len(pieces), rel=1e-4)
            marked = "".join(p.text for p in pieces if p.in_answer).strip()
            assert marked == (answers[row] if passage.holds_answer else "")
            assert any(p.in_noun for p in passage.text) == passage.holds_answer, "capital is in those only"
    # scores are of the right tokens
    prompts = output.prompts
    first = (prompts.question_of_prompt == 1)[:, None] & (prompts.block_of_token == 1) & prompts.content_mask
    scores = output.token_scores[first]
    shown = [p.attention for p in view.passages[1].title + view.passages[1].text]
    assert shown == pytest.approx((scores / scores.mean()).tolist(), rel=1e-4)
