"""Models of the Hugging Face hub: the files that are needed, of one commit, once.

They lie in the hub's own cache (`HF_HOME`), and are loaded from their folder there. So configuration,
tokenizer and weights are of the same commit, and the hub is asked nothing more. Nor does transformers fetch
the weights a second time: where it is given a name of the hub, and finds an older pytorch_model.bin, a thread
has that converted and fetches the result (DISABLE_SAFETENSORS_CONVERSION forbids it); a folder it just loads.
"""

import json
import logging
import re
import shutil
from collections.abc import Collection
from contextlib import nullcontext
from fnmatch import fnmatch
from functools import cache
from pathlib import Path
from typing import Any

from datamodules.checksums import Digests, Progress, ProgressMaker
from datamodules.downloads import DownloadError
from datamodules.errors import DataError
from datamodules.quiet_logs import only_errors_of

log = logging.getLogger(__name__)

_NAME = re.compile(r"[\w.-]+(/[\w.-]+)?(@[\w./-]+)?")
_NEWEST = "main"
_CONFIG = "config.json"
_TEXT_SUFFIXES = (".json", ".txt", ".model", ".jinja")
_WEIGHTS = ("model.safetensors", "model-*-of-*.safetensors", "pytorch_model.bin", "pytorch_model-*-of-*.bin")
"""Files of weights, those that transformers prefers first."""
_TOKENIZER = ("tokenizer*", "vocab*", "*.model")
RETRIEVER = "retriever"
"""What `fetch_model` may be asked for: a model that embeds."""
_MODULES = "modules.json"
"""Of a model of sentence-transformers; folders of its modules say how texts are embedded."""
_BESIDE_MODULES = ("config_sentence_transformers.json", "sentence_bert_config.json")


def is_hub_name(name: str | Path) -> bool:
    """Whether a model is one of the hub's: `name`, `owner/name` or `owner/name@revision`, and no folder."""
    return (
        _NAME.fullmatch(str(name)) is not None and not str(name).startswith(".") and not Path(name).exists()
    )


def fetch_model(name: str | Path, what: str = "model", show: ProgressMaker | None = None) -> Path:
    """The folder of a model, downloaded if it is not on this machine yet.

    Without a revision the newest one is taken at the first download, and kept: two runs on a machine have the
    same weights.

    Args:
        name: `owner/name` or `owner/name@revision` (commit, tag or branch) on the hub; a folder is returned
            as it is.
        what: it is for, in messages; of a `RETRIEVER` it is also asked how it embeds, where another program
            has left that out.
        show: see `ProgressMaker`; None = the hub's own bars.

    Raises:
        DownloadError: there is no such folder, or the hub does not give the model.
        DataError: it has no weights that can be loaded, or the disk has no room for it.
    """
    if Path(name).exists():
        return Path(name)
    if not is_hub_name(name):
        raise DownloadError(f"{what} {name}: there is no such folder")
    repository, _, revision = str(name).partition("@")
    try:
        with only_errors_of("huggingface_hub"):
            found = _cached(repository, revision or _NEWEST)
            if found is None:
                return _download(repository, revision or _NEWEST, show)
            if what == RETRIEVER and not _knows_modules(repository, found):
                _ask_for_modules(repository, found)
            return found
    except DataError:
        raise
    except Exception as error:  # the hub's, its HTTP client's and the disk's have no base in common
        local = f"{f'--revision {revision} ' if revision else ''}--local-dir {Path(repository).name}"
        raise DownloadError(
            f"{what} {name}: not on this machine, and the Hugging Face hub did not give it. Without network, "
            f"download it elsewhere (`hf download {repository} {local}`) and set name to that folder. "
            f"({' '.join(str(error).split())[:300]})"
        ) from error


def find_model(name: str | Path) -> Path | None:
    """The folder of a model that is on this machine: itself, or in the hub's cache; None = it is not here."""
    if Path(name).is_dir():
        return Path(name)
    if not is_hub_name(name):
        return None
    repository, _, revision = str(name).partition("@")
    return _cached(repository, revision or _NEWEST)


