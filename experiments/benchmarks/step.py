"""One distillation step of a Lightning run, beside nothing but the models' passes that it cannot do without.

A step retrieves, builds prompts, reads with the capture, encodes, teaches, goes backward and updates. Beside
it, on the same questions and passages, tokenised beforehand: a forward pass of the reader up to its last
layer, of which the capture needs the queries and keys, and the passes of the retriever that the suite makes,
forward and backward. In every second step these come first.
"""

import contextlib
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import lightning as L
import torch
from torch import Tensor

from datamodules.batches import Batch, Passage, PromptBatch, Question
from datamodules.passages import build_knowledge_base
from datamodules.qa_datamodule import QuestionDataModule
from experiments.benchmarks import made_up
from experiments.benchmarks.comparison import (
    AtMost,
    Comparison,
    Setting,
    Size,
    Spread,
    agreement_of,
    seconds_of,
    wait_for,
)
from lightning_modules import RetrieverReaderModule
from lightning_modules.encoding import build_index
from lightning_modules.eval_mode import eval_mode
from lightning_modules.objectives import ADist
from lightning_modules.readers.base import Reader
from lightning_modules.retriever import Retriever, plain_attention_backward, training_parts

_BATCH_SIZE = 2
_WITHIN = 1e-4


def measure(setting: Setting) -> list[Comparison]:
    """Of two questions with five passages each, in float32."""
    reader, retriever, passages = _models_and_passages(setting)
    with TemporaryDirectory() as folder:
        knowledge_base = build_knowledge_base(passages, Path(folder) / "passages.arrow")
        module = RetrieverReaderModule(
            retriever,
            reader,
            knowledge_base,
            objective=ADist(attention_temperature=0.2),
            retrieval_temperature=0.05,
        ).to(setting.device)
        module.index = build_index(retriever, knowledge_base)
        both = _BothWays(setting)
        questions = _questions(passages, setting)
        datamodule = QuestionDataModule(questions, questions[:1], questions[:1], _BATCH_SIZE)
        _trainer(setting, Path(folder), both).fit(module, datamodule=datamodule, weights_only=True)
    what = f"{_BATCH_SIZE} questions of 5x128 tokens, fp32"
    step, models = Spread(both.step_s), Spread(both.models_s)
    baseline = "the models' passes alone"
    return [Comparison(what, baseline, step, models, AtMost(1.1), "; ".join(both.agreements))]


def _models_and_passages(setting: Setting) -> tuple[Reader, Retriever, list[Passage]]:
    if setting.size is Size.TINY:
        model = made_up.smollm2(setting.device, torch.float32, 2, 32, 4, 2, 48, made_up.VOCABULARY)
        encoder = made_up.bert(setting.device, torch.float32, 1, 32, 4, 48, made_up.VOCABULARY)
        passages = made_up.made_up_passages(20, 12)
        return made_up.decoder_only(model), made_up.retriever(encoder), passages
    from datamodules import embedded
    from lightning_modules.readers.families import load_reader

    reader = load_reader(embedded.reader_gguf(), context="independent").eval()
    retriever = Retriever.load(embedded.retriever_folder(), num_layers=3, normalize=True)
    return reader, retriever, list(embedded.read_vital_passages())[:1000]


def _questions(passages: Sequence[Passage], setting: Setting) -> list[Question]:
    number = _BATCH_SIZE * (setting.most_turns + 1)
    return [
        Question(f"q{i}", f"what is {passages[i].title}", (" ".join(passages[i].text.split()[:4]),))
        for i in range(number)
    ]


def _trainer(setting: Setting, folder: Path, callback: L.Callback) -> L.Trainer:
    return L.Trainer(
        accelerator="gpu" if setting.device.type == "cuda" else "cpu",
        devices=1,
        max_epochs=1,
        limit_val_batches=0,
        logger=False,
        callbacks=[callback],
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
        default_root_dir=folder,
    )


