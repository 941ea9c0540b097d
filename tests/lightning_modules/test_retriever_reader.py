"""The training step and the evaluation, in a real Trainer, against the paper's equations written out."""

import contextlib
import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from lightning import Callback
from lightning.pytorch.utilities.exceptions import MisconfigurationException

from callbacks.refresh_index import RefreshIndex
from datamodules.batches import Batch
from datamodules.passage_index import PassageIndex
from datamodules.passages import build_knowledge_base
from datamodules.prompts import PromptBuilder
from lightning_modules import RetrieverReaderModule
from lightning_modules.attention_heads import AttentionHeads
from lightning_modules.encoding import build_index
from lightning_modules.eval_mode import eval_mode
from lightning_modules.objectives import ADist
from lightning_modules.optimization import LearningRate, LearningRateDecay
from lightning_modules.read_once import ReadOnce
from lightning_modules.readers.decoder_only import DecoderOnlyReader
from lightning_modules.retrieval import RetrievalModule
from lightning_modules.retriever import Retriever
from tests.tiny_models import (
    tiny_bert,
    tiny_falcon_rw,
    tiny_reader,
    tiny_retriever,
    tiny_tokenizer,
    toy_knowledge_base,
    toy_passages,
    toy_questions,
)
from tests.toy_training import LIGHTNING_ADVICE, toy_datamodule, toy_module, toy_trainer

pytestmark = pytest.mark.filterwarnings(*LIGHTNING_ADVICE)

K = 5
MODES = {
    "retriever": {"train_retriever": True, "train_reader": False},
    "reader": {"train_retriever": False, "train_reader": True},
    "both": {"train_retriever": True, "train_reader": True},
}


class On(Callback):
    """Calls functions at hooks, by name."""

    def __init__(self, **functions: Callable) -> None:
        for name, function in functions.items():
            setattr(self, name, function)


def trainer(folder, *callbacks, **settings):
    index = RefreshIndex("-1", folder / "index", batch_size=8, show_progress=False)
    return toy_trainer(folder, [index, *callbacks], **settings)


def weights(module):
    return {name: weight.clone() for name, weight in module.state_dict().items()}


def changed(before, module):
    """The models of which a weight is not what it was."""
    after = module.state_dict()
    return {name.split(".")[0] for name in before if not torch.equal(before[name], after[name])}


def with_dropout(folder, rate=0.5, **settings):
    """A module whose reader and retriever both have dropout."""
    tokenizer = tiny_tokenizer()
    reader = DecoderOnlyReader(
        tiny_falcon_rw(len(tokenizer), attention_dropout=rate), PromptBuilder(tokenizer)
    )
    encoder = tiny_bert(len(tokenizer))
    for part in encoder.modules():
        if isinstance(part, torch.nn.Dropout):
            part.p = rate
    module = RetrieverReaderModule(
        Retriever(encoder.eval(), tokenizer), reader.eval(), toy_knowledge_base(folder), **settings
    )
    module.hit_rate_ks = (1, 5)
    return module


# --------------------------------------------------------------------------------------------- reference
@torch.no_grad()
def slow_retrieve(module, question, embeddings, k):
    scores = embeddings @ module.retriever.encode_queries([question.text])[0]
    return [toy_passages()[i] for i in scores.argsort(descending=True)[:k].tolist()]


@torch.no_grad()
def slow_log_p_attn(module, question, passages, answer, atlas, how):
    """Eq. 1 with plain numbers, from the token scores of this question's prompts alone."""
    output = module.reader.read(Batch([question], [passages], [answer]))
    totals, counts = [0.0] * len(passages), [0] * len(passages)
    for scores, ranks in zip(output.token_scores, output.prompts.passage_of_token(), strict=True):
        for score, k in zip(scores.tolist(), ranks.tolist(), strict=True):
            if k >= 0:
                totals[k] += score
                counts[k] += 1
    scores = [total / count if how == "mean" else total for total, count in zip(totals, counts, strict=True)]
    scores = [
        score / (256 if atlas and how == "sum" else 1) / module.objective.attention_temperature
        for score in scores
    ]
    normalizer = math.log(sum(math.exp(score) for score in scores))
    return [score - normalizer for score in scores]


