"""Says how an extra of o2o is installed, from where o2o itself comes."""

from collections.abc import Iterator
from contextlib import contextmanager

from o2o.core.errors import UsageError
from o2o.core.plugins import PACKAGE

EXTRAS = {  # module that may be missing -> the smallest extra that brings it
    "imageio_ffmpeg": "train", "matplotlib": "train", "plotly": "train", "safetensors": "train",
    "tensorboard": "train", "torch": "train", "mujoco": "robot", "msgpack": "remote", "websockets": "remote",
    "onnxruntime": "export", "google_crc32c": "rlds", "ray": "cluster", "submitit": "cluster",
    "optuna": "sweep",
}  # fmt: skip


def install_command(extra: str) -> str:
    """Returns the command that installs an extra: in a checkout its own folder, else the package."""
    checkout = PACKAGE.parent
    if (checkout / "pyproject.toml").is_file():
        return f'pip install "{checkout}[{extra}]"'
    return f'pip install "o2o[{extra}]"'


def describe_missing(error: BaseException) -> str:
    """Returns which package a failed import lacks, and how it is installed; empty if no extra brings it."""
    package = (error.name or "").partition(".")[0] if isinstance(error, ModuleNotFoundError) else ""
    if package not in EXTRAS:
        return ""
    return f"{package}, which is not installed: {install_command(EXTRAS[package])}"


@contextmanager
def needed_by(what: str) -> Iterator[None]:
    """Has a missing package of an extra end in one line that says how to install it.

    Args:
        what: what the block runs, for the error.
    Raises:
        UsageError: the block imports such a package, which is not installed.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        if missing := describe_missing(error):
            raise UsageError(f"{what} needs {missing}") from error
        raise
