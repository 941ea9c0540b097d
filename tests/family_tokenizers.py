"""Tokenizers set up as those of reader families are, small ones, with their chat templates in short."""

import json
from collections.abc import Callable
from functools import cache
from string import ascii_letters

from tokenizers import (
    AddedToken,
    Regex,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)
from transformers import PreTrainedTokenizerFast

from tests.tiny_models import toy_passages, toy_questions

_CHATML = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>' + '\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}"
)
_DEFAULT_SYSTEM = (
    "{% if messages[0]['role'] != 'system' %}"
    "{{ '<|im_start|>system\nYou are a helpful AI assistant named SmolLM<|im_end|>\n' }}{% endif %}"
)
_LLAMA3 = (
    "{{ bos_token }}{% if not date_string is defined %}{% set date_string = strftime_now('%d %b %Y') %}"
    "{% endif %}"
    "{{ '<|start_header_id|>system<|end_header_id|>\n\nToday Date: ' + date_string + '\n\n' }}"
    "{% if messages[0]['role'] == 'system' %}{{ messages[0]['content'] | trim }}"
    "{% set messages = messages[1:] %}{% endif %}{{ '<|eot_id|>' }}{% for m in messages %}"
    "{{ '<|start_header_id|>' + m['role'] + '<|end_header_id|>\n\n' + m['content'] | trim + '<|eot_id|>' }}"
    "{% endfor %}{% if add_generation_prompt %}"
    "{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}"
)
_GEMMA = (
    "{{ bos_token }}{% if messages[0]['role'] == 'system' %}"
    "{{ raise_exception('System role not supported') }}{% endif %}"
    "{% for m in messages %}{% if (m['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') }}{% endif %}"
    "{% set role = 'model' if m['role'] == 'assistant' else m['role'] %}"
    "{{ '<start_of_turn>' + role + '\n' + m['content'] | trim + '<end_of_turn>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<start_of_turn>model\n' }}{% endif %}"
)
_LLAMA2 = (
    "{% for m in messages %}{% if m['role'] == 'user' %}"
    "{{ bos_token + '[INST] ' + m['content'] + ' [/INST]' }}"
    "{% elif m['role'] == 'assistant' %}{{ ' ' + m['content'] + ' ' + eos_token }}{% endif %}{% endfor %}"
)
_FALCON = (
    "{% for m in messages %}{% if not loop.first %}{{ '\n' }}{% endif %}"
    "{{ {'user': 'User: ', 'assistant': 'Falcon: ', 'system': 'System: '}[m['role']] + m['content'] }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '\nFalcon:' }}{% endif %}"
)
_BYTES = [f"<0x{byte:02X}>" for byte in range(256)]
_WORDS = Regex(
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+"
)


def _texts() -> list[str]:
    texts = [f"Question: {q.text}\nAnswer: {q.answers[0]}" for q in toy_questions()]
    texts += [f"Title: {p.title}\nPassage: {p.text}" for p in toy_passages()]
    return [
        *texts,
        "user\nassistant\nsystem\nmodel\nUser: Falcon: [INST] [/INST] 0123456789 (){}?!.,;-",
        ascii_letters,
    ]


def _byte_level(special: list[str], *before) -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(list(before))
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=700,
        special_tokens=special,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(_texts(), trainer)
    return tokenizer


def _begun_with(tokenizer: Tokenizer, token: str) -> Tokenizer:
    special = [(token, tokenizer.token_to_id(token))]
    tokenizer.post_processor = processors.TemplateProcessing(single=f"{token} $A", special_tokens=special)
    return tokenizer


def llama3() -> PreTrainedTokenizerFast:
    special = [
        "<|begin_of_text|>",
        "<|end_of_text|>",
        "<|start_header_id|>",
        "<|end_header_id|>",
        "<|eot_id|>",
    ]
    tokenizer = _byte_level(
        special,
        pre_tokenizers.Split(_WORDS, "isolated"),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
    )
    return _wrapped(_begun_with(tokenizer, special[0]), _LLAMA3, bos_token=special[0], eos_token="<|eot_id|>")


def qwen3() -> PreTrainedTokenizerFast:
    tokenizer = _byte_level(
        ["<|endoftext|>", "<|im_start|>", "<|im_end|>"],
        pre_tokenizers.Split(_WORDS, "isolated"),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
    )
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.add_tokens([AddedToken(word, special=False) for word in ("<think>", "</think>")])
    unthinking = (
        "{% if enable_thinking is defined and enable_thinking is false %}"
        "{{ '<think>\n\n</think>\n\n' }}{% endif %}"
    )
    return _wrapped(
        tokenizer,
        _CHATML + unthinking + "{% endif %}",
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
    )


def smollm2() -> PreTrainedTokenizerFast:
    tokenizer = _byte_level(
        ["<|endoftext|>", "<|im_start|>", "<|im_end|>"],
        pre_tokenizers.Digits(individual_digits=True),
        pre_tokenizers.ByteLevel(add_prefix_space=False),
    )
    return _wrapped(
        tokenizer, _DEFAULT_SYSTEM + _CHATML + "{% endif %}", bos_token="<|im_start|>", eos_token="<|im_end|>"
    )