@torch.no_grad()
def slow_log_p_retr(module, question, passages, atlas):
    """Eq. 2 with plain numbers."""
    query = module.retriever.encode_queries([question.text])[0].tolist()
    scores = []
    for passage in passages:
        embedding = module.retriever.encode_passages([passage])[0].tolist()
        score = sum(q * p for q, p in zip(query, embedding, strict=True))
        scores.append(score / (math.sqrt(len(query)) if atlas else 1) / module.retrieval_temperature)
    normalizer = math.log(sum(math.exp(score) for score in scores))
    return [score - normalizer for score in scores]


def slow_kl(log_p, log_q):
    return sum(math.exp(p) * (p - q) for p, q in zip(log_p, log_q, strict=True))


# ---------------------------------------------------------------------------------------------- the step
@pytest.mark.parametrize(
    ("constants", "how"), [("plain", "sum"), ("plain", "mean"), ("atlas", "sum"), ("atlas", "mean")]
)
def test_training_loss_is_the_kl_of_the_paper(tmp_path, constants, how):
    atlas = constants == "atlas"
    settings = {"attention_temperature": 0.001, "retrieval_temperature": 0.02} if atlas else {}
    module = toy_module(tmp_path, constants=constants, passage_score=how, **settings)
    with torch.no_grad():
        at_start = module.retriever.encode_passages(toy_passages())  # the index is not refreshed
    batches, pairs = [], []

    def compare(trainer, module, loss):
        expected = 0.0
        for question in batches[-1]:
            passages = slow_retrieve(module, question, at_start, K)
            log_p_attn = slow_log_p_attn(module, question, passages, question.answers[0], atlas, how)
            expected += slow_kl(log_p_attn, slow_log_p_retr(module, question, passages, atlas))
        pairs.append((loss.item(), expected / len(batches[-1]) / (K if atlas else 1)))

    watch = On(
        on_train_batch_start=lambda trainer, module, batch, i: batches.append(batch),
        on_before_backward=compare,
    )
    trainer(tmp_path, watch, max_steps=3).fit(module, toy_datamodule())
    assert len(pairs) == 3
    for loss, expected in pairs:
        assert loss == pytest.approx(expected, rel=1e-3)
        assert expected > 1e-5


@pytest.mark.parametrize("mode", sorted(MODES))
def test_only_what_is_trained_changes(tmp_path, mode):
    module = toy_module(tmp_path, **MODES[mode])
    before = weights(module)
    fitting = trainer(tmp_path, max_steps=2)
    fitting.fit(module, toy_datamodule())
    expected = {"retriever", "reader"} if mode == "both" else {mode}
    assert changed(before, module) == expected
    trainable = {name.split(".")[0] for name, weight in module.named_parameters() if weight.requires_grad}
    assert trainable == expected, "a frozen model is not to cost memory for gradients"
    logged = {name for name in fitting.callback_metrics if name.startswith("train/")}
    losses = {"retriever": {"train/kl"}, "reader": {"train/reader_loss"}}
    assert logged == {"train/loss"}.union(*(losses[name] for name in expected))


def test_the_loss_of_both_is_the_sum(tmp_path):
    fitting = trainer(tmp_path, max_steps=1)
    fitting.fit(toy_module(tmp_path, **MODES["both"]), toy_datamodule())
    logged = fitting.callback_metrics
    assert logged["train/loss"].item() == pytest.approx(
        (logged["train/kl"] + logged["train/reader_loss"]).item(), rel=1e-6
    )


