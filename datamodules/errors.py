"""The errors for what a user can get wrong about the data and the installation."""


class DataError(ValueError):
    """A mistake in the user's data or settings.

    The message is all the user sees, so it names the thing (file and line where there is one) and says how
    to put it right.
    """


class MissingFaissError(ImportError, DataError):
    """There is no FAISS, which comes with one of two extras, or it cannot be imported."""

    def __init__(self, reason: ImportError) -> None:
        super().__init__(
            f"FAISS, which finds the passages, cannot be imported ({reason}): install one of its two builds, "
            "pip install -e '.[cpu]', or '.[gpu]' to search approximate indices on a GPU; if both are "
            "installed, pip uninstall faiss-cpu faiss-gpu first, since they overwrite each other"
        )
