"""Embeddings against encoding one text at a time; tied and untied encoders; saving."""

import pytest
import torch

from datamodules.batches import Passage
from experiments.build import build_retriever
from experiments.config import ExperimentConfig
from lightning_modules.retriever import PASSAGE_ENCODER, Retriever, parts_of_similar_length
from tests.tiny_models import tiny_bert, tiny_retriever, tiny_tokenizer, toy_passages, toy_questions

QUERIES = [question.text for question in toy_questions()[:3]] + ["Paris"]
PASSAGES = [toy_passages()[i] for i in (0, 13, 20)] + [Passage("short", "", "sea")]


@torch.no_grad()
def one_by_one(encoder, tokenizer, texts, max_tokens):
    """Mean of the hidden states of each text on its own, which needs no padding."""
    rows = []
    for text in texts:
        ids = tokenizer(text)["input_ids"][:max_tokens]
        hidden = encoder(input_ids=torch.tensor([ids])).last_hidden_state[0]
        rows.append(sum(hidden) / len(hidden))
    return torch.stack(rows)


def untied(**settings):
    """Encoders that differ, as after training."""
    retriever = tiny_retriever(tied=False, **settings)
    with torch.no_grad():
        for parameter in retriever.passage_encoder.parameters():
            parameter.add_(0.01 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)))
    return retriever


@torch.no_grad()
@pytest.mark.parametrize("side", ["left", "right"])
def test_batches_equal_one_by_one(side):
    retriever = tiny_retriever()
    retriever.tokenizer.padding_side = side
    encoder, tokenizer = retriever.query_encoder, retriever.tokenizer
    if side == "right":  # positions are counted from the left, so that this model needs right padding
        expected = one_by_one(encoder, tokenizer, QUERIES, 64)
        torch.testing.assert_close(retriever.encode_queries(QUERIES), expected, rtol=1e-4, atol=1e-6)
    texts = ["France France is a country", "Spain"]
    mask = tokenizer(texts, padding=True, return_tensors="pt")["attention_mask"].bool()
    hidden = encoder(**tokenizer(texts, padding=True, return_tensors="pt")).last_hidden_state
    expected = torch.stack([row[real].mean(dim=0) for row, real in zip(hidden, mask, strict=True)])
    torch.testing.assert_close(retriever.encode_queries(texts), expected)


@torch.no_grad()
def test_passages_are_encoded_as_title_and_text():
    retriever = tiny_retriever()
    texts = [f"{passage.title} {passage.text}".strip() for passage in PASSAGES]
    expected = one_by_one(retriever.passage_encoder, retriever.tokenizer, texts, 160)
    embeddings = retriever.encode_passages(PASSAGES)
    torch.testing.assert_close(embeddings, expected, rtol=1e-4, atol=1e-6)
    assert embeddings.shape == (4, retriever.dim)
    assert (embeddings[0] - embeddings[1]).abs().max() > 1e-2, "equal embeddings would hide a mistake"


@torch.no_grad()
def test_long_texts_are_cut_each_after_its_own_number_of_tokens():
    retriever = tiny_retriever(max_query_tokens=3, max_passage_tokens=5)
    encoder, tokenizer = retriever.query_encoder, retriever.tokenizer
    text = QUERIES[0]
    torch.testing.assert_close(
        retriever.encode_queries([text]), one_by_one(encoder, tokenizer, [text], 3), rtol=1e-4, atol=1e-6
    )
    passage = Passage("p", "", text)
    torch.testing.assert_close(
        retriever.encode_passages([passage]), one_by_one(encoder, tokenizer, [text], 5), rtol=1e-4, atol=1e-6
    )


@torch.no_grad()
def test_normalized_embeddings_have_unit_length_and_the_same_direction():
    plain, unit = tiny_retriever(), tiny_retriever(normalize=True)
    for embed in ("encode_queries", "encode_passages"):
        inputs = QUERIES if embed == "encode_queries" else PASSAGES
        expected = getattr(plain, embed)(inputs)
        expected = expected / expected.square().sum(dim=1, keepdim=True).sqrt()
        torch.testing.assert_close(getattr(unit, embed)(inputs), expected)


def test_tied_encoders_are_one():
    retriever = tiny_retriever()
    assert retriever.passage_encoder is retriever.query_encoder
    text = "Paris is a city"
    assert torch.equal(retriever.encode_queries([text]), retriever.encode_passages([Passage("p", "", text)]))


def test_untied_encoders_share_no_weight():
    retriever = tiny_retriever(tied=False)
    pairs = list(
        zip(retriever.query_encoder.parameters(), retriever.passage_encoder.parameters(), strict=True)
    )
    assert all(torch.equal(q, p) and q.data_ptr() != p.data_ptr() for q, p in pairs)
    assert len(list(retriever.parameters())) == 2 * len(pairs)
    before = retriever.encode_passages(PASSAGES)
    with torch.no_grad():
        for q, _ in pairs:
            q.add_(0.1)
    assert torch.equal(retriever.encode_passages(PASSAGES), before)


@pytest.mark.parametrize("train_passage_encoder", [True, False])
def test_query_side_fine_tuning_leaves_the_passage_encoder_without_gradient(train_passage_encoder):
    retriever = tiny_retriever(tied=False, train_passage_encoder=train_passage_encoder)
    scores = retriever.encode_queries(QUERIES) @ retriever.encode_passages(PASSAGES).T
    scores.square().sum().backward()
    assert any(p.grad is not None and p.grad.any() for p in retriever.query_encoder.parameters())
    gradients = [p.grad is not None and bool(p.grad.any()) for p in retriever.passage_encoder.parameters()]
    assert any(gradients) is train_passage_encoder
    trainable = {p.requires_grad for p in retriever.passage_encoder.parameters()}
    assert trainable == {train_passage_encoder}