def test_training_moves_the_retriever_towards_a_fixed_reader(tmp_path):
    # with as many passages as there are, the retrieved ones stay the same while the retriever changes
    passages = toy_passages()[:K]
    module = RetrieverReaderModule(
        tiny_retriever(normalize=True),
        tiny_reader("independent"),
        build_knowledge_base(passages, tmp_path / "small.arrow"),
        retriever_rate=LearningRate(1e-3),
        hit_rate_ks=(1,),
        objective=ADist(attention_temperature=0.05),
        retrieval_temperature=0.05,
    )
    questions = toy_questions()

    def mean_kl():
        found = [
            slow_kl(
                slow_log_p_attn(module, question, passages, question.answers[0], False, "sum"),
                slow_log_p_retr(module, question, passages, False),
            )
            for question in questions
        ]
        return sum(found) / len(found)

    before = mean_kl()
    trainer(tmp_path, max_steps=30).fit(module, toy_datamodule(batch_size=4))
    assert 0.01 < mean_kl() < 0.5 * before


def test_the_same_seed_gives_the_same_weights(tmp_path):
    def trained(seed, name):
        folder = tmp_path / name
        folder.mkdir()
        module = toy_module(folder, seed=seed, **MODES["both"])
        trainer(folder, max_steps=3).fit(module, toy_datamodule(seed=seed))
        return weights(module)

    first, again, other = trained(0, "a"), trained(0, "b"), trained(1, "c")
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not all(torch.equal(first[name], other[name]) for name in first)


@pytest.mark.parametrize("objective", ["adist", "signals", "pdist"])
def test_what_makes_steps_fast_changes_no_loss(objective, tmp_path, monkeypatch):
    """Parts of similar length, plain attention, passes that end early, readings that are kept."""

    def losses(name, is_kept):
        found = []
        folder = tmp_path / name
        folder.mkdir()
        reader = tiny_reader("independent")
        reader = type(reader)(reader.model, reader.prompts, AttentionHeads.parse("0.1"))
        kept = ReadOnce(reader, folder / "kept") if is_kept else None
        watch = On(on_before_backward=lambda trainer, module, loss: found.append(loss.item()))
        module = toy_module(folder, reader=reader, objective=objective, read_once=kept, **MODES["retriever"])
        trainer(folder, watch, max_steps=8).fit(module, toy_datamodule(batch_size=4))
        return found

    fast = losses("kept", is_kept=True), losses("fast", is_kept=False)
    monkeypatch.setattr("lightning_modules.retriever.training_parts", whole := Whole())
    monkeypatch.setattr("lightning_modules.retriever.plain_attention_backward", contextlib.nullcontext)
    monkeypatch.setattr("lightning_modules.retriever_reader.TeachingPasses", lambda reader: reader)
    slow = losses("slow", is_kept=False)
    assert whole.num_called > 0
    assert len(slow) == 8
    assert len(set(slow)) == 8, "something is learnt"
    for found in fast:
        np.testing.assert_allclose(found, slow, rtol=1e-4)


class Whole:
    """All texts in one pass."""

    def __init__(self):
        self.num_called = 0

    def __call__(self, inputs, num_at_once=None):
        self.num_called += 1
        return torch.arange(len(inputs["input_ids"])), [inputs]


def test_the_canonical_answer_is_trained_on(tmp_path):
    def losses(name, answer_choice, **changes):
        found = []
        folder = tmp_path / name
        folder.mkdir()
        questions = [replace(question, **changes) for question in toy_questions()[:4]]
        watch = On(on_before_backward=lambda trainer, module, loss: found.append(loss.item()))
        module = toy_module(folder, answer_choice=answer_choice, **MODES["both"])
        trainer(folder, watch, max_steps=2).fit(module, toy_datamodule(train=questions))
        return found

    answers = ("Mount Nowhere", "a", "b")
    expected = losses("first", "preferred", answers=answers)
    named = losses("named", "canonical", answers=answers[1:], canonical_answer=answers[0])
    assert named == expected
    assert losses("other", "preferred", answers=answers[1:]) != expected
    with pytest.raises(ValueError, match=r"question q. has no canonical answer; set answer_choice=sampled"):
        losses("none", "canonical")


