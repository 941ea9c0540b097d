"""Writes docs/configuration.md from the fields of the configuration: `python docs/write_configuration.py`."""

from pathlib import Path

from experiments.show.settings import as_markdown

_HEAD = """# Every key

Written from `experiments/config.py` by `python docs/write_configuration.py`; `python -m experiments.run
--help` lists the same. A key is set on the command line as `key=value`, such as `trainer.max_steps=8`,
`evaluation.hit_rate_ks=[1,5]` (or `=1,5`), `reader.attention_heads=null`. The defaults are those of a key
that an experiment does not set; `python -m experiments.run --exp NAME --print-config` shows what it sets.

"""


def write() -> str:
    """The whole page."""
    return _HEAD + as_markdown()


if __name__ == "__main__":
    Path(__file__).with_name("configuration.md").write_text(write(), encoding="utf-8")
