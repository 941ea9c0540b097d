"""Every objective trains the retriever from every kind of reader, and reaches nothing else."""

import lightning as L
import pytest
import torch

from callbacks.log_indicators import LogIndicators
from datamodules.batches import Batch
from datamodules.prompts import Shown
from datamodules.qa_datamodule import QuestionDataModule
from lightning_modules import RetrieverReaderModule
from lightning_modules.objectives import EMDR2, LOOP, OBJECTIVES, ADist, PDist, make_objective
from lightning_modules.optimization import LearningRate, LearningRateDecay
from lightning_modules.readers.outputs import AnswerLikelihoods, AttentionOutput
from lightning_modules.token_drops import TokenDrops
from tests.tiny_models import (
    tiny_fusion_reader,
    tiny_reader_of,
    tiny_retriever,
    toy_knowledge_base,
    toy_passages,
    toy_questions,
)

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*does not have many workers.*"),
    pytest.mark.filterwarnings("ignore:.*eval mode at the start of training.*"),
    pytest.mark.filterwarnings("ignore:GPU available but not used.*"),
    pytest.mark.filterwarnings("ignore:.*'set_vital' is deprecated.*"),
    pytest.mark.filterwarnings("ignore:.*LeafSpec.*"),
]

QUESTIONS = toy_questions()[:4]
ANSWERS = [question.answers[0] for question in QUESTIONS]
KINDS = ["concatenated", "independent", "fusion_in_decoder"]
FITTING = [
    (name, kind)
    for name, objective in OBJECTIVES.items()
    for kind in KINDS
    if objective().unfit(tiny_reader_of(kind)) is None
]
"""Objectives with the readers that they can learn from."""


def make_module(folder, kind: str = "concatenated", reader=None, **settings) -> RetrieverReaderModule:
    """A module whose index always finds the same passages, so that losses of two steps can be compared."""
    module = RetrieverReaderModule(
        tiny_retriever(normalize=True),
        tiny_reader_of(kind) if reader is None else reader,
        toy_knowledge_base(folder),
        retriever_rate=LearningRate(2e-3, decay=LearningRateDecay.CONSTANT),
        num_passages=4,
        retrieval_temperature=0.1,
        hit_rate_ks=(1, 4),
        max_new_tokens=2,
        **settings,
    )
    module.retrieve = lambda questions, k: [passages_of(question) for question in questions]
    module.retrieve_candidates = lambda questions, seed: module.retrieve(questions, 4)
    return module


def passages_of(question):
    i, passages = int(question.id[1:]), toy_passages()
    return [passages[j] for j in (i, (i + 5) % 12, 12 + i, 12 + (i + 1) % 12)]


class Watch(L.Callback):
    """The losses of all steps, and whose weights ever got a gradient."""

    def __init__(self):
        self.losses, self.reached = [], set()

    def on_after_backward(self, trainer, module):
        self.reached |= {n.partition(".")[0] for n, p in module.named_parameters() if p.grad is not None}

    def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx):
        self.losses.append(float(outputs["loss"]))


def make_trainer(folder, *callbacks, **settings) -> L.Trainer:
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    return L.Trainer(
        callbacks=list(callbacks),
        accelerator="cpu",
        enable_checkpointing=False,
        default_root_dir=folder,
        num_sanity_val_steps=0,
        **quiet,
        **settings,
    )


def datamodule() -> QuestionDataModule:
    """One batch an epoch, always of the same questions."""
    splits = {"train": QUESTIONS, "validation": QUESTIONS, "test": QUESTIONS}
    return QuestionDataModule(**splits, batch_size=4, evaluation_batch_size=2)


@pytest.mark.parametrize(
    ("objective", "kind"), [(name, kind) for name, kind in FITTING if name != "uniform"]
)  # which teaches next to nothing
def test_loss_falls_and_the_gradient_is_the_retrievers(tmp_path, kind, objective):
    module = make_module(tmp_path, kind, objective=make_objective(objective, attention_temperature=0.05))
    before = {name: weight.clone() for name, weight in module.reader.state_dict().items()}
    batch = Batch(QUESTIONS, module.retrieve(QUESTIONS, 4), ANSWERS)
    with torch.no_grad():
        output = module.objective.read(module.reader, batch)
    floor = least_loss(module.objective, output)
    watch = Watch()
    trainer = make_trainer(tmp_path, watch, max_steps=20, max_epochs=-1, limit_val_batches=0)
    trainer.fit(module, datamodule())
    assert watch.losses[0] - floor > 0.01, "nothing to learn"
    assert watch.losses[-1] - floor < 0.5 * (watch.losses[0] - floor)
    assert watch.reached == {"retriever"}
    assert all(torch.equal(before[name], weight) for name, weight in module.reader.state_dict().items())