def test_accumulated_gradients_are_those_of_the_larger_batch(tmp_path):
    def gradients(name, batch_size, accumulate):
        steps, losses = [], []

        def keep(trainer, module, optimizer):
            steps.append([p.grad.clone() for p in module.retriever.parameters() if p.grad is not None])

        folder = tmp_path / name
        folder.mkdir()
        module = toy_module(folder)
        watch = On(
            on_before_optimizer_step=keep,
            on_before_backward=lambda trainer, module, loss: losses.append(loss.item()),
        )
        fitting = trainer(folder, watch, max_steps=3, accumulate_grad_batches=accumulate)
        fitting.fit(module, toy_datamodule(batch_size=batch_size))
        return steps, losses

    (together, _), (accumulated, _) = gradients("together", 2, 1), gradients("accumulated", 1, 2)
    assert len(together) == len(accumulated) == 3
    for expected, found in zip(together, accumulated, strict=True):
        assert max(g.abs().max() for g in expected) > 1e-3
        torch.testing.assert_close(found, expected, rtol=1e-2, atol=1e-5)


def test_each_model_gets_its_learning_rate(tmp_path):
    constant = LearningRateDecay.CONSTANT
    module = toy_module(
        tmp_path,
        retriever_rate=LearningRate(2e-3, decay=constant),
        reader_rate=LearningRate(3e-4, warmup_steps=1, decay=LearningRateDecay.LINEAR),
        weight_decay=0.1,
        **MODES["both"],
    )
    rates = []

    def keep(trainer, module, optimizer):
        rates.append([group["lr"] for group in optimizer.param_groups])

    fitting = trainer(tmp_path, On(on_before_optimizer_step=keep), max_steps=4)
    fitting.fit(module, toy_datamodule())
    assert [retriever for retriever, _ in rates] == pytest.approx([2e-3] * 4)
    assert [reader for _, reader in rates] == pytest.approx([1.5e-4, 3e-4, 2e-4, 1e-4])
    (optimizer,) = fitting.optimizers
    in_groups = [{id(p) for p in group["params"]} for group in optimizer.param_groups]
    assert in_groups == [{id(p) for p in model.parameters()} for model in (module.retriever, module.reader)]
    assert {group["weight_decay"] for group in optimizer.param_groups} == {0.1}


# ----------------------------------------------------------------------------------------------- dropout
@pytest.mark.parametrize("mode", ["retriever", "both"])
def test_a_reader_with_dropout_teaches_in_eval_mode(tmp_path, mode):
    module = with_dropout(tmp_path, **MODES[mode])
    assert module.reader.has_dropout
    read, scores = module._read, []

    def watched(batch, student=None, **settings):
        taught = read(batch, student, **settings)
        if not torch.is_grad_enabled():
            return taught  # of the evaluation below
        evaluated = module.read_questions(batch).output
        learned = None if student is None else student.token_scores
        scores.append((taught.token_scores, learned, evaluated.token_scores))
        return taught

    module._read = watched
    trainer(tmp_path, max_steps=2).fit(module, toy_datamodule())
    assert len(scores) == 2
    for teacher, student, evaluated in scores:
        assert torch.equal(teacher, evaluated)
        if mode == "retriever":
            assert student is None
        else:
            assert not torch.equal(student, evaluated), "the student learns with dropout"


def test_one_pass_serves_both_where_there_is_no_dropout(tmp_path):
    module = toy_module(tmp_path, **MODES["both"])
    counted = []
    for name in ("read", "read_answer"):
        read = getattr(module.reader, name)
        setattr(module.reader, name, lambda batch, read=read: counted.append(1) or read(batch))
    trainer(tmp_path, max_steps=3).fit(module, toy_datamodule())
    assert len(counted) == 3


@pytest.mark.parametrize("mode", sorted(MODES))
def test_what_is_trained_is_in_train_mode_and_what_is_not_is_not(tmp_path, mode):
    """Models come in eval mode from where they are loaded, and validations switch to it."""
    module = with_dropout(tmp_path, max_new_tokens=2, **MODES[mode])
    seen = []

    def look(trainer, module, loss):
        seen.append(
            {name: {m.training for m in getattr(module, name).modules()} for name in ("retriever", "reader")}
        )

    fitting = trainer(
        tmp_path, On(on_before_backward=look), max_steps=3, limit_val_batches=1, val_check_interval=1
    )
    fitting.fit(module, toy_datamodule())
    expected = {"retriever": {mode in ("retriever", "both")}, "reader": {mode in ("reader", "both")}}
    assert seen == [expected] * 3


