"""Question + retrieved passages (+ answer) -> the prompts of a decoder-only reader."""

import inspect
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, assert_never

import numpy as np
import torch
from transformers import PreTrainedTokenizerBase

from datamodules.batches import (
    NOTHING,
    Batch,
    Passage,
    PromptBatch,
    Question,
    SolvedExample,
    rows_predicting,
)
from datamodules.blank_tokens import BlankTokens
from datamodules.choices import Choice
from datamodules.prompt_forms import PromptForms, prompt_forms
from datamodules.templates import (
    PLAIN,
    QUESTION,
    TEXT,
    TITLE,
    Field,
    Form,
    Piece,
    Template,
    Words,
    find_template,
)


class Context(Choice):
    """How a decoder-only reader sees the K passages."""

    CONCATENATED = "concatenated"
    INDEPENDENT = "independent"


class Shown(Choice):
    """Which of a question's K passages its prompts show."""

    ALL = "all"
    """All, together or one by one as the context says."""
    EACH_ALONE = "each_alone"
    """K prompts a question, each with one passage."""
    EACH_LEFT_OUT = "each_left_out"
    """K prompts a question, each with all passages but one."""


class PassageOrder(Choice):
    """In which order a concatenated prompt shows the passages."""

    RANK = "rank"
    SHUFFLED = "shuffled"


MAX_QUESTION_TOKENS = 48
MAX_TITLE_TOKENS = 24
_FEWEST_TEXT_TOKENS = 8
"""Of a passage, below which a prompt hardly shows it."""


@dataclass
class PromptText:
    """A prompt as text, and what each of its characters is."""

    text: str = ""
    passage_of_char: list[int] = field(default_factory=list)
    part_of_char: list[int] = field(default_factory=list)  # 0 = of no title or text
    question_of_char: list[bool] = field(default_factory=list)
    noun_of_char: list[bool] = field(default_factory=list)
    answer_of_char: list[bool] = field(default_factory=list)
    passage_of_end: int = NOTHING  # of the end-of-sequence token
    num_parts: int = 0

    def add(
        self,
        text: str,
        passage: int = NOTHING,
        content: bool = False,
        question: bool = False,
        nouns: Sequence[tuple[int, int]] = (),
        answer: bool = False,
    ) -> None:
        is_noun = [False] * len(text)
        for start, end in nouns:
            is_noun[start:end] = [True] * len(text[start:end])
        self.num_parts += content
        self.text += text
        self.passage_of_char += [passage] * len(text)
        self.part_of_char += [self.num_parts if content else 0] * len(text)
        self.question_of_char += [question] * len(text)
        self.noun_of_char += is_noun
        self.answer_of_char += [answer] * len(text)


