"""Units of a pass against a loop over single prompts, with NumPy and SciPy."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy import stats
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from datamodules.batches import Batch, Passage, Question, TokenScope
from datamodules.fusion_prompts import FusionPromptBuilder
from datamodules.prompts import PromptBuilder
from lightning_modules.metrics.indicators import AttentionNormalization, Indicator
from lightning_modules.metrics.units import passage_units
from lightning_modules.readers.base import TokenEmbeddings
from lightning_modules.readers.decoder_only import DecoderOnlyReader
from lightning_modules.readers.fusion_in_decoder import FusionInDecoderReader
from tests.tiny_models import (
    tiny_llama,
    tiny_reader,
    tiny_t5,
    tiny_tokenizer,
    toy_passages,
    toy_questions,
)

K = 3
QUESTIONS = toy_questions()[:3]
PASSAGES = [[toy_passages()[i] for i in rows] for rows in ((0, 13, 5), (1, 2, 15), (20, 2, 7))]
BATCH = Batch(QUESTIONS, PASSAGES, ["Paris", "Tokyo or Kyoto", "Lima"])


def cosine(a, b):
    return float(a @ b / (np.linalg.norm(a) * np.linalg.norm(b)))


def loop(output, reader, embeddings, normalization):
    """[(question, attention, answer similarity, noun similarity)] of each unit's own tokens."""
    prompts, units, tokenizer = output.prompts, [], tiny_tokenizer()
    for row in range(len(prompts.input_ids)):
        scores = output.token_scores[row].double().numpy()
        vectors = (
            reader.embedding_matrix[prompts.input_ids[row]]
            if embeddings is TokenEmbeddings.INPUT
            else output.hidden[row]
        )
        vectors = vectors.double().numpy()
        for k in range(K):
            tokens = [
                t
                for t in range(len(scores))
                if prompts.block_of_token[row, t] == k and prompts.content_mask[row, t]
            ]
            if not tokens:
                continue
            divisor = {"passage": scores[tokens].sum(), "prompt": scores.sum(), "none": 1.0}[normalization]
            similarities = []
            for mask in (prompts.answer_mask[row], prompts.noun_mask[row]):
                # a space that is a token of its own is part of no answer or noun
                targets = [
                    t
                    for t in range(len(scores))
                    if mask[t] and tokenizer.decode([prompts.input_ids[row, t]]).strip()
                ]
                similarities.append(
                    [max((cosine(vectors[t], vectors[u]) for u in targets), default=np.nan) for t in tokens]
                )
            units.append((int(prompts.question_of_prompt[row]), scores[tokens] / divisor, *similarities))
    return units


@pytest.fixture(params=["concatenated", "independent"])
def reader(request):
    return tiny_reader(request.param)


@pytest.fixture(params=list(TokenEmbeddings))
def embeddings(request):
    return request.param


@torch.no_grad()
def read(reader, batch=BATCH):
    return reader.read(batch)


@pytest.mark.parametrize("normalization", list(AttentionNormalization))
def test_units_equal_a_loop(reader, embeddings, normalization):
    output = read(reader)
    units = passage_units(output, reader, embeddings, normalization)
    expected = loop(output, reader, embeddings, normalization.value)
    assert units.question_of_unit.tolist() == [question for question, *_ in expected]
    assert sorted(units.question_of_unit.tolist()) == [b for b in range(3) for _ in range(K)]
    for unit, (_, attention, answers, nouns) in enumerate(expected):
        mask = units.mask[unit]
        for found, wanted in (
            (units.attention, attention),
            (units.answer_similarity, answers),
            (units.noun_similarity, nouns),
        ):
            np.testing.assert_allclose(found[unit][mask].numpy(), wanted, rtol=1e-4, atol=1e-5)
        assert (units.attention[unit][~mask] == 0).all()
    assert units.answer_similarity.std() > 0.01


