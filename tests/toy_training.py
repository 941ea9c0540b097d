"""Tiny models in a real Trainer, for the tests of callbacks."""

from dataclasses import fields
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import Callback, Checkpoint

from datamodules.qa_datamodule import QuestionDataModule
from lightning_modules import RetrieverReaderModule
from lightning_modules.objectives import OBJECTIVES, make_objective
from lightning_modules.optimization import LearningRate, LearningRateDecay
from tests.tiny_models import tiny_reader, tiny_retriever, toy_knowledge_base, toy_questions

LIGHTNING_ADVICE = (
    "ignore:.*does not have many workers.*",
    "ignore:.*GPU available but not used.*",
    "ignore:.*eval mode at the start of training.*",
    "ignore:.*`LightningDataModule`.*weights_only.*",
    "ignore:.*Checkpoint directory .* exists and is not empty.*",
)
"""For `pytest.mark.filterwarnings`: what Lightning says about runs that are small on purpose."""


class OneNumber(L.LightningModule):
    """Trains a number; enough where nothing but stopping follows."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))

    def training_step(self, batch, batch_idx):
        return self.weight.sum()

    def validation_step(self, batch, batch_idx):
        return None

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


def toy_datamodule(**settings: Any) -> QuestionDataModule:
    questions = toy_questions()
    splits = {"train": questions, "validation": questions[:4], "test": questions[4:10]}
    return QuestionDataModule(**{**splits, "batch_size": 2, "evaluation_batch_size": 2, **settings})


def toy_module(folder: Path, **settings: Any) -> RetrieverReaderModule:
    """`settings` of the module, its `reader` or its objective; `objective` is the name of one."""
    reader = settings.pop("reader", None) or tiny_reader()
    rate = LearningRate(1e-3, decay=LearningRateDecay.CONSTANT)
    of_objectives = {field.name for objective in OBJECTIVES.values() for field in fields(objective)}
    own = {name: settings.pop(name) for name in of_objectives & settings.keys()}
    objective = make_objective(settings.pop("objective", "adist"), **{"attention_temperature": 0.05, **own})
    defaults = {
        "retriever_rate": rate,
        "reader_rate": rate,
        "hit_rate_ks": (1, 5),
        "max_new_tokens": 3,
        "objective": objective,
        "retrieval_temperature": 0.05,
    }
    retriever = tiny_retriever(normalize=True)
    return RetrieverReaderModule(retriever, reader, toy_knowledge_base(folder), **{**defaults, **settings})


def break_question(module: RetrieverReaderModule, question_id: str) -> None:
    """From now on p_RETR of a question is not a number in training, nor is its gradient."""
    log_p_retr = module.log_p_retr

    def broken(batch, in_batch=False):
        found = log_p_retr(batch, in_batch)
        if torch.is_grad_enabled():
            factors = [torch.nan if question.id == question_id else 1.0 for question in batch.questions]
            found = found * torch.tensor(factors)[:, None]
        return found

    module.log_p_retr = broken  # type: ignore[method-assign]


def toy_trainer(folder: Path, callbacks: list[Callback], **settings: Any) -> L.Trainer:
    defaults = {
        "max_steps": 4,
        "max_epochs": -1,
        "limit_val_batches": 0,
        "val_check_interval": 1000,
        "check_val_every_n_epoch": None,
        "num_sanity_val_steps": 0,
        "log_every_n_steps": 1,
        "logger": False,
        "enable_checkpointing": any(isinstance(callback, Checkpoint) for callback in callbacks),
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "inference_mode": False,
        "use_distributed_sampler": False,
        "accelerator": "cpu",
        "devices": 1,
        "default_root_dir": folder,
    }
    return L.Trainer(callbacks=callbacks, **{**defaults, **settings})
