"""Text of data within Markdown, as TensorBoard shows it."""

import re
from html import escape


def plain(text: str) -> str:
    """Text that Markdown, its tables and HTML leave as it is: nothing is loaded, and nothing linked to."""
    flat = escape(re.sub(r"\s+", " ", text), quote=False)
    return re.sub(r"([\\`*_{}\[\]()#+\-.!|])", r"\\\1", flat)