def test_retrieves_in_eval_mode_while_training(tmp_path):
    module = with_dropout(tmp_path)
    assert module.retriever.training
    with torch.no_grad(), eval_mode(module.retriever):
        embeddings = module.retriever.encode_passages(toy_passages())
        expected = [slow_retrieve(module, question, embeddings, K) for question in toy_questions()]
    module.index = PassageIndex.build(embeddings.numpy())
    assert module.retrieve(toy_questions(), K) == expected
    assert module.retriever.training


@pytest.mark.parametrize("stage", ["fit", "validate"])
def test_a_trainer_without_an_index_says_what_builds_one(tmp_path, stage):
    with pytest.raises(ValueError, match=r"no index to .*: give the trainer callbacks\..*RefreshIndex"):
        getattr(toy_trainer(tmp_path, [], limit_val_batches=1), stage)(toy_module(tmp_path), toy_datamodule())


@pytest.mark.parametrize("rerank_from", [K, 9, 24, 100])
def test_reranks_what_a_stale_index_finds_by_fresh_embeddings(tmp_path, rerank_from):
    """In the order of a fresh index that holds no others than the passages that the stale one finds first."""
    module = with_dropout(tmp_path, rerank_from=rerank_from)
    stale = torch.randn(24, module.retriever.dim, generator=torch.Generator().manual_seed(0))
    module.index = PassageIndex.build(stale.numpy())
    questions = toy_questions()
    found = module.retrieve(questions, K)
    assert module.retriever.training, "in eval mode, and back"
    with torch.no_grad(), eval_mode(module.retriever):
        fresh = module.retriever.encode_passages(toy_passages())
        queries = module.retriever.encode_queries([question.text for question in questions])
        for question, query, passages in zip(questions, queries, found, strict=True):
            candidates = (stale @ query).topk(min(rerank_from, 24)).indices
            order = (fresh[candidates] @ query).argsort(descending=True)[:K]
            assert passages == [toy_passages()[i] for i in candidates[order].tolist()]
            if rerank_from >= 24:
                assert passages == slow_retrieve(module, question, fresh, K)
    module.rerank_from = None
    assert module.retrieve(questions, K) != found


def test_reranking_takes_no_gradient(tmp_path):
    module = toy_module(tmp_path, rerank_from=9)
    module.index = PassageIndex.build(module.retriever.encode_passages(toy_passages()).detach().numpy())
    encode, modes = module.retriever.encode_passages, []

    def watched(passages):
        embeddings = encode(passages)
        modes.append((len(passages), embeddings.requires_grad))
        return embeddings

    module.retriever.encode_passages = watched
    module.retrieve(toy_questions()[:2], K)
    assert modes == [(9, False), (9, False)]


def test_a_fixed_passage_encoder_stays_without_dropout(tmp_path):
    retriever = tiny_retriever(tied=False, train_passage_encoder=False)
    module = RetrieverReaderModule(retriever, tiny_reader(), toy_knowledge_base(tmp_path))
    assert {part.training for part in module.retriever.query_encoder.modules()} == {True}
    assert {part.training for part in module.retriever.passage_encoder.modules()} == {False}


# ------------------------------------------------------------------------------------------- checkpoints
@pytest.mark.parametrize("mode", sorted(MODES))
def test_checkpoints_hold_the_trained_models_and_load(tmp_path, mode):
    module = toy_module(tmp_path, **MODES[mode])
    fitting = trainer(tmp_path, max_steps=2)
    fitting.fit(module, toy_datamodule())
    path = tmp_path / "saved.ckpt"
    fitting.save_checkpoint(path)
    held = torch.load(path, weights_only=True)["state_dict"]
    models = {"retriever", "reader"} if mode == "both" else {mode}
    assert {name.split(".")[0] for name in held} == models
    assert all(torch.equal(weight, module.state_dict()[name]) for name, weight in held.items())
    resumed = toy_module(tmp_path / "resumed", **MODES[mode])
    going_on = trainer(tmp_path, max_steps=2)
    going_on.fit(resumed, toy_datamodule(), ckpt_path=path, weights_only=True)
    assert going_on.global_step == 2
    assert all(torch.equal(weight, resumed.state_dict()[name]) for name, weight in weights(module).items())


