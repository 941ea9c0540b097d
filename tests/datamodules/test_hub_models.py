"""Models from a hub of the test's own: which files come, when, and what is said where they do not."""

import contextlib
import json
import shutil
from pathlib import Path

import huggingface_hub.constants as constants
import pytest
from huggingface_hub import hf_hub_download

from datamodules import hub_models
from datamodules.downloads import DownloadError
from datamodules.errors import DataError
from datamodules.hub_models import fetch_model, is_hub_name, verify_model
from tests.model_hub import serve_models

FIRST, SECOND = "a" * 40, "b" * 40
SMALL = {"config.json": b"{}", "tokenizer.json": b"{...}", "vocab.txt": b"a b c"}
OLDER = {**SMALL, "pytorch_model.bin": bytes(300_000)}
OTHERS = {
    "README.md": b"#",
    "code.py": b"pass",
    "tf_model.h5": bytes(9),
    "onnx/model.onnx": bytes(9),
    "onnx/config.json": b"{}",
}
MODEL = "owner/name"


@pytest.fixture
def hub(tmp_path, monkeypatch):
    with serve_models(str(tmp_path / "cache"), monkeypatch) as served:
        yield served


@contextlib.contextmanager
def silent(name):
    yield lambda done, total: None


def sent(hub):
    return sorted(path.removeprefix(f"{MODEL}/") for path in hub.sent)


def test_a_model_of_sentence_transformers_comes_with_how_it_embeds(hub):
    modules = [{"type": "sentence_transformers.models.Pooling", "path": "1_Pooling"}]
    files = {
        **OLDER,
        "modules.json": json.dumps(modules).encode(),
        "1_Pooling/config.json": b'{"pooling_mode_cls_token": true}',
    }
    hub.add(MODEL, FIRST, {**OTHERS, **files})
    folder = fetch_model(MODEL)
    pooling = folder / "1_Pooling" / "config.json"
    assert pooling.read_bytes() == files["1_Pooling/config.json"]
    assert sent(hub) == sorted(files)
    pooling.unlink()
    fetch_model(MODEL)
    assert pooling.is_file(), "a model without its pooling is not whole"


CLS = {
    **SMALL,
    "model.safetensors": bytes(99),
    "modules.json": b'[{"type": "sentence_transformers.models.Pooling", "path": "1_Pooling"}]',
    "1_Pooling/config.json": b'{"pooling_mode_cls_token": true}',
}


def cached_by_transformers(hub, files, *others):
    """Configuration, tokenizer and weights, as `AutoModel` and `AutoTokenizer` ask for them."""
    hub.add(MODEL, FIRST, files)
    for name in ("config.json", "tokenizer.json", "model.safetensors", *others):
        path = hf_hub_download(MODEL, name)
    hub.asked.clear()
    return Path(path).parent


def test_how_a_model_embeds_is_asked_for_where_it_was_left_out(hub):
    folder = cached_by_transformers(hub, CLS)
    assert fetch_model(MODEL, "reader") == folder
    assert hub.asked == []
    assert fetch_model(MODEL, "retriever") == folder
    assert (folder / "modules.json").read_bytes() == CLS["modules.json"]
    assert (folder / "1_Pooling" / "config.json").is_file()
    hub.asked.clear()
    assert fetch_model(MODEL, "retriever") == folder
    assert hub.asked == []


def test_that_a_model_says_nothing_of_it_is_asked_once(hub):
    plain = {**SMALL, "model.safetensors": bytes(99)}
    folder = cached_by_transformers(hub, plain)
    assert fetch_model(MODEL, "retriever") == folder
    assert len(hub.asked) > 0
    hub.asked.clear()
    hub_models._ask_for_modules.cache_clear()  # as in another process
    assert fetch_model(MODEL, "retriever") == folder
    hub.add("owner/other", FIRST, plain)
    fetch_model("owner/other", "retriever")
    hub.asked.clear()
    fetch_model("owner/other", "retriever")
    assert hub.asked == [], "nor is it of what the suite has downloaded itself"


def test_how_a_model_embeds_without_network(hub, monkeypatch, caplog):
    folder = cached_by_transformers(hub, CLS)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    for _ in range(2):
        assert fetch_model(MODEL, "retriever") == folder
    [record] = caplog.records
    assert "retriever owner/name: modules.json, by which" in record.message
    assert "set pooling" in record.message
    hub_models._ask_for_modules.cache_clear()
    (folder / "config_sentence_transformers.json").write_text("{}")
    with pytest.raises(
        DownloadError, match=r"says that it is a model of sentence-transformers.*`hf download"
    ):
        fetch_model(MODEL, "retriever")