def falcon() -> PreTrainedTokenizerFast:
    tokenizer = _byte_level(
        ["<|endoftext|>"],
        pre_tokenizers.Punctuation("contiguous"),
        pre_tokenizers.ByteLevel(add_prefix_space=False),
        pre_tokenizers.Digits(individual_digits=False),
        pre_tokenizers.Split(Regex("[0-9][0-9][0-9]"), "isolated"),
    )
    return _wrapped(tokenizer, _FALCON, eos_token="<|endoftext|>")


def _sentencepiece_decoder(strips: bool) -> decoders.Decoder:
    parts = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    return decoders.Sequence([*parts, *([decoders.Strip(" ", 1, 0)] if strips else [])])


def _trained_on_words(tokenizer: Tokenizer, special: list[str], has_lines: bool) -> Tokenizer:
    """No token goes beyond a word, as SentencePiece trains them, whatever splits texts afterwards."""
    splits, afterwards = [pre_tokenizers.Metaspace(prepend_scheme="never")], tokenizer.pre_tokenizer
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Split("\n", "isolated"), *splits])
    trainer = trainers.BpeTrainer(vocab_size=700, special_tokens=special, show_progress=False)
    tokenizer.train_from_iterator(
        [text if has_lines else text.replace("\n", " ") for text in _texts()], trainer
    )
    made = json.loads(tokenizer.to_str())
    made["pre_tokenizer"] = None if afterwards is None else json.loads(afterwards.__getstate__())
    # bytes are tokens as any other, not looked for in texts
    made["added_tokens"] = [token for token in made["added_tokens"] if token["content"] not in _BYTES]
    return Tokenizer.from_str(json.dumps(made))


def gemma() -> PreTrainedTokenizerFast:
    special = ["<pad>", "<eos>", "<bos>", "<start_of_turn>", "<end_of_turn>", *_BYTES]
    tokenizer = Tokenizer(models.BPE(byte_fallback=True, fuse_unk=True))
    tokenizer.normalizer = normalizers.Replace(" ", "▁")
    tokenizer.pre_tokenizer = pre_tokenizers.Split(" ", "merged_with_previous")
    tokenizer.decoder = _sentencepiece_decoder(strips=False)
    tokenizer = _begun_with(_trained_on_words(tokenizer, special, has_lines=True), "<bos>")
    return _wrapped(tokenizer, _GEMMA, bos_token="<bos>", eos_token="<eos>", pad_token="<pad>")


def llama2() -> PreTrainedTokenizerFast:
    """As its tokenizer.json was at first: a normalizer puts the space before every text."""
    special = ["<unk>", "<s>", "</s>", *_BYTES]
    tokenizer = Tokenizer(models.BPE(byte_fallback=True, fuse_unk=True, unk_token="<unk>"))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.decoder = _sentencepiece_decoder(strips=True)
    tokenizer = _begun_with(_trained_on_words(tokenizer, special, has_lines=False), "<s>")
    return _wrapped(tokenizer, _LLAMA2, bos_token="<s>", eos_token="</s>")


def metaspace() -> PreTrainedTokenizerFast:
    """Without bytes: a character that the vocabulary lacks is unknown."""
    special = ["<unk>", "<s>", "</s>"]
    tokenizer = Tokenizer(models.BPE(fuse_unk=True, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
    tokenizer.decoder = decoders.Metaspace(prepend_scheme="first")
    return _wrapped(
        _begun_with(_trained_on_words(tokenizer, special, has_lines=True), "<s>"),
        _LLAMA2,
        bos_token="<s>",
        eos_token="</s>",
    )


def unigram() -> PreTrainedTokenizerFast:
    """As T5's: words begin with a space, the text too, and each text is ended."""
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Replace(Regex(r"\s+"), " ")])
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always")
    tokenizer.decoder = decoders.Metaspace(prepend_scheme="always")
    trainer = trainers.UnigramTrainer(
        vocab_size=400, special_tokens=["<pad>", "</s>", "<unk>"], unk_token="<unk>", show_progress=False
    )
    tokenizer.train_from_iterator(_texts(), trainer)
    tokenizer.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    return _wrapped(tokenizer, None, pad_token="<pad>", eos_token="</s>", unk_token="<unk>")


def _wrapped(tokenizer: Tokenizer, chat_template: str | None, **names: str) -> PreTrainedTokenizerFast:
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, chat_template=chat_template, **names)


_FAMILIES: dict[str, Callable[[], PreTrainedTokenizerFast]] = {
    "llama3": llama3,
    "qwen3": qwen3,
    "smollm2": smollm2,
    "falcon": falcon,
    "gemma": gemma,
    "llama2": llama2,
    "metaspace": metaspace,
    "unigram": unigram,
}
FAMILIES = tuple(_FAMILIES)
WITH_CHAT = tuple(name for name in FAMILIES if name != "unigram")
WITH_BYTES = tuple(name for name in FAMILIES if name not in ("metaspace", "unigram"))
"""Whose vocabularies can spell every character."""


@cache
def family_tokenizer(name: str) -> PreTrainedTokenizerFast:
    """One for all tests: leave it as it is."""
    return _FAMILIES[name]()