@pytest.mark.parametrize("kind", KINDS)
def test_emdr2_has_a_temperature_of_its_own(tmp_path, kind):
    """The one that divides the scores of the other objectives would make the reader's choice a hard one."""
    module = make_module(tmp_path, kind)
    batch = Batch(QUESTIONS, module.retrieve(QUESTIONS, 4), ANSWERS)
    with torch.no_grad():
        plain = make_objective("emdr2", attention_temperature=0.05).read(module.reader, batch)
        divided = EMDR2(reader_temperature=0.5).read(module.reader, batch)
        expected = module.reader.answer_likelihoods(batch, Shown.EACH_ALONE)
        halved = module.reader.answer_likelihoods(batch, Shown.EACH_ALONE, temperature=0.5)
    torch.testing.assert_close(plain.log_probs, expected.log_probs)
    torch.testing.assert_close(divided.log_probs, halved.log_probs)
    assert not torch.allclose(plain.log_probs, divided.log_probs)


def least_loss(objective, output) -> float:
    """0 for a KL; the best that any p_RETR can do for a likelihood, found by gradient descent."""
    if objective.loss_name == "kl":
        return 0.0
    scores = torch.zeros(len(QUESTIONS), 4, requires_grad=True)
    optimizer = torch.optim.Adam([scores], lr=0.5)
    for _ in range(60):
        optimizer.zero_grad()
        log_p_retr = scores.log_softmax(dim=-1)
        loss = objective.loss(objective.log_p_target(output, log_p_retr), log_p_retr, output)
        loss.backward()
        optimizer.step()
    return loss.item()


@pytest.mark.parametrize(("objective", "kind"), FITTING)
@pytest.mark.parametrize("how", list(TokenDrops))
def test_validation_measures_what_the_objective_looks_at(tmp_path, kind, objective, how):
    """In Lightning's inference mode, from which the gradients of likelihoods must break out."""
    module = make_module(tmp_path, kind, objective=make_objective(objective), token_drops=how)
    indicators = LogIndicators()
    trainer = make_trainer(tmp_path, indicators)
    (logged,) = trainer.validate(module, datamodule(), verbose=False)
    assert logged[f"validation/{module.objective.loss_name}"] > 0
    assert 0 < indicators.latest["indicator1/attention_p90"] < 1
    assert -1 <= indicators.latest["indicator1/spearman_p90"] <= 1  # of tiny passages
    assert 0 <= indicators.latest["teacher/auc"] <= 1


def test_validation_masks_tokens_for_real_where_it_is_asked_to(tmp_path):
    spearman = {}
    for how in ("gradient", "masked"):
        indicators = LogIndicators()
        module = make_module(tmp_path / how, "independent", objective=PDist(), token_drops=how)
        make_trainer(tmp_path, indicators).validate(module, datamodule(), verbose=False)
        spearman[how] = indicators.latest["indicator1/spearman_p90"]
    assert spearman["gradient"] != spearman["masked"]


def test_attention_over_the_prompt_needs_scores_of_all_of_it(tmp_path):
    settings = {"objective": PDist(), "attention_normalization": "prompt"}
    with pytest.raises(ValueError, match="token_drops=masked_prompt"):
        make_module(tmp_path, "independent", **settings)
    module = make_module(tmp_path, "independent", **settings, token_drops="masked_prompt")
    indicators = LogIndicators()
    make_trainer(tmp_path, indicators).validate(module, datamodule(), verbose=False)
    shares = indicators.latest["indicator1/attention_p90"]
    module = make_module(tmp_path, "independent", objective=PDist(), token_drops="masked_prompt")
    make_trainer(tmp_path, indicators).validate(module, datamodule(), verbose=False)
    assert 0 < shares < indicators.latest["indicator1/attention_p90"], "a part of what the prompt gets"


def test_one_pass_serves_both_models_where_it_can(tmp_path):
    """ADist without dropout; any other objective, or dropout, needs a pass of its own."""
    for objective, dropout, shared in ((ADist(), 0.0, True), (ADist(), 0.5, False), (PDist(), 0.0, False)):
        reader = tiny_fusion_reader(dropout=dropout).train()
        module = make_module(tmp_path, reader=reader, objective=objective, train_reader=True)
        batch = Batch(QUESTIONS, module.retrieve(QUESTIONS, 4), ANSWERS)
        student = module.reader.read_answer(batch)
        output = module._read(batch, student)
        assert (output is student) is shared
        assert isinstance(output, AttentionOutput if isinstance(objective, ADist) else AnswerLikelihoods)
        assert student.label_log_probs.requires_grad


def test_leave_one_out_of_one_passage_is_refused(tmp_path):
    knowledge_base = toy_knowledge_base(tmp_path)
    with pytest.raises(ValueError, match="num_passages is 1; objective loop needs at least 2"):
        RetrieverReaderModule(
            tiny_retriever(),
            tiny_fusion_reader(),
            knowledge_base,
            objective=LOOP(),
            num_passages=1,
        )
