"""Optional dependencies: the modules that each extra of this package (`ldarnet[...]`) installs."""

from collections.abc import Iterator
from contextlib import contextmanager

EXTRAS = {
    "train": (
        *("deepspeed", "mlflow", "zstandard", "webdataset", "fsspec", "aiohttp"),
        *("matplotlib", "jinja2"),
    ),
    "tasks": ("sklearn", "pyarrow"),
    "sweep": ("ray", "optuna"),
    "s3": ("s3fs",),
    "genomics": ("pyBigWig", "pybigtools", "pysam", "logomaker"),
    "hf": ("accelerate",),
    "kernels": ("mamba_ssm", "causal_conv1d", "flash_attn"),
}
"""Extra -> modules that it installs; must match pyproject.toml."""


def extra_of(module: str) -> str | None:
    """Find the extra that installs a module; None if there is no such extra."""
    return next((extra for extra, modules in EXTRAS.items() if module in modules), None)


def missing_extra(error: ModuleNotFoundError, user: str) -> str | None:
    """Build the error message for a failed import; None if no extra installs the missing module.

    Args:
        error: the failed import.
        user: command or feature that needs the module, such as ``ldarnet pretrain``.
    """
    module = (error.name or "").partition(".")[0]
    extra = extra_of(module)
    return extra and f"{user} needs {module}: pip install 'ldarnet[{extra}]'"


@contextmanager
def optional_imports(user: str) -> Iterator[None]:
    """If an import inside the block fails, raise an error that names the extra to install.

    Raises:
        ModuleNotFoundError: a module is missing. If an extra installs it, the message names the extra.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        if (message := missing_extra(error, user)) is None:
            raise
        raise ModuleNotFoundError(message, name=error.name) from None
