"""What can be loaded, what is refused, and that the message says how to mend it."""

import json
import shutil
import threading
from pathlib import Path

import huggingface_hub.constants
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import T5Config, T5ForConditionalGeneration

from lightning_modules.loading import ModelError, load_causal_lm, load_encoder, save_pretrained
from tests.model_hub import serve_models
from tests.tiny_models import save_tiny_models, tiny_bert, tiny_llama, tiny_tokenizer


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """{"reader": folder, "retriever": folder, "t5": folder}"""
    folder = tmp_path_factory.mktemp("models")
    reader, retriever = save_tiny_models(folder)
    config = T5Config(vocab_size=400, d_model=8, d_ff=8, d_kv=4, num_layers=1, num_heads=2)
    save_pretrained(T5ForConditionalGeneration(config), tiny_tokenizer(), folder / "t5")
    return {"reader": reader, "retriever": retriever, "t5": folder / "t5"}


@pytest.fixture(params=["reader", "retriever"])
def kind(request):
    return request.param


LOAD = {"reader": load_causal_lm, "retriever": load_encoder}


def copy_of(folder, target):
    """A copy to be broken."""
    shutil.copytree(folder, target)
    return target


# ------------------------------------------------------------------------------------------------- loads
def test_a_reader_is_what_was_saved(saved):
    model, tokenizer = load_causal_lm(saved["reader"])
    expected = tiny_llama(len(tiny_tokenizer())).state_dict()
    assert model.state_dict().keys() == expected.keys()
    assert all(torch.equal(weight, expected[name]) for name, weight in model.state_dict().items())
    assert model.config._attn_implementation == "sdpa"
    text = "Question: what is the capital?\nAnswer: São 東京"
    assert tokenizer(text)["input_ids"] == tiny_tokenizer()(text)["input_ids"]
    assert (tokenizer.eos_token, tokenizer.pad_token) == ("</s>", "<pad>")


def test_weights_of_another_dtype(saved):
    model, _ = load_causal_lm(saved["reader"], dtype=torch.bfloat16)
    assert {weight.dtype for weight in model.parameters()} == {torch.bfloat16}


def test_an_encoder_keeps_its_first_layers(saved):
    whole, _ = load_encoder(saved["retriever"])
    cut, _ = load_encoder(saved["retriever"], num_layers=2)
    assert len(whole.encoder.layer) == 3
    assert len(cut.encoder.layer) == 2
    expected = tiny_bert(len(tiny_tokenizer())).state_dict()
    assert all(torch.equal(weight, expected[name]) for name, weight in cut.state_dict().items())
    ids = torch.tensor([[5, 6, 7]])
    with torch.no_grad():
        hidden = whole(ids, output_hidden_states=True).hidden_states[2]
        torch.testing.assert_close(cut.eval()(ids).last_hidden_state, hidden)


def test_dropout_is_set_everywhere_or_left_alone(saved):
    def rates(model):
        return {module.p for module in model.modules() if isinstance(module, nn.Dropout)}

    assert rates(load_encoder(saved["retriever"])[0]) == {0.0}
    model, _ = load_encoder(saved["retriever"], dropout=0.3)
    assert rates(model) == {0.3}
    model.train()
    ids = torch.tensor([[5, 6, 7]])
    assert not torch.equal(model(ids).last_hidden_state, model(ids).last_hidden_state)


def test_a_model_of_the_hub_is_fetched_once(saved, tmp_path, kind, monkeypatch):
    """Nor does a thread of transformers have the older weights converted, and fetch the result."""
    files = {path.name: path.read_bytes() for path in saved[kind].iterdir() if path.is_file()}
    (tmp_path / "model.safetensors").write_bytes(files.pop("model.safetensors"))
    weights = load_file(tmp_path / "model.safetensors")
    torch.save(weights, tmp_path / "pytorch_model.bin")
    files["pytorch_model.bin"] = (tmp_path / "pytorch_model.bin").read_bytes()
    monkeypatch.delenv("DISABLE_SAFETENSORS_CONVERSION", raising=False)
    with serve_models(str(tmp_path / "cache"), monkeypatch) as hub:
        hub.add("owner/name", "a" * 40, files)
        for _ in range(2):
            model, tokenizer = LOAD[kind]("owner/name")
        wait_for_threads_of_transformers()
    assert all(torch.equal(model.state_dict()[name], value) for name, value in weights.items())
    assert len(tokenizer) == len(tiny_tokenizer())
    assert sorted(hub.sent) == sorted(f"owner/name/{name}" for name in files)
    listings = {path for path in hub.asked if path.startswith("api/models/")}
    assert listings == {f"api/models/owner/name/revision/{'a' * 40}"}


def wait_for_threads_of_transformers():
    for thread in threading.enumerate():
        if thread.name == "Thread-auto_conversion":
            thread.join()


# ----------------------------------------------------------------------------------------------- refused
@pytest.mark.parametrize("num_layers", [0, 4, -1])
def test_layers_that_there_are_not_are_refused(saved, num_layers):
    with pytest.raises(ModelError, match=rf"has 3 layers; num_layers={num_layers} is not within"):
        load_encoder(saved["retriever"], num_layers=num_layers)


