"""Extension folders."""

import sys
from pathlib import Path

import pytest

from ldarnet.plugins import load_folder, suggestion


def test_every_module_of_a_folder_is_imported_in_alphabetical_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / "extension_folder"
    package.mkdir()
    (package / "__init__.py").write_text("LOADED = []\n", encoding="utf-8")
    for name in ("second", "first", "_private"):
        text = f"from extension_folder import LOADED\nLOADED.append({name!r})\n"
        (package / f"{name}.py").write_text(text, encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)

    for _ in range(2):
        modules = load_folder("extension_folder")

    assert [module.__name__ for module in modules] == ["extension_folder.first", "extension_folder.second"]
    assert sys.modules["extension_folder"].LOADED == ["first", "second"]


def test_a_mistyped_name_suggests_the_closest_one() -> None:
    assert suggestion("CNM", ["cnn", "kmers"]) == "did you mean 'cnn'? (cnn, kmers)"
    assert suggestion("transformer", ["cnn", "kmers"]) == "use one of cnn, kmers"