class PromptBuilder:
    """Builds `PromptBatch`es, written as a template says; the `plain` one is::

        Question: {question}        <- `concatenated` only
        Title: {title}              <- these two lines once a passage
        Passage: {text}
        Question: {question}
        Answer: {answer}

    `concatenated` shows all K passages in one prompt, between two copies of the question, so that a causal
    reader knows what to look for while it reads. `independent` makes a prompt a passage and asks last only.
    Passage texts are cut so that a prompt (without its answer) has at most `max_tokens_per_passage` tokens
    for each passage in it; each passage of a prompt gets an equal share.

    Solved examples come before each prompt in the same template, each with its passage (without one where the
    prompts have none), its answer and the end of the line; in a chat they are earlier turns of it, behind
    what the system says. Their tokens are the `prefix_ids` of the prompts, and `max_tokens_per_passage` does
    not count them.

    Args:
        tokenizer: a fast tokenizer (its character offsets say which token is whose).
        context: one prompt a question or one a passage.
        passage_order: `shuffled` permutes the passages of a concatenated prompt, for each question and each
            `order_seed` in another way.
        max_tokens_per_passage: prompt tokens a passage (paper: 128).
        max_question_tokens, max_title_tokens, max_answer_tokens: longer ones are cut.
        padding_side: "left" (needed for generation) or "right".
        examples: solved ones to show first; their questions cannot be asked.
        template: how prompts are written, or its name, or a file (`datamodules.templates`).

    Raises:
        ValueError: the tokenizer gives no offsets or has no end-of-sequence token; a template that this
            context or this tokenizer cannot take.
    """

    ends_prompts = False  # whether prompts without an answer end with the end-of-sequence token
    is_fused = False  # whether one softmax runs over all prompts of a question

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        context: Context | str = Context.CONCATENATED,
        passage_order: PassageOrder | str = PassageOrder.RANK,
        max_tokens_per_passage: int = 128,
        max_question_tokens: int = MAX_QUESTION_TOKENS,
        max_title_tokens: int = MAX_TITLE_TOKENS,
        max_answer_tokens: int = 32,
        padding_side: str = "left",
        examples: Sequence[SolvedExample] = (),
        template: Template | str = PLAIN,
    ) -> None:
        if not tokenizer.is_fast:
            raise ValueError(
                f"the tokenizer {type(tokenizer).__name__} gives no character offsets, which tell the "
                "passages' tokens from the rest; use a model with a fast tokenizer (tokenizer.json)"
            )
        if tokenizer.eos_token_id is None:
            raise ValueError("the reader's tokenizer has no end-of-sequence token, which ends the answers")
        if padding_side not in ("left", "right"):
            raise ValueError(f"padding_side is {padding_side!r}; it is 'left' or 'right'")
        self.tokenizer = tokenizer
        self.context = Context(context)
        self.passage_order = PassageOrder(passage_order)
        self.max_tokens_per_passage = max_tokens_per_passage
        self.max_question_tokens = max_question_tokens
        self.max_title_tokens = max_title_tokens
        self.max_answer_tokens = max_answer_tokens
        self.padding_side = padding_side
        self.examples = tuple(examples)
        self.template = template if isinstance(template, Template) else find_template(template)
        self.forms = self._make_forms()
        self._closed_book_forms = self._make_closed_book_forms()
        self._blanks = BlankTokens(tokenizer)
        self._solved = {example.question.words for example in self.examples}
        self._prefix_ids = self._encode_examples(self.forms, self._write_example)
        self._closed_book_prefix_ids = self._encode_examples(
            self._closed_book_forms, self._write_closed_book_example
        )

    def _make_forms(self) -> PromptForms:
        if self.context not in self.contexts:
            raise ValueError(
                f"template={self.template.name}: the lines that hold the passage are repeated for each "
                "passage, and {question} or {answer} stands among them; put it on a line of its own, or set "
                "context=independent"
            )
        forms = prompt_forms(self._template_text, self.tokenizer, len(self.examples), name=self.template.name)
        if not forms.prompt.asks_last:
            raise ValueError(
                f"template={self.template.name}: {{question}} stands before the passages alone, and a "
                "decoder-only reader cannot attend to passages that it has not read yet; ask after them, if "
                "need be once more"
            )
        return forms

    def _make_closed_book_forms(self) -> PromptForms:
        return prompt_forms(
            self._template_text,
            self.tokenizer,
            len(self.examples),
            with_passages=False,
            name=self.template.name,
        )

    @property
    def _template_text(self) -> str:
        is_together = self.context is Context.CONCATENATED
        return self.template.together if is_together else self.template.alone

    @property
    def contexts(self) -> list[Context]:
        """Those that the template is for."""
        return list(Context) if self.template.shows_several else [Context.INDEPENDENT]

    @property
    def end_id(self) -> int:
        """The token that ends an answer."""
        return self.forms.end_id

    def check_room(self, num_passages: int) -> None:
        """Refuses a template that leaves passages no room beside itself and a long question and title.

        Args:
            num_passages: K.

        Raises:
            ValueError: says how much room it takes.
        """
        shown = num_passages if self.context is Context.CONCATENATED else 1
        question = Question("", "", ())
        own = self._count_tokens(self._write(self.forms.prompt, question, "", [(0, "", "")] * shown).text)
        pieces = (*self.forms.prompt.before, *self.forms.prompt.block, *self.forms.prompt.after)
        times_asked = sum(isinstance(piece, Field) and piece.name == QUESTION for piece in pieces)
        shared = own + times_asked * self.max_question_tokens
        needed = -(-shared // shown) + self.max_title_tokens + _FEWEST_TEXT_TOKENS
        if self.max_tokens_per_passage < needed:
            raise ValueError(
                f"max_tokens_per_passage={self.max_tokens_per_passage} leaves a passage no room beside the "
                f"{own} tokens of template={self.template.name}, a long question and a long title; it must "
                f"be at least {needed}"
            )

    def changed(self, **changes: Any) -> "PromptBuilder":
        """A builder with other settings, named as in its construction."""
        settings = {name: getattr(self, name) for name in inspect.signature(type(self)).parameters}
        return type(self)(**{**settings, **changes})

    def build(self, batch: Batch, shown: Shown = Shown.ALL) -> PromptBatch:
        """The prompts of a batch, on the CPU.

        Args:
            batch: the prompts end with its answers, each followed by the end-of-sequence token, or that of a
                chat's turn (a question without a known answer by that alone); without answers they end where
                the answer begins, for generation. `shuffled` permutes the passages by `order_seed` and the
                question's id, so that a question has the same order in whatever batch it comes.
            shown: which passages. A passage is left out of the text, as if it had not been retrieved; what
                the prompt says of the others stays the same to the letter. (Taking it out of the attention
                mask of a causal reader would come to the same at the full length.)

        Raises:
            ValueError: one of the questions is a solved example.
        """
        self._refuse_solved(batch.questions)
        assert all(len(found) == batch.num_passages for found in batch.passages), "each has K passages"
        form = self.forms.prompt
        prompts, question_of_prompt = [], []
        for b, (question, found) in enumerate(zip(batch.questions, batch.passages, strict=True)):
            answer = batch.answers[b] if batch.answers else None
            seed = (batch.order_seed, zlib.crc32(question.id.encode("utf-8", "surrogatepass")))
            for group, left_out in self._groups(batch.num_passages, seed, shown):
                ranked = [(k, found[k]) for k in group]
                prompts.append(self._compose(form, question, ranked, answer, left_out))
                question_of_prompt.append(b)
        return self._tokenise(
            prompts,
            question_of_prompt,
            len(batch),
            batch.num_passages,
            with_answer=bool(batch.answers),
            prefix_ids=self._prefix_ids,
        )

    def build_closed_book(self, questions: Sequence[Question]) -> PromptBatch:
        """One prompt a question, without passages and answer, on the CPU: what the reader knows by itself.

        Raises:
            ValueError: one of the questions is a solved example.
        """
        self._refuse_solved(questions)
        asked = self._cut([question.text for question in questions], self.max_question_tokens)
        form = self._closed_book_forms.prompt
        prompts = [
            self._write_closed_book(form, question, text)
            for question, text in zip(questions, asked, strict=True)
        ]
        return self._tokenise(
            prompts,
            list(range(len(questions))),
            len(questions),
            num_passages=0,
            with_answer=False,
            prefix_ids=self._closed_book_prefix_ids,
        )

    def _write_closed_book(self, form: Form, question: Question, asked: str) -> PromptText:
        return self._write(form, question, asked, [])

    def _refuse_solved(self, questions: Sequence[Question]) -> None:
        for question in questions:
            if question.words in self._solved:
                raise ValueError(
                    f"question {question.id} ({question.text!r}) is a solved example, which tells the "
                    "answer; leave it out, or choose other examples"
                )

    def _write_example(self, form: Form, example: SolvedExample) -> str:
        ranked = [(0, example.passage)]
        return self._compose(form, example.question, ranked, example.answer, left_out=None).text

    def _write_closed_book_example(self, form: Form, example: SolvedExample) -> str:
        [asked] = self._cut([example.question.text], self.max_question_tokens)
        [answer] = self._cut([example.answer], self.max_answer_tokens)
        return f"{self._write_closed_book(form, example.question, asked).text}{form.answer_space}{answer}"

    def _encode_examples(
        self, forms: PromptForms, write: Callable[[Form, SolvedExample], str]
    ) -> tuple[int, ...]:
        """The tokens of all examples, behind those that the tokenizer puts before every text."""
        if not self.examples:
            return ()
        text = "".join(
            write(form, example) + forms.example_end
            for form, example in zip(forms.examples, self.examples, strict=True)
        )
        encoded = self.tokenizer(text, add_special_tokens=not forms.is_chat, return_special_tokens_mask=True)
        ids, is_added = encoded["input_ids"], encoded["special_tokens_mask"]
        # a tokenizer that ends every text by itself
        is_ended = is_added[-1] and ids[-1] == self.tokenizer.eos_token_id and not forms.is_chat
        return tuple(ids[:-1] if is_ended else ids)

    def _groups(
        self, num_passages: int, seed: tuple[int, int], shown: Shown
    ) -> list[tuple[list[int], int | None]]:
        """Of each prompt the passages (by rank) that it has room for, in order, and the one it leaves out."""
        if self.context is Context.INDEPENDENT or shown is Shown.EACH_ALONE:
            assert shown is not Shown.EACH_LEFT_OUT, "prompts of one passage have none to leave out"
            return [([k], None) for k in range(num_passages)]
        match self.passage_order:
            case PassageOrder.RANK:
                order = list(range(num_passages))
            case PassageOrder.SHUFFLED:
                order = np.random.default_rng(seed).permutation(num_passages).tolist()
            case _:
                assert_never(self.passage_order)
        if shown is Shown.EACH_LEFT_OUT:
            return [(order, k) for k in range(num_passages)]
        assert shown is Shown.ALL
        return [(order, None)]

    def _compose(
        self,
        form: Form,
        question: Question,
        ranked: list[tuple[int, Passage]],
        answer: str | None,
        left_out: int | None,
    ) -> PromptText:
        asked = self._cut([question.text], self.max_question_tokens)[0]
        titles = self._cut([passage.title for _, passage in ranked], self.max_title_tokens)
        skeleton = self._write(
            form, question, asked, [(k, t, "") for (k, _), t in zip(ranked, titles, strict=True)]
        )
        room = self.max_tokens_per_passage * len(ranked) - self._count_tokens(skeleton.text)
        texts = self._cut([passage.text for _, passage in ranked], max(1, room // len(ranked)))
        blocks = [(k, title, text) for (k, _), title, text in zip(ranked, titles, texts, strict=True)]
        prompt = self._write(form, question, asked, [block for block in blocks if block[0] != left_out])
        if answer:
            prompt.add(form.answer_space + self._cut([answer], self.max_answer_tokens)[0], answer=True)
        return prompt

    def _write(
        self, form: Form, question: Question, asked: str, blocks: list[tuple[int, str, str]]
    ) -> PromptText:
        # the question belongs to a passage only where there is but one that it could belong to
        owner = blocks[0][0] if blocks and self.context is Context.INDEPENDENT else NOTHING
        prompt = PromptText()
        of_question = {QUESTION: asked}
        _fill_in(prompt, form.before, owner, of_question, question)
        for k, title, text in blocks:
            _fill_in(prompt, form.block, k, {**of_question, TITLE: title, TEXT: text}, question)
        _fill_in(prompt, form.after, owner, of_question, question)
        return prompt

    def _count_tokens(self, text: str) -> int:
        return len(self.tokenizer(text, add_special_tokens=not self.forms.is_chat)["input_ids"])

    def _cut(self, texts: list[str], max_tokens: int) -> list[str]:
        """The texts in one line each, cut after `max_tokens` tokens (of the text after a space)."""
        texts = [" " + _in_one_line(text) for text in texts]
        encoded = self.tokenizer(texts, add_special_tokens=False, return_offsets_mapping=True)
        cut = []
        for text, offsets in zip(texts, encoded["offset_mapping"], strict=True):
            if len(offsets) > max_tokens:
                # a character that continues in the first token left out is left out with it
                text = text[: min(offsets[max_tokens - 1][1], offsets[max_tokens][0])]
            cut.append(text[1:])
        return cut

    def _tokenise(
        self,
        prompts: list[PromptText],
        question_of_prompt: list[int],
        num_questions: int,
        num_passages: int,
        with_answer: bool,
        prefix_ids: tuple[int, ...],
    ) -> PromptBatch:
        encoded = self.tokenizer(
            [prompt.text for prompt in prompts],
            return_offsets_mapping=True,
            return_special_tokens_mask=True,
            # they begin the prefix where there is one, and a chat template says them itself
            add_special_tokens=not (prefix_ids or self.forms.is_chat),
        )
        eos = self.tokenizer.eos_token_id
        rows = []
        for ids, offsets, added, prompt in zip(
            encoded["input_ids"],
            encoded["offset_mapping"],
            encoded["special_tokens_mask"],
            prompts,
            strict=True,
        ):
            tokens = list(zip(ids, offsets, map(bool, added), strict=True))
            if tokens[-1][0] == eos and tokens[-1][2]:
                tokens.pop()  # a tokenizer that ends every text by itself
            row = _label_tokens(tokens, prompt)
            if with_answer or self.ends_prompts:
                row = np.concatenate([row, [[self.end_id, prompt.passage_of_end, 0, 0, 0, 0]]])
            rows.append(row)
        width = max(len(row) for row in rows)
        padding = self.tokenizer.pad_token_id if self.tokenizer.pad_token_id is not None else eos
        padded = np.full((len(rows), width, 6), (padding, NOTHING, 0, 0, 0, 0))
        mask, before_end = np.zeros((2, len(rows), width), dtype=bool)
        for i, row in enumerate(rows):
            where = slice(width - len(row), None) if self.padding_side == "left" else slice(0, len(row))
            padded[i, where], mask[i, where] = row, True
            before_end[i, where.start + len(row) - 2] = with_answer
        ids, passage, part, question, noun, answer = torch.from_numpy(padded).unbind(-1)
        answer_mask = answer.bool()
        answer_rows_mask = rows_predicting(answer_mask)
        # without a known answer, the row that would predict its first token
        is_unknown = ~answer_mask.any(dim=1, keepdim=True)
        answer_rows_mask |= torch.from_numpy(before_end) & is_unknown
        return PromptBatch(
            input_ids=ids,
            attention_mask=torch.from_numpy(mask),
            block_of_token=passage,
            content_mask=part.bool(),
            content_part=part,
            question_mask=question.bool(),
            noun_mask=self._blanks.left_out(ids, noun.bool()),
            answer_mask=answer_mask,
            target_mask=self._blanks.left_out(ids, answer_mask),
            answer_rows_mask=answer_rows_mask,
            label_mask=answer_rows_mask | (answer_mask & ~answer_rows_mask),
            question_of_prompt=torch.tensor(question_of_prompt),
            num_questions=num_questions,
            num_passages=num_passages,
            is_fused=self.is_fused,
            prefix_ids=prefix_ids,
        )


def _in_one_line(text: str) -> str:
    return " ".join(text.split())


def noun_spans(question: Question) -> list[tuple[int, int]]:
    """Where the nouns stand in what prompts show of the question: its text in one line, after a space.

    Example:
        >>> noun_spans(Question("q", "who  rules  Peru", ("x",), nouns=((12, 16),)))
        [(11, 15)]
        >>> " who rules Peru"[11:15]
        'Peru'
    """
    return [
        (_place_in_prompt(question, start), _place_in_prompt(question, end)) for start, end in question.nouns
    ]


def _place_in_prompt(question: Question, position: int) -> int:
    # as many characters precede it as precede an x put in its place, and the space before the question
    return len(_in_one_line(question.text[:position] + "x"))


def _fill_in(
    prompt: PromptText, pieces: Sequence[Piece], owner: int, values: dict[str, str], question: Question
) -> None:
    """Adds the pieces of a form, each of the passage that it belongs to."""
    for piece in pieces:
        match piece:
            case Words(text, is_of_chat):
                prompt.add(text, NOTHING if is_of_chat else owner)
            case Field(name, space, is_last):
                is_question = name == QUESTION
                nouns = _moved(noun_spans(question), len(space) - 1) if is_last else []
                prompt.add(
                    space + values[name],
                    owner,
                    content=not is_question,
                    question=is_question and is_last,
                    nouns=nouns,
                )


def _moved(spans: Sequence[tuple[int, int]], by: int) -> list[tuple[int, int]]:
    return [(start + by, end + by) for start, end in spans]


def _label_tokens(tokens: list[tuple[int, tuple[int, int], bool]], prompt: PromptText) -> np.ndarray:
    """[tokens, (id, passage, part, question, noun, answer)]: a token is what its last character is.

    Tokens that the tokenizer adds by itself are nothing. Where each byte of a character is a token, each of
    them is what the character is.
    """
    rows = np.zeros((len(tokens), 6), dtype=np.int64)
    for i, (token_id, (start, end), is_added) in enumerate(tokens):
        rows[i] = (token_id, NOTHING, 0, 0, 0, 0)
        if not is_added:
            last = max(start, end - 1)
            rows[i, 1] = prompt.passage_of_char[last]
            rows[i, 2] = prompt.part_of_char[last]
            rows[i, 3] = prompt.question_of_char[last]
            # nouns are words inside the question, so any of the token's characters will do
            rows[i, 4] = any(prompt.noun_of_char[start : last + 1])
            rows[i, 5] = prompt.answer_of_char[last]
    return rows