def test_query_side_fine_tuning_of_tied_encoders_is_refused():
    tokenizer = tiny_tokenizer()
    with pytest.raises(ValueError, match="set tied=False"):
        Retriever(tiny_bert(len(tokenizer)), tokenizer, tied=True, train_passage_encoder=False)


def test_embeddings_are_float32_under_mixed_precision():
    retriever = tiny_retriever()
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        embeddings = retriever.encode_queries(QUERIES)
    assert embeddings.dtype == torch.float32
    torch.testing.assert_close(embeddings, retriever.encode_queries(QUERIES), rtol=0.1, atol=0.05)


# ------------------------------------------------------------------------------------------------ saving
@torch.no_grad()
@pytest.mark.parametrize("tied", [True, False])
def test_saved_and_loaded_again(tmp_path, tied):
    retriever = untied(normalize=True) if not tied else tiny_retriever(normalize=True)
    retriever.save(tmp_path)
    assert (tmp_path / PASSAGE_ENCODER).is_dir() is not tied
    assert not list(tmp_path.rglob("*.bin")), "safetensors only"
    config = ExperimentConfig()
    config.retriever.tied = tied
    config.retriever.normalize = True
    loaded = build_retriever(config, source=tmp_path).eval()
    assert loaded.tied is tied
    assert torch.equal(loaded.encode_queries(QUERIES), retriever.encode_queries(QUERIES))
    assert torch.equal(loaded.encode_passages(PASSAGES), retriever.encode_passages(PASSAGES))
    text = "Paris is a city"
    query, passage = loaded.encode_queries([text]), loaded.encode_passages([Passage("p", "", text)])
    assert torch.equal(query, passage) is tied


def test_settings_of_the_configuration_arrive(tmp_path):
    tiny_retriever().save(tmp_path)
    config = ExperimentConfig()
    settings = config.retriever
    settings.name, settings.num_layers, settings.dropout = str(tmp_path), 2, 0.25
    settings.tied, settings.train_passage_encoder = False, False
    settings.max_query_tokens, settings.max_passage_tokens = 7, 9
    retriever = build_retriever(config)
    assert retriever.query_encoder.config.num_hidden_layers == 2
    rates = {m.p for m in retriever.query_encoder.modules() if isinstance(m, torch.nn.Dropout)}
    assert rates == {0.25}
    assert (retriever.max_query_tokens, retriever.max_passage_tokens) == (7, 9)
    assert not any(p.requires_grad for p in retriever.passage_encoder.parameters())


def test_a_few_activations_at_a_time_give_the_gradients_of_all():
    gradients = []
    for num_at_once in (2, None):
        retriever = tiny_retriever(num_at_once=num_at_once)
        embeddings = retriever.encode_passages(toy_passages()[:5])
        (embeddings * torch.linspace(-1, 1, embeddings.numel()).view_as(embeddings)).sum().backward()
        gradients.append([p.grad.clone() for p in retriever.query_encoder.parameters() if p.grad is not None])
    for of_parts, of_all in zip(*gradients, strict=True):
        torch.testing.assert_close(of_parts, of_all, rtol=1e-4, atol=1e-6)


def test_a_batch_in_training_gives_the_embeddings_of_each_text_alone():
    texts = [" ".join(["France", "Peru", "Rome"] * n) for n in (5, 1, 9, 3, 2, 8, 1, 4, 7, 6, 2)]
    retriever = tiny_retriever()
    together = retriever.encode_queries(texts)
    assert together.requires_grad
    alone = torch.cat([retriever.encode_queries([text]) for text in texts])
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-6)
    with torch.no_grad():
        torch.testing.assert_close(retriever.encode_queries(texts), alone, rtol=1e-4, atol=1e-6)


def test_the_second_pass_of_a_part_draws_the_dropout_of_the_first():
    retriever = tiny_retriever(num_at_once=2).train()
    for module in retriever.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.3
    norm = retriever.query_encoder.encoder.layer[-1].output.LayerNorm
    torch.manual_seed(1)
    embeddings = retriever.encode_queries(["France", "Peru and Chile", "Rome", "Oslo", "Cuba"])
    embeddings.sum().backward()
    # the last layer norm gives w * x + b, so its gradients must add up to the output of the first pass
    total = (norm.weight * norm.weight.grad).sum() + (norm.bias * norm.bias.grad).sum()
    torch.testing.assert_close(total, embeddings.sum(), rtol=1e-4, atol=1e-4)
    with torch.no_grad():
        other = retriever.encode_queries(["France", "Peru and Chile", "Rome", "Oslo", "Cuba"])
    assert not torch.allclose(other.sum(), embeddings.sum(), rtol=1e-4), "dropout does make a difference"


@pytest.mark.parametrize("side", ["left", "right"])
def test_parts_of_similar_length_hold_each_text_once_without_what_pads_all_of_them(side):
    lengths = [3, 7, 1, 7, 2, 5, 4]
    texts = [torch.arange(1, length + 1) + 10 * i for i, length in enumerate(lengths)]
    ids = torch.nn.utils.rnn.pad_sequence(texts, batch_first=True, padding_side=side)
    order, parts = parts_of_similar_length({"input_ids": ids, "attention_mask": (ids > 0).long()}, 2)
    assert [lengths[i] for i in order.tolist()] == sorted(lengths)
    assert [part["input_ids"].shape[1] for part in parts] == [2, 4, 7, 7]
    for part in parts:
        assert torch.equal(part["attention_mask"] > 0, part["input_ids"] > 0)
    rows = [row[row > 0].tolist() for part in parts for row in part["input_ids"]]
    assert rows == [texts[i].tolist() for i in order.tolist()]
