import pytest
from torch import nn

from lightning_modules.eval_mode import eval_mode


def mixed_model():
    """One part in eval mode inside a model in train mode."""
    model = nn.Sequential(nn.Dropout(0.5), nn.Sequential(nn.Linear(2, 2), nn.Dropout(0.5))).train()
    model[1].eval()
    model[1][1].train()
    return model


def modes(model):
    return [module.training for module in model.modules()]


def test_every_part_is_back_in_its_own_mode():
    model = mixed_model()
    before = modes(model)
    assert set(before) == {True, False}
    with eval_mode(model):
        assert not any(modes(model))
    assert modes(model) == before


def test_also_after_an_error():
    model = mixed_model()
    before = modes(model)
    with pytest.raises(KeyError), eval_mode(model):
        raise KeyError
    assert modes(model) == before


def test_may_be_nested():
    model = mixed_model()
    before = modes(model)
    with eval_mode(model), eval_mode(model):
        assert not any(modes(model))
    assert modes(model) == before
