"""Checks of saved models: hashes of their files, and finite weights."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from ldarnet.errors import UserError
from ldarnet.io.run_files import MANIFEST

SKIP_VARIABLE = "LDARNET_VERIFY"
"""Environment variable; 0 skips the comparison of model files with their manifest."""
HINT = f"save or download it again, or delete {MANIFEST} if you changed the file yourself"


def check_hashes(folder: Path, verify: bool | None = None) -> None:
    """Compare the files of a model folder with its manifest; a folder without a manifest is not checked.

    Args:
        folder: model folder or checkpoint.
        verify: whether to compare. The default is False if the environment variable `LDARNET_VERIFY` is 0, and True
            otherwise.

    Raises:
        UserError: the manifest is damaged, or a file that it lists is damaged or missing.
    """
    if verify is None:
        verify = os.environ.get(SKIP_VARIABLE) != "0"
    if verify and (folder / MANIFEST).is_file():
        from ldarnet.io.manifest import read_manifest, verify_files

        verify_files(folder, read_manifest(folder, HINT), hint=HINT)


def check_saved(name: Any, subfolder: Any, verify: bool | None) -> Path | None:
    """Check the hashes of the folder that `from_pretrained` is about to load.

    Args:
        name: folder, name on the Hugging Face Hub, or None.
        subfolder: subfolder of `name`, or None.
        verify: see `check_hashes`.

    Returns:
        The folder; None if ``name`` is None or is not a local folder.

    Raises:
        UserError: see `check_hashes`.
    """
    folder = None if name is None else Path(name, subfolder or "")
    if folder is None or not folder.is_dir():
        return None
    check_hashes(folder, verify)
    return folder


def update_manifest(folder: Path) -> None:
    """Rewrite the manifest of a model folder after its files have changed; do nothing if there is no manifest."""
    if (folder / MANIFEST).is_file():
        from ldarnet.io.manifest import write_manifest

        write_manifest(folder)


def check_weights(tensors: Mapping[str, Tensor], where: str, hint: str = "choose another model or checkpoint") -> None:
    """Check that tensors are finite floating-point numbers; tensors without data (device `meta`) are not checked.

    Args:
        tensors: weights or moments, by name.
        where: file or folder, for error messages.
        hint: what to do about a tensor that is not finite.

    Raises:
        UserError: a tensor is not floating-point, or contains NaN or infinity.
    """
    for name, tensor in tensors.items():
        if not tensor.is_floating_point():
            raise UserError(
                f"{where}: tensor {name!r} has dtype {tensor.dtype}; choose a model with floating-point weights"
            )
        if not tensor.is_meta and not tensor.isfinite().all():
            raise UserError(f"{where}: tensor {name!r} contains NaN or infinity; {hint}")