def verify_model(folder: Path, show: ProgressMaker) -> int:
    """Reads the large files of a model in the hub's cache, which are named by their SHA-256 there.

    Args:
        folder: as `fetch_model` returns it.
        show: see `ProgressMaker`.

    Returns:
        Size of the model's files, in bytes.

    Raises:
        DataError: a file is not what the hub gave.
    """
    files = [folder / name for name in _needed([path.name for path in folder.iterdir()])]
    for file in files:
        stored = file.resolve()
        if re.fullmatch("[0-9a-f]{64}", stored.name):
            digests = Digests(f"sha256:{stored.name}")
            with show(file.name) as progress, stored.open("rb") as content:
                digests.update_from(content, progress, stored.stat().st_size)
            digests.compare(stored, f"delete it, and {file}, and download it again")
    return sum(file.stat().st_size for file in files)


def _cached(repository: str, revision: str) -> Path | None:
    """The folder of a model that is whole."""
    from huggingface_hub import try_to_load_from_cache  # late: costs a second where it is not needed

    config = try_to_load_from_cache(repository, _CONFIG, revision=revision)
    if not isinstance(config, str):
        return None
    folder = Path(config).parent
    names = [path.name for path in folder.iterdir() if path.exists()]  # a link may lead nowhere
    weights = _weights(names)
    parts = re.search(r"-of-(\d+)\.", weights[0]) if weights else None
    has_tokenizer = any(fnmatch(name, pattern) for name in names for pattern in _TOKENIZER)
    is_whole = has_tokenizer and len(weights) == (int(parts[1]) if parts else 1)
    return folder if is_whole and _has_pooling(folder) else None


def _knows_modules(repository: str, folder: Path) -> bool:
    """Whether a model is known to be one of sentence-transformers, or known to be none."""
    from huggingface_hub import try_to_load_from_cache

    return try_to_load_from_cache(repository, _MODULES, revision=folder.name) is not None


@cache
def _ask_for_modules(repository: str, folder: Path) -> None:
    """Completes a model that transformers has cached, which leaves out the files of sentence-transformers.

    Without them CLS vectors would be taken for means. Where the hub cannot be asked, a model that shows signs
    of them is refused, and of any other it is said; once in a process.

    Raises:
        DownloadError: the hub cannot be asked for what is missing.
    """
    try:
        _fetch_modules(repository, folder.name)
    except Exception as error:  # the hub's, its HTTP client's and the disk's have no base in common
        reason = " ".join(str(error).split())[:200]
        signs = [path.name for path in folder.iterdir() if path.name in _BESIDE_MODULES]
        if signs:
            raise DownloadError(
                f"{RETRIEVER} {repository}: {signs[0]} says that it is a model of sentence-transformers, and "
                f"{_MODULES}, which says how it embeds, is not on this machine; download it whole: "
                f"`hf download {repository} --revision {folder.name}` ({reason})"
            ) from error
        log.warning(
            "%s %s: %s, by which a model of sentence-transformers says how it embeds, was not asked for when "
            "it was downloaded, and the hub cannot be asked now (%s): it is taken for a model without one; "
            "if it has one, set pooling, or download it again with network",
            RETRIEVER,
            repository,
            _MODULES,
            reason,
        )


def _fetch_modules(repository: str, commit: str) -> None:
    """The small files that say how a model embeds; that there are none is noted by the hub's client."""
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

    def fetched(name: str) -> Path | None:
        try:
            return Path(hf_hub_download(repository, name, revision=commit))
        except LocalEntryNotFoundError:  # which is said where the hub could not be asked, too
            raise
        except EntryNotFoundError:
            return None

    modules = fetched(_MODULES)
    if modules is not None:
        places = [module["path"] for module in json.loads(modules.read_text(encoding="utf-8"))]
        for name in (*(f"{place}/{_CONFIG}" for place in places if place), *_BESIDE_MODULES):
            fetched(name)