def test_a_resumed_run_ends_with_the_weights_of_an_uninterrupted_one(tmp_path):
    def module(name):
        return toy_module(tmp_path / name, retriever_rate=LearningRate(1e-3, warmup_steps=2))

    whole, half, resumed = module("whole"), module("half"), module("resumed")
    trainer(tmp_path / "whole", max_steps=9).fit(whole, toy_datamodule())
    path = tmp_path / "half.ckpt"

    def save(trainer, module, outputs, batch, batch_idx):
        if trainer.global_step == 4:
            trainer.save_checkpoint(path)

    trainer(tmp_path / "half", On(on_train_batch_end=save), max_steps=9).fit(half, toy_datamodule())
    going_on = trainer(tmp_path / "half", max_steps=9)
    going_on.fit(resumed, toy_datamodule(), ckpt_path=path, weights_only=True)
    assert all(torch.equal(weight, resumed.state_dict()[name]) for name, weight in weights(whole).items())


@pytest.mark.parametrize("wanted", ["reader", "both"])
def test_a_checkpoint_without_the_weights_to_go_on_from_is_refused(tmp_path, wanted):
    fitting = trainer(tmp_path, max_steps=1)
    fitting.fit(toy_module(tmp_path), toy_datamodule())
    fitting.save_checkpoint(tmp_path / "saved.ckpt")
    module = toy_module(tmp_path / "other", **MODES[wanted])
    with pytest.raises(ValueError, match="no weights of the reader"):
        trainer(tmp_path).fit(module, toy_datamodule(), ckpt_path=tmp_path / "saved.ckpt", weights_only=True)


# -------------------------------------------------------------------------------------------- evaluation
def evaluate(folder, module, stage="validation", **settings):
    evaluations = []
    keep = lambda trainer, module, outputs, batch, i, loader=0: evaluations.append(outputs)  # noqa: E731
    evaluating = trainer(
        folder,
        On(on_validation_batch_end=keep, on_test_batch_end=keep),
        limit_val_batches=1.0,
        limit_test_batches=1.0,
        **settings,
    )
    run = evaluating.validate if stage == "validation" else evaluating.test
    datamodule = toy_datamodule()
    run(module, datamodule, verbose=False)
    return (
        evaluations,
        {name: value.item() for name, value in evaluating.callback_metrics.items()},
        datamodule,
    )


def test_an_evaluation_holds_what_the_equations_give(tmp_path):
    module = toy_module(tmp_path)
    evaluations, logged, datamodule = evaluate(tmp_path, module)
    with torch.no_grad():
        embeddings = module.retriever.encode_passages(toy_passages())
    assert [q for evaluation in evaluations for q in evaluation.questions] == datamodule.validation
    kls = []
    for evaluation in evaluations:
        for b, question in enumerate(evaluation.questions):
            found = slow_retrieve(module, question, embeddings, 5)
            assert evaluation.passages[b] == found
            assert evaluation.is_hit[b].tolist() == [question.answers[0] in passage.text for passage in found]
            assert evaluation.read.batch.answers[b] == question.answers[0]
            assert evaluation.read.batch.passages[b] == found[:K]
            assert evaluation.read.has_answer[b].tolist() == evaluation.is_hit[b, :K].tolist()
            log_p_attn = slow_log_p_attn(module, question, found, question.answers[0], False, "sum")
            log_p_retr = slow_log_p_retr(module, question, found, False)
            assert evaluation.read.p_target[b].log().tolist() == pytest.approx(log_p_attn, rel=1e-3, abs=1e-4)
            assert evaluation.read.log_p_retr[b].tolist() == pytest.approx(log_p_retr, rel=1e-3, abs=1e-4)
            log_p = evaluation.read.log_p_retr[b]
            assert (
                evaluation.predictions[b]
                == module.reader.generate(Batch([question], [found]), log_p[None], 3)[0]
            )
            kls.append(slow_kl(log_p_attn, log_p_retr))
        assert evaluation.read.output.prompts.num_passages == K
    assert logged["validation/kl"] == pytest.approx(np.mean(kls), rel=1e-3)
    num_words = [
        len(passage.text.split()) for e in evaluations for found in e.passages for passage in found[:K]
    ]
    assert logged["validation/passage_words"] == pytest.approx(np.mean(num_words))


