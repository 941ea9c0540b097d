"""Every key of the configuration, from the fields that define it: what `--help` lists and the docs show."""

import textwrap
from collections.abc import Iterator
from dataclasses import MISSING, Field, dataclass, is_dataclass
from typing import Any

from experiments.config import SETTING, Setting, all_fields, in_yaml, takes
from experiments.each_setting import bounds_in_words

_WIDTH = 100


@dataclass(frozen=True)
class Key:
    """A key: its name, what it takes, its default, and its one line of help."""

    name: str
    takes: str
    default: str
    help: str


def keys_by_section() -> Iterator[tuple[str, str, list[Key]]]:
    """(name, what it is about, keys) of each section, those outside of any first."""
    found: dict[str, list[Key]] = {"": []}
    about = {"": "The run as a whole."}
    for key, item in all_fields():
        if is_dataclass(item.type):
            found[key] = []
            about[key] = str(item.type.__doc__)
        else:
            found[key.rpartition(".")[0]].append(_key(key, item))
    for section, keys in found.items():
        yield section, about[section], keys


def _key(name: str, item: Field[Any]) -> Key:
    setting: Setting = item.metadata[SETTING]
    default = item.default if item.default_factory is MISSING else item.default_factory()
    shown = "the experiment's" if default == "???" else in_yaml(default)
    if setting.choices is not None:
        known = ", ".join(setting.choices())
        return Key(name, f"{known}, or null" if "null" in takes(item) else known, shown, setting.help)
    words = takes(item)
    if setting.is_bounded:
        kind = words.removesuffix(", or null")
        bounds = bounds_in_words(setting, default if default is not None else 0)
        or_null = ", or null" if words != kind else ""
        words = f"{kind}, {bounds.removeprefix('one or more numbers, ')}{or_null}"
    return Key(name, words, shown, setting.help)


def as_text() -> str:
    """For a terminal."""
    lines = ["keys, as key=value (defaults in brackets; experiments set others, see --print-config):"]
    for section, about, keys in keys_by_section():
        lines += ["", f"{section + ': ' if section else ''}{about}"]
        for key in keys:
            lines.append(f"  {key.name} [{key.default}]")
            lines += textwrap.wrap(
                f"{key.help}: {key.takes}",
                _WIDTH,
                initial_indent=" " * 6,
                subsequent_indent=" " * 6,
                break_on_hyphens=False,
            )
    return "\n".join(lines)


def as_markdown() -> str:
    """For the docs: a table a section."""
    parts = []
    for section, about, keys in keys_by_section():
        rows = ["| key | | takes | default |", "|---|---|---|---|"]
        for key in keys:
            cells = (f"`{key.name}`", _cell(key.help), _cell(key.takes), f"`{_cell(key.default)}`")
            rows.append(f"| {' | '.join(cells)} |")
        head = [f"## {section or 'The run'}", "", about, ""]
        parts.append("\n".join([*head, *rows]))
    return "\n\n".join(parts) + "\n"


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("<", "&lt;")
