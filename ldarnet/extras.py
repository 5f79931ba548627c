"""Optional dependencies: which extra of the package installs a module."""

from importlib.util import find_spec

EXTRAS = {
    "train": (
        *("deepspeed", "mlflow", "zstandard", "webdataset", "fsspec", "aiohttp", "pooch"),
        *("matplotlib", "jinja2"),
    ),
    "tasks": ("sklearn", "scipy", "pyarrow"),
    "sweep": ("ray", "optuna"),
    "s3": ("s3fs",),
    "kernels": ("mamba_ssm", "causal_conv1d", "flash_attn"),
}
"""Extra -> the modules of its packages, as in pyproject.toml."""


def missing_extra(error: ModuleNotFoundError, user: str) -> str | None:
    """The message for an import that failed because an extra is not installed; None for any other module.

    Args:
        error: the failed import.
        user: what needs the module, such as ``ldarnet pretrain``.
    """
    module = (error.name or "").partition(".")[0]
    extra = next((extra for extra, modules in EXTRAS.items() if module in modules), None)
    return extra and f"{user} needs {module}: pip install 'ldarnet[{extra}]'"


def require(user: str, *modules: str) -> None:
    """Check that modules of extras can be imported.

    Raises:
        ModuleNotFoundError: one cannot; the message names ``user`` and the extra to install.
    """
    for module in modules:
        if find_spec(module) is None:
            error = ModuleNotFoundError(name=module)
            raise ModuleNotFoundError(missing_extra(error, user), name=module)
