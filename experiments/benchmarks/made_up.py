"""Models with random weights in the shapes of real ones, and made-up text: enough to measure speed with."""

import random
from collections.abc import Sequence
from typing import Any

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    BertConfig,
    BertModel,
    FalconConfig,
    FalconForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    T5Config,
    T5ForConditionalGeneration,
)

from datamodules.batches import Batch, Passage, Question
from datamodules.fusion_prompts import FusionPromptBuilder
from datamodules.prompts import PromptBuilder
from lightning_modules.readers.decoder_only import DecoderOnlyReader
from lightning_modules.readers.fusion_in_decoder import FusionInDecoderReader
from lightning_modules.retriever import Retriever

_NUM_WORDS = 4000
_SPECIAL = ("[PAD]", "[UNK]", "[END]")
VOCABULARY = _NUM_WORDS + len(_SPECIAL)
"""Token ids that text can have; the models' own vocabularies are larger where the real ones' are."""


def made_up_words(seed: int = 0) -> list[str]:
    """Distinct words of letters, each one token."""
    generator = random.Random(seed)
    words: dict[str, None] = {}
    while len(words) < _NUM_WORDS:
        words["".join(generator.choices("etaoinshrdlu", k=generator.randint(3, 9)))] = None
    return list(words)


def made_up_tokenizer() -> PreTrainedTokenizerFast:
    """A token a word, so that lengths are what they are meant to be."""
    words = {word: number for number, word in enumerate([*_SPECIAL, *made_up_words()])}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="[PAD]", unk_token="[UNK]", eos_token="[END]"
    )


Words = int | tuple[int, int]
"""How many a text has: a number, or anything from one to the other."""


def made_up_passages(count: int, num_words: Words, seed: int = 1) -> list[Passage]:
    """Passages of random words.

    Args:
        count: how many.
        num_words: of each text.
        seed: of the words.
    """
    words, generator = made_up_words(), random.Random(seed)
    passages = []
    for number in range(count):
        text = _some(words, num_words, generator)
        passages.append(Passage(str(number), " ".join(text[:2]), " ".join(text)))
    return passages


def made_up_batch(
    num_questions: int,
    num_passages: int = 5,
    passage_words: Words = 150,
    answer_words: Words = 8,
    question_words: Words = 10,
) -> Batch:
    """Questions with passages that fill a prompt of 128 tokens, and answers; of as many words as is said."""
    passages = made_up_passages(num_questions * num_passages, passage_words)
    words, generator = made_up_words(), random.Random(2)
    questions, answers = [], []
    for number in range(num_questions):
        text = _some(words, question_words, generator)
        answers.append(" ".join(_some(words, answer_words, generator)))
        nouns = ((0, len(text[0])),)
        questions.append(Question(str(number), " ".join(text), (answers[-1],), nouns=nouns))
    shown = [passages[start : start + num_passages] for start in range(0, len(passages), num_passages)]
    return Batch(questions, shown, answers)


def _some(words: Sequence[str], count: Words, generator: random.Random) -> list[str]:
    low, high = (count, count) if isinstance(count, int) else count
    return generator.choices(words, k=generator.randint(low, high))


# ---- models ----


def falcon_rw(
    device: torch.device,
    dtype: torch.dtype,
    num_layers: int = 24,
    dim: int = 2048,
    num_heads: int = 32,
    vocabulary: int = 50304,
) -> PreTrainedModel:
    """falcon-rw-1b: ALiBi, a key of its own for each head, biases."""
    config = FalconConfig(
        vocab_size=vocabulary,
        hidden_size=dim,
        num_hidden_layers=num_layers,
        num_attention_heads=num_heads,
        alibi=True,
        multi_query=False,
        parallel_attn=False,
        bias=True,
        bos_token_id=2,
        eos_token_id=2,
        pad_token_id=0,
    )
    return _random_model(FalconForCausalLM, config, device, dtype)


def smollm2(
    device: torch.device,
    dtype: torch.dtype,
    num_layers: int = 30,
    dim: int = 576,
    num_heads: int = 9,
    num_kv_heads: int = 3,
    feed_forward: int = 1536,
    vocabulary: int = 49152,
) -> PreTrainedModel:
    """SmolLM2-135M: the family of Llama, grouped-query attention."""
    config = LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=dim,
        intermediate_size=feed_forward,
        num_hidden_layers=num_layers,
        num_attention_heads=num_heads,
        num_key_value_heads=num_kv_heads,
        max_position_embeddings=8192,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=2,
        pad_token_id=0,
    )
    return _random_model(LlamaForCausalLM, config, device, dtype)


def t5_small(
    device: torch.device,
    dtype: torch.dtype,
    num_layers: int = 6,
    dim: int = 512,
    num_heads: int = 8,
    feed_forward: int = 2048,
    vocabulary: int = 32128,
) -> PreTrainedModel:
    """T5-small."""
    settings: dict[str, Any] = {
        "vocab_size": vocabulary,
        "d_model": dim,
        "d_kv": dim // num_heads,
        "d_ff": feed_forward,
        "num_layers": num_layers,
        "num_heads": num_heads,
        "decoder_start_token_id": 0,
        "eos_token_id": 2,
        "pad_token_id": 0,
    }
    return _random_model(T5ForConditionalGeneration, T5Config(**settings), device, dtype)


def bert(
    device: torch.device,
    dtype: torch.dtype = torch.float32,
    num_layers: int = 12,
    dim: int = 768,
    num_heads: int = 12,
    feed_forward: int = 3072,
    vocabulary: int = 30522,
) -> PreTrainedModel:
    """BERT-base, which Contriever is."""
    config = BertConfig(
        vocab_size=vocabulary,
        hidden_size=dim,
        num_hidden_layers=num_layers,
        num_attention_heads=num_heads,
        intermediate_size=feed_forward,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
        pad_token_id=0,
    )
    with torch.device(device):
        torch.manual_seed(0)
        model: Any = BertModel(config, add_pooling_layer=False)
    return model.to(dtype).eval()


def decoder_only(model: PreTrainedModel, context: str = "independent") -> DecoderOnlyReader:
    """A reader whose prompts have 128 tokens a passage."""
    return DecoderOnlyReader(model, PromptBuilder(made_up_tokenizer(), context)).eval()


def fusion_in_decoder(model: PreTrainedModel) -> FusionInDecoderReader:
    """Likewise."""
    return FusionInDecoderReader(model, FusionPromptBuilder(made_up_tokenizer())).eval()


def retriever(model: PreTrainedModel) -> Retriever:
    """Unit-length embeddings of the mean of its hidden states."""
    return Retriever(model, made_up_tokenizer(), normalize=True).eval()


def texts_of(questions: Sequence[Question]) -> list[str]:
    """What they ask."""
    return [question.text for question in questions]


def _random_model(
    model_class: Any, config: PreTrainedConfig, device: torch.device, dtype: torch.dtype
) -> PreTrainedModel:
    """On the scaled_dot_product_attention that readers are watched on."""
    with torch.device(device):
        torch.manual_seed(0)
        model = model_class._from_config(config, attn_implementation="sdpa", dtype=dtype)
    return model.eval()
