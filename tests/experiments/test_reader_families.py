"""Which reader an experiment builds from a model, and what it says to the wrong one."""

from dataclasses import replace

import pytest

from experiments.build import build_reader
from experiments.checks import check_config
from experiments.config import ConfigError, load_config
from lightning_modules.loading import ModelError
from lightning_modules.readers.decoder_only import DecoderOnlyReader
from lightning_modules.readers.fusion_in_decoder import FusionInDecoderReader
from tests.tiny_models import save_tiny_models


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """Folders of a reader of each family."""
    folder = tmp_path_factory.mktemp("models")
    return {family: save_tiny_models(folder / family, family)[0] for family in ("falcon_rw", "t5")}


@pytest.mark.parametrize(
    ("experiment", "model", "reader_class"),
    [
        ("step2_vital", "falcon_rw", DecoderOnlyReader),
        ("step2_vital", "t5", FusionInDecoderReader),
        ("perplexity_vital", "t5", FusionInDecoderReader),
        ("offshelf_nq", "falcon_rw", DecoderOnlyReader),
        ("atlas_large_nq", "t5", FusionInDecoderReader),
        ("perplexity_triviaqa", "t5", FusionInDecoderReader),
    ],
)
def test_family_is_the_models(models, experiment, model, reader_class):
    reader = build_reader(load_config(experiment, [f"reader.name={models[model]}"]))
    assert isinstance(reader, reader_class)


@pytest.mark.parametrize(
    ("experiment", "model", "message"),
    [
        ("offshelf_nq", "t5", "t5 is an encoder-decoder model where a decoder-only reader is expected"),
        ("atlas_large_nq", "falcon_rw", "falcon is a decoder-only model where a T5 is expected"),
    ],
)
def test_the_wrong_family_is_refused_where_the_experiment_says_so(models, experiment, model, message):
    config = load_config(experiment, [f"reader.name={models[model]}"])
    with pytest.raises(ModelError, match=f"{message}.*reader.family=auto"):
        build_reader(config)
    config.reader.family = "auto"
    build_reader(config)


def test_untied_output_matrix_survives_saving(models, tmp_path):
    reader = build_reader(load_config("atlas_large_nq", [f"reader.name={models['t5']}"]))
    weights = reader.model.lm_head.weight
    assert weights is not reader.model.shared.weight
    reader.save(tmp_path / "reader")
    again = build_reader(load_config("atlas_large_nq", [f"reader.name={tmp_path / 'reader'}"]))
    assert (again.model.lm_head.weight == weights).all()


def test_settings_that_cannot_be_are_refused():
    with pytest.raises(ConfigError, match=r"objective\.name='pdst' is unknown; choose one of: adist, pdist"):
        check_config(load_config("step2_vital", ["objective.name=pdst"]))
    with pytest.raises(ConfigError, match=r"training\.num_passages must be at least 2"):
        check_config(load_config("step2_vital", ["objective.name=loop", "training.num_passages=1"]))


@pytest.mark.parametrize("data", ["nq", "triviaqa"])
def test_perplexity_differs_from_atlas_large_in_the_objective(data):
    objectives = [load_config(f"{setting}_{data}").objective for setting in ("atlas_large", "perplexity")]
    assert [objective.name for objective in objectives] == ["adist", "pdist"]
    assert objectives[0] == replace(objectives[1], name="adist")