@pytest.mark.parametrize("stage", ["validation", "test"])
def test_hit_rates_and_answer_scores_are_logged(tmp_path, stage, monkeypatch):
    module = toy_module(tmp_path, hit_rate_ks=(1, 3, 20, 100))
    said = {q.id: q.answers[0] if i % 2 else f"{q.answers[0]} city" for i, q in enumerate(toy_questions())}
    monkeypatch.setattr(module.reader, "generate", lambda batch, *_: [said[q.id] for q in batch.questions])
    evaluations, logged, datamodule = evaluate(tmp_path, module, stage)
    questions = datamodule.validation if stage == "validation" else datamodule.test
    ranks = []
    for evaluation in evaluations:
        assert {len(found) for found in evaluation.passages} == {20}
        for question, found in zip(evaluation.questions, evaluation.passages, strict=True):
            hits = [i for i, passage in enumerate(found) if question.answers[0] in passage.text]
            ranks.append(hits[0] if hits else 99)
    for k in (1, 3, 20):
        assert logged[f"{stage}/hr_at_{k}"] == pytest.approx(np.mean([rank < k for rank in ranks]))
    assert f"{stage}/hr_at_100" not in logged, "there are only 24 passages"
    assert len(set(ranks)) > 1
    exact = [said[q.id] == q.answers[0] for q in questions]
    assert logged[f"{stage}/em"] == pytest.approx(np.mean(exact))
    assert 0 < np.mean(exact) < 1
    assert logged[f"{stage}/f1"] == pytest.approx(
        np.mean([1.0 if right else 2 / 3 for right in exact]), rel=1e-4
    )


@pytest.mark.parametrize(("num_read", "of_batches"), [(1, [1, 0]), (2, [2, 0]), (3, [2, 1]), (9, [2, 2])])
def test_reads_num_read_questions_and_then_no_more_each_time(tmp_path, num_read, of_batches):
    module = toy_module(tmp_path, num_read=num_read)
    whole, _, _ = evaluate(tmp_path, toy_module(tmp_path / "whole"))
    for _ in range(2):
        evaluations, logged, _ = evaluate(tmp_path, module)
        assert [evaluation.num_read for evaluation in evaluations] == of_batches
        for evaluation, expected, count in zip(evaluations, whole, of_batches, strict=True):
            if count == 0:
                assert evaluation.read is None
                assert not evaluation.predictions
            else:
                assert evaluation.read.batch.questions == evaluation.questions[:count]
                torch.testing.assert_close(evaluation.read.p_target, expected.read.p_target[:count])
                torch.testing.assert_close(evaluation.read.log_p_retr, expected.read.log_p_retr[:count])
                assert evaluation.predictions == expected.predictions[:count]
                assert evaluation.read.output.prompts.num_questions == count
        ranks = [evaluation.is_hit[:, 0].float() for evaluation in evaluations]
        assert logged["validation/hr_at_1"] == pytest.approx(torch.cat(ranks).mean().item())
        assert len(torch.cat(ranks)) == 4, "all questions are retrieved for"


@pytest.mark.parametrize("stage", ["validation", "test"])
def test_an_evaluation_that_broke_off_counts_in_no_other(tmp_path, stage):
    _, expected, _ = evaluate(tmp_path, toy_module(tmp_path, num_read=5), "test")
    module = toy_module(tmp_path, num_read=5)

    def fail(*_):
        raise RuntimeError("out of power")

    broken_off = trainer(
        tmp_path,
        On(on_validation_batch_end=fail, on_test_batch_end=fail),
        limit_val_batches=1.0,
        limit_test_batches=1.0,
    )
    run = broken_off.validate if stage == "validation" else broken_off.test
    with pytest.raises(RuntimeError, match="out of power"):
        run(module, toy_datamodule(), verbose=False)
    _, found, _ = evaluate(tmp_path, module, "test")
    assert {"test/hr_at_5", "test/kl", "test/em", "test/passage_words"} <= found.keys()
    assert found == expected


