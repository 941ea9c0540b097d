"""The packages that the script for a GPU needs, and from which version on the suite works with them."""

from importlib import metadata

from packaging.version import Version

OLDEST = {
    "torch": "2.10",
    "transformers": "5.24",
    "lightning": "2.6.4",
    "torchmetrics": "1.8",
    "tensorboard": "2.20",
    "numpy": "2",
}
"""Those of `pyproject.toml`, by name."""


def refuse_older() -> None:
    """Refuses a machine on which measuring would fail half-way, or measure something else.

    Raises:
        ValueError: packages are missing, or older than the suite needs.
    """
    unfit = {name: trouble for name, oldest in OLDEST.items() if (trouble := _trouble(name, oldest))}
    if unfit:
        wanted = " ".join(f"'{name}>={OLDEST[name]}'" for name in unfit)
        raise ValueError(f"{'; '.join(unfit.values())}; install newer ones: pip install {wanted}")


def _trouble(name: str, oldest: str) -> str | None:
    try:
        found = metadata.version(name)
    except metadata.PackageNotFoundError:
        return f"{name} is not installed"
    # without what a build adds: 2.10.0a0+nv25.12 is 2.10
    if Version(Version(found).base_version) < Version(oldest):
        return f"{name} {found} is older than {oldest}, which the suite needs"
    return None