def test_what_is_needed_comes_once(hub):
    hub.add(MODEL, FIRST, {**OTHERS, **OLDER})
    told = []

    @contextlib.contextmanager
    def show(name):
        yield lambda done, total: told.append((name, done, total))

    folder = fetch_model(MODEL, show=show)
    assert folder.name == FIRST
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == OLDER
    assert sent(hub) == sorted(OLDER)
    size = sum(map(len, OLDER.values()))
    assert told[-1] == (MODEL, size, size)
    assert [done for _, done, _ in told] == sorted(done for _, done, _ in told)
    assert verify_model(folder, silent) == size
    hub.asked.clear()
    assert fetch_model(MODEL) == folder
    assert hub.asked == [], "nothing is asked of the hub again"


@pytest.mark.parametrize(
    ("weights", "expected"),
    [
        (["model.safetensors", "pytorch_model.bin"], ["model.safetensors"]),
        (["pytorch_model.bin", "tf_model.h5"], ["pytorch_model.bin"]),
        (
            ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors", "pytorch_model.bin"],
            ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"],
        ),
    ],
)
def test_weights_come_in_one_format(hub, weights, expected):
    hub.add(MODEL, FIRST, SMALL | {name: name.encode() for name in weights})
    folder = fetch_model(MODEL, show=silent)
    assert sent(hub) == sorted([*SMALL, *expected])
    (folder / expected[-1]).unlink()
    assert fetch_model(MODEL, show=silent) == folder
    assert (folder / expected[-1]).is_file(), "what is not whole is completed"


def test_a_revision_stays(hub):
    """A name without one means what was the newest when it was first downloaded."""
    hub.add(MODEL, FIRST, OLDER)
    assert fetch_model(MODEL, show=silent).name == FIRST
    hub.add(MODEL, SECOND, OLDER)
    assert fetch_model(MODEL, show=silent).name == FIRST
    assert fetch_model(f"{MODEL}@{SECOND}", show=silent).name == SECOND
    assert fetch_model(f"{MODEL}@{FIRST}", show=silent).name == FIRST


def test_a_download_that_was_killed_is_completed(hub):
    hub.add(MODEL, FIRST, OLDER)
    kept = hub.models[MODEL, FIRST].pop("pytorch_model.bin")
    with pytest.raises(DataError, match="owner/name: it holds no weights that can be loaded"):
        fetch_model(MODEL, show=silent)
    hub.models[MODEL, FIRST]["pytorch_model.bin"] = kept
    assert fetch_model(MODEL, show=silent).name == FIRST
    assert sent(hub) == sorted(OLDER), "each file once"


def test_no_room_for_the_weights(hub, monkeypatch):
    hub.add(MODEL, FIRST, OLDER)
    usage = shutil.disk_usage("/")._replace(free=200_000)
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: usage)
    with pytest.raises(DataError, match=r"0\.3 MB are to come, and 0\.2 MB are free in .*HF_HOME"):
        fetch_model(MODEL, show=silent)


def test_a_file_that_was_changed_is_found(hub):
    hub.add(MODEL, FIRST, OLDER)
    folder = fetch_model(MODEL, show=silent)
    (folder / "pytorch_model.bin").resolve().write_bytes(bytes(299_999) + b"1")
    with pytest.raises(
        DataError, match=r"its sha256 is .* delete it, and .*pytorch_model\.bin, and download"
    ):
        verify_model(folder, silent)


def test_what_the_hub_does_not_give(hub, tmp_path, monkeypatch):
    with pytest.raises(DownloadError, match=r"^reader owner/name@v1: not on this machine.*") as refused:
        fetch_model("owner/name@v1", "reader")
    assert "`hf download owner/name --revision v1 --local-dir name`" in str(refused.value)
    assert "\n" not in str(refused.value)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(DownloadError, match="not on this machine"):
        fetch_model(MODEL)
    with pytest.raises(DownloadError, match="there is no such folder"):
        fetch_model(tmp_path / "nowhere")
    assert fetch_model(tmp_path) == tmp_path


@pytest.mark.parametrize(
    "name", ["gpt2", "owner/name", "owner/name@main", f"a.b/c-d@{FIRST}", "o/n@refs/pr/1"]
)
def test_names_of_the_hub(name):
    assert is_hub_name(name)


@pytest.mark.parametrize("name", ["", "./name", "../a/b", "/a/b", "~/b", "a/b/c", "tests", "a b", "a@", "@b"])
def test_other_names(name):
    assert not is_hub_name(name)