def test_without_a_reader_evaluations_retrieve_only(tmp_path):
    complete = toy_module(tmp_path)
    module = RetrievalModule(complete.retriever, complete.knowledge_base, hit_rate_ks=(1, 5))
    evaluations, logged, _ = evaluate(tmp_path, module)
    _, expected, _ = evaluate(tmp_path, complete)
    assert all(evaluation.num_read == 0 for evaluation in evaluations)
    names = {"validation/hr_at_1", "validation/hr_at_5", "validation/passage_words"}
    names.add("validation/index_is_fresh")
    assert {name: logged[name] for name in logged if name != "step"} == {n: expected[n] for n in names}


def test_nothing_is_trained_without_a_reader(tmp_path):
    module = RetrievalModule(tiny_retriever(), toy_knowledge_base(tmp_path), hit_rate_ks=(1, 5))
    with pytest.raises(MisconfigurationException, match="No `training_step"):
        trainer(tmp_path, max_steps=1).fit(module, toy_datamodule())


def test_nothing_is_generated_unless_asked_for(tmp_path):
    evaluations, logged, _ = evaluate(tmp_path, toy_module(tmp_path, generate=False))
    assert not any(evaluation.predictions for evaluation in evaluations)
    assert all(evaluation.read is not None for evaluation in evaluations)
    assert not {"validation/em", "validation/f1"} & logged.keys()
    assert "validation/kl" in logged


def test_evaluation_reads_as_training_does(tmp_path, monkeypatch):
    """The indicators measure the teacher that the retriever learns from."""
    module = toy_module(tmp_path)
    evaluations, _, datamodule = evaluate(tmp_path, module)
    trained = []
    log_p_target = ADist.log_p_target
    monkeypatch.setattr(
        ADist,
        "log_p_target",
        lambda objective, output, log_p: trained.append(output) or log_p_target(objective, output, log_p),
    )
    datamodule.train = datamodule.validation  # the same questions, in whatever order
    trainer(tmp_path, max_steps=2).fit(module, datamodule)
    in_training = {}
    for output in trained:
        for row, ids in enumerate(output.prompts.input_ids):
            real = output.prompts.attention_mask[row]
            in_training[tuple(ids[real].tolist())] = output.token_scores[row][real]
    compared = 0
    for evaluation in evaluations:
        output = evaluation.read.output
        prompts = output.prompts
        for row, ids in enumerate(prompts.input_ids):
            real = prompts.attention_mask[row]
            scores = in_training.get(tuple(ids[real].tolist()))
            if scores is not None:
                torch.testing.assert_close(output.token_scores[row][real], scores, rtol=1e-4, atol=1e-6)
                compared += 1
    assert compared >= 2


def test_a_step_reads_no_further_than_the_last_chosen_head(tmp_path):
    """And learns from the same target; what indicators may look at is read whole."""
    module = toy_module(tmp_path)
    module.reader = DecoderOnlyReader(
        module.reader.model, module.reader.prompts, AttentionHeads.parse("0.1,0.3")
    )
    module.index = build_index(module.retriever, module.knowledge_base)
    questions = toy_questions()[:2]
    batch = Batch(questions, module.retrieve(questions, 5), ["Paris", "Tokyo"])
    layers_ended = []
    for number, layer in enumerate(module.reader.model.model.layers):
        layer.register_forward_hook(lambda layer, args, output, number=number: layers_ended.append(number))
    of_step = module._read(batch)
    assert layers_ended == [], "the pass ends within the first layer"
    read = module.read_questions(batch)
    assert layers_ended == [0, 1]
    log_p_retr = module.log_p_retr(batch)
    assert torch.equal(module.objective.log_p_target(of_step, log_p_retr).exp(), read.p_target)
    assert of_step.hidden is None
    assert read.output.last_hidden.shape[:2] == read.output.token_scores.shape