def _has_pooling(folder: Path) -> bool:
    """Whether a model of sentence-transformers is here with its pooling; any other has none."""
    if not (folder / _MODULES).is_file():
        return True
    try:
        modules = json.loads((folder / _MODULES).read_text(encoding="utf-8"))
        poolings = [module["path"] for module in modules if module["type"].endswith(".Pooling")]
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return True  # reading it says what is wrong
    return all((folder / place / _CONFIG).is_file() for place in poolings)


def _download(repository: str, revision: str, show: ProgressMaker | None) -> Path:
    from huggingface_hub import HfApi, constants, hf_hub_download

    # by its revision, which the cache then knows; all else by the commit that this is
    folder = Path(hf_hub_download(repository, _CONFIG, revision=revision)).parent
    commit = folder.name
    listed = HfApi().model_info(repository, revision=commit, files_metadata=True).siblings or []
    sizes = {file.rfilename: file.size or 0 for file in listed}
    names = _needed(sizes)
    if not _weights(names):
        raise DataError(
            f"{repository}: it holds no weights that can be loaded (model.safetensors or pytorch_model.bin); "
            "name another model"
        )
    to_come = sum(sizes[name] for name in names if not (folder / name).exists())
    free = shutil.disk_usage(constants.HF_HUB_CACHE).free
    if to_come > free:
        raise DataError(
            f"{repository}: {to_come / 1e6:,.1f} MB are to come, and {free / 1e6:,.1f} MB are free in "
            f"{constants.HF_HUB_CACHE}; free the disk, or set the environment variable HF_HOME to a folder "
            "with room"
        )
    total = sum(sizes[name] for name in names)
    done = 0
    with nullcontext() if show is None else show(repository) as progress:
        for name in names:
            bar_class = None if progress is None else _bar_class(progress, done, total)
            hf_hub_download(repository, name, revision=commit, tqdm_class=bar_class)
            done += sizes[name]
            if progress is not None:
                progress(done, total)
    if _MODULES not in sizes:
        _note_absent(folder, _MODULES)
    return folder


def _note_absent(folder: Path, name: str) -> None:
    """As the hub's own client notes that a commit has no such file, so that nobody asks again."""
    note = folder.parents[1] / ".no_exist" / folder.name / name
    note.parent.mkdir(parents=True, exist_ok=True)
    note.touch()


def _needed(names: Collection[str]) -> list[str]:
    """Of a repository's files those that a model is loaded from; weights last: where they are, all are."""
    small = [name for name in names if "/" not in name and name.endswith(_TEXT_SUFFIXES)]
    if _MODULES in small:
        small += [name for name in names if re.fullmatch(rf"\d+_\w+/{re.escape(_CONFIG)}", name)]
    return [*sorted(small), *_weights(names)]


def _weights(names: Collection[str]) -> list[str]:
    """In one format, however many a repository has."""
    of_each_format = (sorted(name for name in names if fnmatch(name, pattern)) for pattern in _WEIGHTS)
    return next((found for found in of_each_format if found), [])


def _bar_class(progress: Progress, before: int, total: int) -> Any:
    """What the hub's client takes for the bar of a file; `before` bytes of the model came with others."""

    class Bar:
        def __init__(self, *args: Any, initial: int = 0, **others: Any) -> None:
            self.n = initial

        def update(self, n: int = 1) -> None:
            self.n += n
            progress(before + self.n, total)

        def update_transfer(self, n: int = 1) -> None:
            """The same bytes, while they are on their way."""

        def set_postfix_str(self, *args: Any, **others: Any) -> None:
            """The rate, which the bar behind `progress` finds by itself."""

        set_transfer_postfix_str = set_postfix_str

        def close(self) -> None:
            """Nothing is shown here."""

        def __enter__(self) -> "Bar":
            return self

        def __exit__(self, *error: object) -> None:
            self.close()

    return Bar
