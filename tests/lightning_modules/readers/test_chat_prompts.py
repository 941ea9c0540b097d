"""A chat is read and gone on with like any prompt, up to the end of its turn."""

import pytest
import torch

from datamodules.batches import Batch, SolvedExample
from datamodules.prompts import PromptBuilder
from lightning_modules.readers.decoder_only import DecoderOnlyReader
from tests.family_tokenizers import family_tokenizer
from tests.tiny_models import tiny_llama, toy_passages, toy_questions

EXAMPLES = [SolvedExample(toy_questions()[7], toy_passages()[7], "Havana")]
BATCH = Batch(toy_questions()[:2], [toy_passages()[:2], toy_passages()[4:6]], ["Paris", "Tokyo"])


def chat_reader(family: str, context: str, examples=()) -> DecoderOnlyReader:
    tokenizer = family_tokenizer(family)
    prompts = PromptBuilder(tokenizer, context, template="chat", examples=examples)
    model = tiny_llama(len(tokenizer))
    model.generation_config.eos_token_id = None
    return DecoderOnlyReader(model, prompts).eval()


def greedy(reader: DecoderOnlyReader, ids: list[list[int]], weights: torch.Tensor, longest: int) -> str:
    """The answer to prompts that are decoded as one, token by token."""
    tokenizer, said = reader.tokenizer, []
    newline = tokenizer("\n", add_special_tokens=False)["input_ids"]
    ends = {tokenizer.eos_token_id, reader.prompts.end_id, *(newline if len(newline) == 1 else [])}
    while len(said) < longest:
        logits = [reader.model(torch.tensor([[*prompt, *said]])).logits[0, -1] for prompt in ids]
        p = (torch.stack(logits).softmax(dim=-1) * weights[:, None]).sum(dim=0)
        if not said:
            p[list(ends)] = 0
        token = int(p.argmax())
        if token in ends:
            break
        said.append(token)
    return tokenizer.decode(said, skip_special_tokens=True).strip().split("\n")[0].strip()


@torch.no_grad()
@pytest.mark.parametrize("examples", [(), EXAMPLES], ids=["bare", "examples"])
@pytest.mark.parametrize("context", ["concatenated", "independent"])
@pytest.mark.parametrize("family", ["gemma", "smollm2", "falcon"])
def test_it_is_answered_up_to_the_end_of_the_turn(family, context, examples):
    reader = chat_reader(family, context, examples)
    log_p_retr = torch.tensor([[0.9, 0.1], [0.3, 0.7]]).log()
    prompts = reader.prompts.build(Batch(BATCH.questions, BATCH.passages))
    ids = [
        [*prompts.prefix_ids, *row[mask].tolist()]
        for row, mask in zip(prompts.input_ids, prompts.attention_mask, strict=True)
    ]
    answers = reader.generate(BATCH, log_p_retr, max_new_tokens=5)
    for b, answer in enumerate(answers):
        of_question = [ids[b]] if context == "concatenated" else ids[2 * b : 2 * b + 2]
        weights = torch.ones(1) if context == "concatenated" else log_p_retr[b].exp()
        assert answer == greedy(reader, of_question, weights, longest=5)


@torch.no_grad()
@pytest.mark.parametrize("context", ["concatenated", "independent"])
def test_its_end_is_a_label_and_ends_generation(context):
    reader = chat_reader("gemma", context)
    end = reader.prompts.end_id
    assert end != reader.tokenizer.eos_token_id
    assert {end, reader.tokenizer.eos_token_id} <= set(reader._end_ids())
    output = reader.read_answer(BATCH)
    prompts = output.prompts
    last = prompts.label_mask & ~prompts.answer_rows_mask
    assert (prompts.input_ids.roll(-1, dims=1)[last] == end).all()
    attended = output.token_scores[prompts.content_mask]
    assert (attended > 0).all()
    assert len(reader.generate_closed_book(BATCH.questions, max_new_tokens=3)) == 2
