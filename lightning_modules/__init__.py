"""The retriever, the reader, and the module that trains one from the attention of the other."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lightning_modules.retriever_reader import RetrieverReaderModule

__all__ = ["RetrieverReaderModule"]


def __getattr__(name: str) -> Any:
    """`RetrieverReaderModule` once it is asked for: commands that only show things load no models' code."""
    if name != "RetrieverReaderModule":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from lightning_modules.retriever_reader import RetrieverReaderModule

    return RetrieverReaderModule
