"""The retriever, the reader, and the module that trains one from the attention of the other."""

from lightning_modules.retriever_reader import RetrieverReaderModule

__all__ = ["RetrieverReaderModule"]