def test_a_missing_folder_is_named(tmp_path, kind):
    with pytest.raises(ModelError, match=rf"^{kind} .*nowhere: there is no such folder$"):
        LOAD[kind](tmp_path / "nowhere")


def test_a_missing_gguf_file_is_named(tmp_path):
    with pytest.raises(ModelError, match=r"reader .*model\.gguf: there is no such file"):
        load_causal_lm(tmp_path / "model.gguf")


def test_a_name_that_the_hub_does_not_give_tells_the_way_around(monkeypatch, kind):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(ModelError, match=r"not on this machine.*--local-dir no-such.*set name to"):
        LOAD[kind]("nobody-here/no-such")


def test_encoder_decoders_are_refused_for_both(saved):
    with pytest.raises(ModelError, match="t5 is an encoder-decoder model where a decoder-only reader"):
        load_causal_lm(saved["t5"])
    with pytest.raises(ModelError, match="a t5 model is no encoder"):
        load_encoder(saved["t5"])


def test_a_decoder_is_no_encoder(saved):
    with pytest.raises(ModelError, match="a llama model is no encoder"):
        load_encoder(saved["reader"])


def test_an_encoder_is_no_decoder(saved):
    with pytest.raises(ModelError, match="bert"):
        load_causal_lm(saved["retriever"])


def one_line(error):
    return "\n" not in str(error.value)


def test_a_folder_without_a_model_is_refused(tmp_path, kind):
    with pytest.raises(ModelError, match=rf"{kind} .*cannot be loaded from this folder") as error:
        LOAD[kind](tmp_path)
    assert one_line(error)


@pytest.mark.parametrize("damage", ["cut", "garbage", "empty"])
def test_damaged_weights_are_refused(saved, tmp_path, kind, damage):
    folder = copy_of(saved[kind], tmp_path / "damaged")
    weights = (folder / "model.safetensors").read_bytes()
    broken = {"cut": weights[:-100], "garbage": b"\xff" * 500, "empty": b""}[damage]
    (folder / "model.safetensors").write_bytes(broken)
    with pytest.raises(ModelError, match=rf"{kind} .*damaged: cannot be loaded from this folder") as error:
        LOAD[kind](folder)
    assert one_line(error)


def test_a_damaged_configuration_is_refused(saved, tmp_path, kind):
    folder = copy_of(saved[kind], tmp_path / "damaged")
    (folder / "config.json").write_text("{")
    with pytest.raises(ModelError, match="cannot be loaded from this folder"):
        LOAD[kind](folder)


def test_weights_that_do_not_fit_the_configuration_are_refused(saved, tmp_path, kind):
    folder = copy_of(saved[kind], tmp_path / "other")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "hidden_size": 64}))
    with pytest.raises(ModelError, match="cannot be loaded from this folder"):
        LOAD[kind](folder)


def test_missing_weights_are_not_made_up(saved, tmp_path, kind):
    folder = copy_of(saved[kind], tmp_path / "partial")
    weights = load_file(folder / "model.safetensors")
    lost = next(name for name in sorted(weights) if "layer" in name)
    del weights[lost]
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelError, match=rf"{kind} .*weights"):
        LOAD[kind](folder)


def test_older_weights_are_loaded_as_tensors(saved, tmp_path, kind):
    """Contriever's repository holds a pytorch_model.bin."""
    folder = copy_of(saved[kind], tmp_path / "older")
    weights = load_file(folder / "model.safetensors")
    torch.save(weights, folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    model, _ = LOAD[kind](folder)
    loaded = model.state_dict()
    assert all(torch.equal(loaded[name], value) for name, value in weights.items())


class Payload:
    """What a hostile pickle does when it is loaded."""

    def __init__(self, path) -> None:
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def test_code_in_a_pickle_is_not_run(saved, tmp_path, kind):
    folder = copy_of(saved[kind], tmp_path / "hostile")
    ran = tmp_path / "ran"
    torch.save({"weight": torch.zeros(1), "more": Payload(ran)}, folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    with pytest.raises(ModelError, match="cannot be loaded from this folder"):
        LOAD[kind](folder)
    assert not ran.exists()


def test_code_in_a_model_folder_is_not_run(saved, tmp_path, kind):
    folder = copy_of(saved[kind], tmp_path / "remote")
    ran = tmp_path / "ran"
    (folder / "custom.py").write_text(f"open({str(ran)!r}, 'w').close()\n")
    config = json.loads((folder / "config.json").read_text())
    config["model_type"] = "custom"
    classes = ("AutoConfig", "AutoModel", "AutoModelForCausalLM")
    config["auto_map"] = dict.fromkeys(classes, "custom.Custom")
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(ModelError, match="cannot be loaded from this folder"):
        LOAD[kind](folder)
    assert not ran.exists()


def test_a_missing_tokenizer_is_refused(saved, tmp_path, kind):
    folder = copy_of(saved[kind], tmp_path / "mute")
    for file in folder.glob("tokenizer*"):
        file.unlink()
    with pytest.raises(ModelError, match="cannot be loaded from this folder"):
        LOAD[kind](folder)