def test_indicators_of_a_pass_equal_scipy(reader, embeddings):
    output = read(reader)
    units = passage_units(output, reader, embeddings)
    for target, similarity in (("answer", units.answer_similarity), ("noun", units.noun_similarity)):
        of_question = {b: ([], []) for b in range(3)}
        for question, attention, answers, nouns in loop(output, reader, embeddings, "passage"):
            values = np.array(answers if target == "answer" else nouns)
            # equal tokens are equal, whatever rounding says
            top = values >= np.percentile(values, 50) - 1e-12
            of_question[question][0].append(attention[top].mean())
            of_question[question][1].append(
                stats.spearmanr(attention[top].astype(np.float32), values[top].round(6)).statistic
            )
        indicator = Indicator("i", percentiles=[50])
        indicator.update(units.attention, similarity, units.mask, units.question_of_unit, 3)
        computed = indicator.compute()
        means = [np.mean(of_question[b][0]) for b in range(3)]
        correlations = [np.nanmean(of_question[b][1]) for b in range(3)]
        assert computed["i/attention_p50"].item() == pytest.approx(np.mean(means), rel=1e-4)
        assert computed["i/attention_p50_std"].item() == pytest.approx(np.std(means, ddof=1), rel=1e-3)
        assert computed["i/spearman_p50"].item() == pytest.approx(np.mean(correlations), abs=1e-4)


@pytest.mark.parametrize("without", [(1,), (0, 1, 2)])
def test_a_question_without_nouns_has_no_second_indicator(reader, embeddings, without):
    questions = [replace(q, nouns=()) if b in without else q for b, q in enumerate(QUESTIONS)]
    units = passage_units(read(reader, replace(BATCH, questions=questions)), reader, embeddings)
    plain = passage_units(read(reader), reader, embeddings)
    for unit, question in enumerate(units.question_of_unit.tolist()):
        mask = units.mask[unit]
        undefined = units.noun_similarity[unit][mask].isnan()
        assert bool(undefined.all() if question in without else not undefined.any())
    torch.testing.assert_close(units.answer_similarity, plain.answer_similarity)
    indicator = Indicator("i", percentiles=[50])
    indicator.update(units.attention, units.noun_similarity, units.mask, units.question_of_unit, 3)
    assert indicator.compute()["i/undefined_p50"] >= len(without) * K
    assert bool(indicator.compute()["i/attention_p50"].isnan()) is (len(without) == 3)


def test_attention_adds_up_to_one_over_passages_or_to_their_share_of_the_prompt():
    reader = tiny_reader("concatenated")
    output = read(reader)
    units = passage_units(output, reader)
    torch.testing.assert_close(units.attention.sum(dim=1), torch.ones(3 * K))
    of_prompt = passage_units(output, reader, normalization=AttentionNormalization.PROMPT)
    shares = of_prompt.attention.sum(dim=1).view(3, K).sum(dim=1)
    assert ((shares > 0.1) & (shares < 1)).all()


def test_template_words_are_no_part_of_a_unit_even_where_they_are_scored():
    reader = tiny_reader("independent")
    output = read(reader)
    units = passage_units(output, reader)
    scored = output.prompts.passage_of_token(TokenScope.PROMPT)[units.prompt_of_unit] >= 0
    template = scored & ~units.mask
    assert (units.mask <= scored).all()
    assert (output.token_scores[units.prompt_of_unit][template] > 0).float().mean() > 0.5
    assert not units.attention[template].any()


def test_units_know_where_they_stand(reader):
    output = read(reader)
    units = passage_units(output, reader, normalization=AttentionNormalization.NONE)
    prompts, tokenizer = output.prompts, reader.tokenizer
    for row, prompt in enumerate(units.prompt_of_unit.tolist()):
        passage = PASSAGES[int(units.question_of_unit[row])][int(units.rank_of_unit[row])]
        assert tokenizer.decode(prompts.input_ids[prompt][units.mask[row]]) == (
            f" {passage.title} {passage.text}"
        )
        assert float(units.prompt_total[row]) == pytest.approx(float(output.token_scores[prompt].sum()))


# ----------------------------------------------------------------------- spaces that are tokens of their own
YEAR = Question("y", "which ship sank in April 1912", ("1912",), nouns=((6, 10), (19, 29)))
SHIPS = [
    Passage("s0", "Titanic", "The ship sank in April 1912 with 1500 on board."),
    Passage("s1", "Wave", "The sea is deep in 7 places."),
]


