"""A reader's family is what its model's configuration says, or what is asked for."""

import pytest
import torch

from datamodules.prompts import Context
from lightning_modules.loading import ModelError
from lightning_modules.readers.decoder_only import DecoderOnlyReader
from lightning_modules.readers.families import AUTO, FAMILIES, load_reader
from lightning_modules.readers.fusion_in_decoder import FusionInDecoderReader
from tests.tiny_models import save_tiny_models

OF_MODEL = {"llama": DecoderOnlyReader, "falcon_rw": DecoderOnlyReader, "t5": FusionInDecoderReader}

pytestmark = pytest.mark.filterwarnings("ignore:.*tie_word_embeddings.*")


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    made = {name: tmp_path_factory.mktemp(name) for name in OF_MODEL}
    return {name: save_tiny_models(folder, name)[0] for name, folder in made.items()}


def test_families_are_named_as_they_call_themselves():
    assert {"decoder_only": DecoderOnlyReader, "fusion_in_decoder": FusionInDecoderReader} == FAMILIES
    assert AUTO not in FAMILIES


@pytest.mark.parametrize("model", OF_MODEL)
def test_auto_picks_the_family_of_the_model(folders, model):
    reader = load_reader(folders[model], max_tokens_per_passage=99)
    assert type(reader) is OF_MODEL[model]
    assert reader.prompts.max_tokens_per_passage == 99
    named = load_reader(folders[model], reader.family)
    for name, weight in reader.state_dict().items():
        assert torch.equal(named.state_dict()[name], weight), name


def test_a_family_takes_the_settings_that_it_has(folders):
    settings = {"context": "independent", "passage_order": "rank"}
    assert load_reader(folders["llama"], **settings).context is Context.INDEPENDENT
    assert load_reader(folders["t5"], **settings).context is None


def test_an_unknown_family_is_one_clear_error(folders):
    known = "auto, decoder_only, fusion_in_decoder"
    with pytest.raises(ValueError, match=f"family 'rnn' is unknown; choose one of: {known}"):
        load_reader(folders["llama"], "rnn")


@pytest.mark.parametrize(("model", "family"), [("t5", "decoder_only"), ("llama", "fusion_in_decoder")])
def test_a_model_of_another_family_is_refused(folders, model, family):
    with pytest.raises(ModelError, match="model where a"):
        load_reader(folders[model], family)
