"""Loggers that are kept quiet for a while."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def only_errors_of(name: str) -> Iterator[None]:
    """Without the warnings of the logger of this name; its level is put back afterwards."""
    logger = logging.getLogger(name)
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)