def byte_level_tokenizer() -> PreTrainedTokenizerFast:
    """Splits digits, as SmolLM2's does: " 1912" is " ", "1", "9", "1", "2"."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=320, special_tokens=["<pad>", "</s>"], initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator([text for p in SHIPS for text in (p.title, f" {p.text}")] * 9, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>", eos_token="</s>")


def sentencepiece_tokenizer() -> PreTrainedTokenizerFast:
    """A space before a word is "\u2581", a token of its own where no piece begins with it."""
    letters = "\u2581abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.:?"
    pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", -20.0), *((letter, -8.0) for letter in letters)]
    pieces += [(f"\u2581{word}", -3.0) for word in ("ship", "sank", "in", "April", "The")]
    tokenizer = Tokenizer(models.Unigram(pieces, unk_id=2))
    tokenizer.pre_tokenizer, tokenizer.decoder = pre_tokenizers.Metaspace(), decoders.Metaspace()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", eos_token="</s>", unk_token="<unk>"
    )


TOKENIZERS = {"byte_level": byte_level_tokenizer, "sentencepiece": sentencepiece_tokenizer}


def reader_of(kind, tokenizer):
    if kind == "fusion":
        return FusionInDecoderReader(tiny_t5(len(tokenizer)), FusionPromptBuilder(tokenizer)).eval()
    return DecoderOnlyReader(tiny_llama(len(tokenizer)), PromptBuilder(tokenizer, context=kind)).eval()


@pytest.mark.parametrize("tokenizer", TOKENIZERS)
@pytest.mark.parametrize("kind", ["concatenated", "independent", "fusion"])
@torch.no_grad()
def test_a_bare_space_is_not_like_the_answer_or_a_noun(kind, tokenizer):
    tokenizer = TOKENIZERS[tokenizer]()
    reader = reader_of(kind, tokenizer)
    output = reader.read(Batch([YEAR], [SHIPS], ["1912"]))
    units = passage_units(output, reader)
    ids = output.prompts.input_ids[units.prompt_of_unit][units.mask]
    texts = [tokenizer.decode([token]) for token in ids]
    is_space = torch.tensor([not text.strip() for text in texts])
    assert is_space.sum() >= 4, "the passages have spaces that are tokens of their own"
    for similarity, like in ((units.answer_similarity, "912"), (units.noun_similarity, "1")):
        of_token = similarity[units.mask]
        assert not of_token.isnan().any()
        assert (of_token[is_space] < 0.99).all()
        digits = of_token[torch.tensor([text in like and text != "" for text in texts])]
        torch.testing.assert_close(digits, torch.ones_like(digits))
        assert len(digits) >= 3


@pytest.mark.parametrize("tokenizer", TOKENIZERS)
def test_spaces_remain_in_what_is_read_and_learnt(tokenizer):
    tokenizer = TOKENIZERS[tokenizer]()
    prompts = PromptBuilder(tokenizer).build(Batch([YEAR], [SHIPS], ["1912"]))
    assert prompts.answer_mask.sum() == prompts.answer_rows_mask.sum() == 5
    assert prompts.target_mask.sum() == 4
    assert not (prompts.target_mask & ~prompts.answer_mask).any()
    labels = FusionPromptBuilder(tokenizer).build_answers(["1912", "7"])
    assert tokenizer.decode(labels.ids[0][labels.target_mask[0]]) == "1912"
    assert labels.target_mask.sum(dim=1).tolist() == [4, 1]
    assert (labels.label_mask.sum(dim=1) == labels.answer_mask.sum(dim=1) + 1).all()


def test_an_answer_of_spaces_alone_keeps_them():
    batch = PromptBuilder(byte_level_tokenizer()).build(Batch([YEAR, YEAR], [SHIPS, SHIPS], [" ", "7"]))
    assert torch.equal(batch.target_mask[0], batch.answer_mask[0])
    assert batch.target_mask.sum(dim=1).tolist() == [1, 1]
    assert batch.answer_mask.sum(dim=1).tolist() == [1, 2]
