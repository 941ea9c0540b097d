"""The reader families by name, and which of them a model belongs to."""

from pathlib import Path
from typing import Any

from lightning_modules.loading import ModelError, reader_config
from lightning_modules.readers.base import Reader
from lightning_modules.readers.decoder_only import DecoderOnlyReader
from lightning_modules.readers.fusion_in_decoder import FusionInDecoderReader

FAMILIES: dict[str, type[Reader]] = {
    family.family: family
    for family in (
        DecoderOnlyReader,
        FusionInDecoderReader,
    )
}
"""All reader families by name: what `reader.family` offers beside `auto`."""
AUTO = "auto"
"""As the model's configuration says."""


def load_reader(name: str | Path, family: str = AUTO, **settings: Any) -> Reader:
    """A reader from the hub, a folder or a file.

    Args:
        name: hub name, folder, or a .gguf file.
        family: of `FAMILIES`, or `auto`.
        settings: `attention_heads`, `dtype`, and those of the family's prompt builder.

    Raises:
        ModelError: not to be loaded, or of another family.
        ValueError: an unknown family; a setting that is out of its choices.
    """
    if family == AUTO:
        return _family_of(name).load(name, **settings)
    if family not in FAMILIES:
        known_names = ", ".join((AUTO, *FAMILIES))
        raise ValueError(f"family {family!r} is unknown; choose one of: {known_names}")
    return FAMILIES[family].load(name, **settings)


def _family_of(name: str | Path) -> type[Reader]:
    """The first family that accepts the model."""
    if str(name).endswith(
        ".gguf"
    ):  # only language models come so, and to read the configuration takes seconds
        return DecoderOnlyReader
    config = reader_config(name)
    accepting = [known for known in FAMILIES.values() if known.accepts(config)]
    if not accepting:
        raise ModelError(f"reader {name}: no reader family takes a {config.model_type} model")
    return accepting[0]