class _BothWays(L.Callback):
    """Times each step, and before or after it the passes alone on the same questions and passages.

    Attributes:
        step_s, models_s: seconds of each turn; the first, which warms up, is left out.
        agreements: how far what the passes give is the same.
    """

    def __init__(self, setting: Setting) -> None:
        self.setting = setting
        self.step_s: list[float] = []
        self.models_s: list[float] = []
        self.agreements: list[str] = []
        self._began = time.perf_counter()
        self._started = 0.0
        self._work: _Passes | None = None

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        assert isinstance(pl_module, RetrieverReaderModule)
        # what the step is about to retrieve
        answers = [question.answers[0] for question in batch]
        self._work = _Passes(pl_module, Batch(batch, pl_module.retrieve_candidates(batch), answers))
        if batch_idx == 0:  # this also warms both up
            self.agreements = self._work.agreements()
        elif _passes_come_first(batch_idx):
            self.models_s.append(seconds_of(self._work.run, self.setting.device))
        wait_for(self.setting.device)
        self._started = time.perf_counter()

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        assert self._work is not None, "the step has begun"
        wait_for(self.setting.device)
        step_s = time.perf_counter() - self._started
        if batch_idx == 0:
            self._work.run()
            return
        self.step_s.append(step_s)
        if not _passes_come_first(batch_idx):
            self.models_s.append(seconds_of(self._work.run, self.setting.device))
        if len(self.step_s) >= 2 and time.perf_counter() - self._began > self.setting.seconds:
            trainer.should_stop = True


def _passes_come_first(batch_idx: int) -> bool:
    return batch_idx % 2 == 0


class _Passes:
    """The passes of a step, of inputs that are ready."""

    def __init__(self, module: RetrieverReaderModule, batch: Batch) -> None:
        self.module = module
        self.batch = batch
        device = module.device
        self.prompts: PromptBatch = module.reader.prompts.build(batch).to(device)
        retriever = module.retriever
        texts = made_up.texts_of(batch.questions)
        self.queries = retriever.tokenizer(texts, padding=True, return_tensors="pt").to(device)
        passages = [passage for found in batch.passages for passage in found]
        self.passages = retriever.tokenize_passages(passages).to(device)

    def run(self) -> None:
        """Forward through both, and backward through the retriever."""
        with torch.no_grad(), self._without_last_layer():
            self.read()
        retriever, loss = self.module.retriever, torch.zeros((), device=self.module.device)
        for encoder, tokens in (
            (retriever.query_encoder, self.queries),
            (retriever.passage_encoder, self.passages),
        ):
            _, parts = training_parts(dict(tokens))
            with plain_attention_backward(encoder):
                for part in parts:
                    loss = loss + encoder(**part).last_hidden_state.sum()
        loss.backward()
        retriever.zero_grad(set_to_none=True)

    @contextlib.contextmanager
    def _without_last_layer(self) -> Iterator[None]:
        """So that none of its work, of which the capture needs a part, can hide what the suite adds."""
        model: Any = self.module.reader.model.base_model
        layers = model.layers
        model.layers = layers[:-1]
        try:
            yield
        finally:
            model.layers = layers

    def read(self) -> Tensor:
        """The reader's last hidden states."""
        mask = self.prompts.attention_mask.long()
        positions = (mask.cumsum(dim=1) - 1).clamp(min=0)
        model = self.module.reader.model.base_model
        output = model(
            input_ids=self.prompts.input_ids, attention_mask=mask, position_ids=positions, use_cache=False
        )
        return output.last_hidden_state

    @torch.no_grad()
    def agreements(self) -> list[str]:
        """That these are the passes that the suite makes."""
        retriever = self.module.retriever
        with eval_mode(retriever):
            mask = self.passages["attention_mask"][..., None].float()
            hidden_of_passages = retriever.passage_encoder(**self.passages).last_hidden_state
            pooled = (hidden_of_passages * mask).sum(dim=1) / mask.sum(dim=1)
            ours = retriever.embed_passages(self.passages)
        hidden = self.module.reader.read(self.batch).last_hidden
        real = self.prompts.attention_mask[..., None]
        return [
            agreement_of("hidden states", hidden * real, self.read() * real, _WITHIN),
            agreement_of("embeddings", ours, torch.nn.functional.normalize(pooled, dim=-1), _WITHIN),
        ]
