"""The error for everything a user can get wrong about the data."""


class DataError(ValueError):
    """A mistake in the user's data or settings.

    The message is all the user sees, so it names the thing (file and line where there is one) and says how
    to put it right.
    """
