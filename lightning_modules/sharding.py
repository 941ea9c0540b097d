"""A frozen reader whose layers are sharded over the processes of a run: each holds a part of every layer."""

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import distributed, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from transformers import PreTrainedModel

from lightning_modules.loading import ModelError


class ShardedLayers:
    """Shards the layers of a causal language model (FSDP2), and keeps the processes in step.

    A layer is gathered from all processes whenever one of them passes it, so that all must pass it equally
    often. They need not by themselves: answers end after other numbers of tokens, and of the last batch a
    process may have no question. So they tell each other before each pass of the model, and one that has
    nothing to read makes an empty pass beside the others'.

    Args:
        model: frozen; its embeddings and its output stay whole in each process.
        device: of this process.

    Raises:
        ModelError: a model that does not say what its layers are.
    """

    def __init__(self, model: PreTrainedModel, device: torch.device) -> None:
        self._base: nn.Module = model.base_model
        self._device = device
        self._fills_in = False
        # in main memory: numbers that decide what comes next need not wait for the device
        self._group = distributed.new_group(backend="gloo")
        mesh = init_device_mesh(device.type, (distributed.get_world_size(),))
        for layer in _layers(model):
            fully_shard(layer, mesh=mesh, reshard_after_forward=True)
        self._base.register_forward_pre_hook(self._announce)

    @contextlib.contextmanager
    def passes_of_all(self) -> Iterator[None]:
        """Passes of the model inside; all processes must enter it, and leave it together."""
        yield
        while self._any_has_pass(False):
            self._fills_in = True
            try:
                with torch.no_grad():
                    ids = torch.zeros(1, 1, dtype=torch.long, device=self._device)
                    self._base(input_ids=ids, use_cache=False)
            finally:
                self._fills_in = False

    def _announce(self, module: nn.Module, args: Any) -> None:
        if not self._fills_in:
            self._any_has_pass(True)

    def _any_has_pass(self, has_pass: bool) -> bool:
        flag = torch.tensor(int(has_pass))
        distributed.all_reduce(flag, op=distributed.ReduceOp.MAX, group=self._group)
        return bool(flag)


def _layers(model: PreTrainedModel) -> list[nn.Module]:
    kinds = set(model._no_split_modules or ())
    layers = [module for module in model.modules() if type(module).__name__ in kinds]
    if not layers:
        raise ModelError(f"strategy: a {model.config.model_type} model cannot be sharded; set it to ddp")
    return layers
