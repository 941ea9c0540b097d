"""Small random models, a tokenizer trained on a toy corpus, and the corpus: units test on these."""

from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    BertModel,
    FalconConfig,
    FalconForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    T5Config,
    T5ForConditionalGeneration,
)

from datamodules.batches import Passage, Question
from datamodules.fusion_prompts import FusionPromptBuilder
from datamodules.passages import KnowledgeBase, build_knowledge_base
from datamodules.prompts import PromptBuilder
from lightning_modules.readers.base import Reader
from lightning_modules.readers.decoder_only import DecoderOnlyReader
from lightning_modules.readers.fusion_in_decoder import FusionInDecoderReader
from lightning_modules.retriever import Retriever

_CAPITALS = {
    "France": "Paris",
    "Japan": "Tokyo",
    "Peru": "Lima",
    "Kenya": "Nairobi",
    "Norway": "Oslo",
    "Egypt": "Cairo",
    "Chile": "Santiago",
    "Cuba": "Havana",
    "Ghana": "Accra",
    "Spain": "Madrid",
    "Italy": "Rome",
    "Greece": "Athens",
}


def toy_passages() -> list[Passage]:
    """24 passages: a country's capital, and a country's rivers without any capital."""
    capitals = [
        Passage(f"c{i}", country, f"{country} is a country whose capital and seat of government is {city}.")
        for i, (country, city) in enumerate(_CAPITALS.items())
    ]
    rivers = [
        Passage(f"r{i}", f"Rivers of {country}", f"Rivers of {country} run down from its hills to the sea.")
        for i, country in enumerate(_CAPITALS)
    ]
    return [*capitals, *rivers]


def toy_questions() -> list[Question]:
    """12 questions, each answered by one toy passage."""
    return [
        Question(f"q{i}", f"what is the capital of {country}", (city,), title=country, nouns=((12, 19),))
        for i, (country, city) in enumerate(_CAPITALS.items())
    ]


def toy_knowledge_base(folder: Path) -> KnowledgeBase:
    return build_knowledge_base(toy_passages(), folder / "toy.arrow")


def tiny_tokenizer() -> PreTrainedTokenizerFast:
    """Byte-level BPE, as decoder-only readers have, trained on the toy corpus."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=["<pad>", "</s>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    texts = [f"Question: {q.text}\nAnswer: {q.answers[0]}" for q in toy_questions()]
    texts += [f"Title: {p.title}\nPassage: {p.text}" for p in toy_passages()]
    tokenizer.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>", eos_token="</s>")


def tiny_llama(vocabulary: int, seed: int = 0) -> PreTrainedModel:
    """Two layers, grouped-query attention."""
    config = LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=2048,
        bos_token_id=None,
        eos_token_id=1,
        pad_token_id=0,
    )
    return _random(LlamaForCausalLM, config, seed)


def tiny_falcon_rw(vocabulary: int, seed: int = 0, attention_dropout: float = 0.0) -> PreTrainedModel:
    """The shape of falcon-rw-1b: ALiBi, all heads with keys of their own, biases."""
    config = FalconConfig(
        vocab_size=vocabulary,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        alibi=True,
        multi_query=False,
        bias=True,
        parallel_attn=False,
        attention_dropout=attention_dropout,
        bos_token_id=1,
        eos_token_id=1,
        pad_token_id=0,
    )
    return _random(FalconForCausalLM, config, seed)


def tiny_t5(vocabulary: int, seed: int = 0, v1_1: bool = True, dropout: float = 0.0) -> PreTrainedModel:
    """The shape of T5 v1.1 (gated, an output matrix of its own) or of the first T5; more layers to decode."""
    config = T5Config(
        vocab_size=vocabulary,
        d_model=32,
        d_kv=8,
        d_ff=48,
        num_layers=2,
        num_decoder_layers=3,
        num_heads=4,
        feed_forward_proj="gated-gelu" if v1_1 else "relu",
        tie_word_embeddings=not v1_1,
        dropout_rate=dropout,
        decoder_start_token_id=0,
        eos_token_id=1,
        pad_token_id=0,
    )
    model = _random(T5ForConditionalGeneration, config, seed)
    if v1_1:  # transformers ties it, and unties it where a checkpoint holds another one
        model.lm_head.weight = torch.nn.Parameter(torch.randn(vocabulary, 32) * 0.2)
    return model


def tiny_bert(vocabulary: int, seed: int = 0) -> PreTrainedModel:
    config = BertConfig(
        vocab_size=vocabulary,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=3,
        num_attention_heads=4,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
    )
    torch.manual_seed(seed)
    return BertModel(config, add_pooling_layer=False).eval()


def tiny_cross_encoder(num_labels: int = 1, seed: int = 3) -> PreTrainedModel:
    config = BertConfig(
        vocab_size=len(tiny_tokenizer()),
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_labels=num_labels,
        pad_token_id=0,
    )
    return _random(BertForSequenceClassification, config, seed)


def tiny_reader(context: str = "concatenated", family: str = "llama", **prompt_settings) -> DecoderOnlyReader:
    tokenizer = tiny_tokenizer()
    make = {"llama": tiny_llama, "falcon_rw": tiny_falcon_rw}[family]
    prompts = PromptBuilder(tokenizer, context=context, **prompt_settings)
    return DecoderOnlyReader(make(len(tokenizer)), prompts).eval()


def tiny_fusion_reader(v1_1: bool = True, dropout: float = 0.0, **prompt_settings) -> FusionInDecoderReader:
    tokenizer = tiny_tokenizer()
    prompts = FusionPromptBuilder(tokenizer, **prompt_settings)
    return FusionInDecoderReader(tiny_t5(len(tokenizer), v1_1=v1_1, dropout=dropout), prompts).eval()


def tiny_reader_of(kind: str) -> Reader:
    """`concatenated` or `independent` (decoder-only), or `fusion_in_decoder`."""
    return tiny_fusion_reader() if kind == "fusion_in_decoder" else tiny_reader(kind)


def tiny_retriever(**settings) -> Retriever:
    tokenizer = tiny_tokenizer()
    return Retriever(tiny_bert(len(tokenizer)), tokenizer, **settings).eval()


def save_tiny_models(folder: Path, family: str = "llama") -> tuple[Path, Path]:
    """Folders of a reader and a retriever, as `experiments` loads them."""
    reader = tiny_fusion_reader() if family == "t5" else tiny_reader(family=family)
    reader.save(folder / "reader")
    tiny_retriever().save(folder / "retriever")
    return folder / "reader", folder / "retriever"


def _random(model_class: type, config, seed: int) -> PreTrainedModel:
    torch.manual_seed(seed)
    model = model_class._from_config(config, attn_implementation="sdpa").eval()
    for parameter in model.parameters():  # the initial weights are so small that attention is uniform
        if parameter.dim() > 1:
            parameter.data.normal_(std=0.2)
    return model
