"""Retrievers as models of sentence-transformers, and the other way round: the same embeddings in both."""

import json

import pytest
import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Normalize, Pooling, Router, Transformer
from transformers import AutoModel

from datamodules.batches import Passage
from lightning_modules.loading import ModelError
from lightning_modules.retriever import Retriever
from tests.tiny_models import tiny_llama, tiny_retriever, tiny_tokenizer, toy_passages, toy_questions

QUERIES = [question.text for question in toy_questions()[:3]] + ["Paris"]
PASSAGES = [toy_passages()[i] for i in (0, 13, 20)] + [Passage("long", "", "sea and river " * 40)]
EXACT = {"rtol": 0, "atol": 1e-6}


def assert_equal_embeddings(retriever: Retriever, model: SentenceTransformer) -> None:
    model.eval()
    with torch.no_grad():
        queries, passages = retriever.encode_queries(QUERIES), retriever.encode_passages(PASSAGES)
    found = model.encode_query(QUERIES, convert_to_tensor=True)
    torch.testing.assert_close(found, queries, **EXACT)
    texts = [passage.full_text for passage in PASSAGES]
    torch.testing.assert_close(model.encode_document(texts, convert_to_tensor=True), passages, **EXACT)
    assert not torch.allclose(queries[0], queries[3], atol=1e-4), "equal embeddings would hide a mistake"


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"normalize": True, "query_prompt": "query: ", "passage_prompt": "passage: "},
        {"pooling": "cls", "max_query_tokens": 20, "max_passage_tokens": 20},
        {"pooling": "last_token"},
    ],
)
def test_a_saved_retriever_is_a_model_of_sentence_transformers(tmp_path, settings):
    retriever = tiny_retriever(**settings)
    retriever.save(tmp_path)
    model = SentenceTransformer(str(tmp_path), device="cpu")
    assert_equal_embeddings(retriever, model)
    assert model.similarity_fn_name == ("cosine" if retriever.normalize else "dot")
    plain = AutoModel.from_pretrained(tmp_path, add_pooling_layer=False)
    for name, weight in retriever.query_encoder.state_dict().items():
        assert torch.equal(plain.state_dict()[name], weight)
    again = Retriever.load(tmp_path).eval()
    assert again.embedding == retriever.embedding, "what is not set comes from the folder"


def test_untied_encoders_are_routed_by_what_is_encoded(tmp_path):
    retriever = tiny_retriever(tied=False, normalize=True, max_query_tokens=4, max_passage_tokens=30)
    with torch.no_grad():
        for parameter in retriever.passage_encoder.parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)))
    retriever.save(tmp_path)
    model = SentenceTransformer(str(tmp_path), device="cpu")
    assert isinstance(model[0], Router)
    assert_equal_embeddings(retriever, model)
    again = Retriever.load(tmp_path, tied=False, max_query_tokens=4, max_passage_tokens=30).eval()
    assert_equal_embeddings(again, model)
    AutoModel.from_pretrained(tmp_path / "passages", add_pooling_layer=False)


@pytest.mark.parametrize("pooling", ["mean", "cls", "lasttoken"])
def test_a_model_of_sentence_transformers_is_a_retriever(tmp_path, pooling):
    """Also one that sentence-transformers itself has saved."""
    tiny_retriever().save(tmp_path / "plain")
    encoder = Transformer(str(tmp_path / "plain"), max_seq_length=64)
    prompts = {"query": "what: ", "document": "text: "}
    model = SentenceTransformer(
        modules=[encoder, Pooling(32, pooling_mode=pooling), Normalize()], prompts=prompts, device="cpu"
    )
    model.save(str(tmp_path / "model"), create_model_card=False)
    retriever = Retriever.load(tmp_path / "model", max_query_tokens=64, max_passage_tokens=64).eval()
    assert_equal_embeddings(retriever, model)
    assert not Retriever.load(tmp_path / "model", normalize=False).normalize, "what is set goes before"


def test_a_causal_model_embeds_where_it_says_how(tmp_path):
    tokenizer = tiny_tokenizer()
    tiny_llama(len(tokenizer)).model.save_pretrained(tmp_path / "plain")
    tokenizer.save_pretrained(tmp_path / "plain")
    with pytest.raises(ModelError, match="llama model is no encoder"):
        Retriever.load(tmp_path / "plain")
    encoder = Transformer(str(tmp_path / "plain"), max_seq_length=64)
    model = SentenceTransformer(modules=[encoder, Pooling(32, pooling_mode="lasttoken")], device="cpu")
    model.save(str(tmp_path / "model"), create_model_card=False)
    retriever = Retriever.load(tmp_path / "model", max_query_tokens=64, max_passage_tokens=64).eval()
    assert_equal_embeddings(retriever, model)


@pytest.mark.parametrize(
    ("file", "content", "said"),
    [
        ("1_Pooling/config.json", {"pooling_mode": "max"}, "its pooling is max; known are mean, cls"),
        (
            "1_Pooling/config.json",
            {"pooling_mode_mean_tokens": True, "pooling_mode_cls_token": True},
            "known",
        ),
        ("1_Pooling/config.json", {"include_prompt": False}, "leaves the prompt out"),
        ("1_Pooling/config.json", None, "config.json cannot be read"),
        ("modules.json", [{"type": "sentence_transformers.models.Dense", "path": "2_Dense"}], "Dense"),
        ("modules.json", [{"type": "sentence_transformers.models.Transformer", "path": ""}], "no pooling"),
        ("sentence_bert_config.json", {"do_lower_case": True}, "set do_lower_case to false"),
    ],
)
def test_what_cannot_be_done_alike_is_refused(tmp_path, file, content, said):
    tiny_retriever().save(tmp_path)
    if content is None:
        (tmp_path / file).unlink()
    else:
        (tmp_path / file).write_text(json.dumps(content))
    with pytest.raises(ModelError, match=said):
        Retriever.load(tmp_path)
