"""Files that let an exported model be loaded without this package: reference code and a model card."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from ldarnet.io import run_files
from ldarnet.io.files import write_json_atomic
from ldarnet.model.configuration import REFERENCE_MODULE
from ldarnet.model.modeling import LDARNetPreTrainedModel

REFERENCE_CODE = Path(__file__).parent / "remote"
"""The model in plain PyTorch. Its files are copied into exports, and never imported by this package."""
AUTO_CLASSES = {
    "AutoConfig": "LDARNetConfig",
    "AutoModel": "LDARNetModel",
    "AutoModelForMaskedLM": "LDARNetForMaskedLM",
    "AutoModelForCausalLM": "LDARNetForCausalLM",
    "AutoModelForSequenceClassification": "LDARNetForSequenceClassification",
    "AutoModelForTokenClassification": "LDARNetForTokenClassification",
}
REFERENCE_METHODS = ("file", "frozen", "grid", "learned", "none")
"""Chunking methods that the reference code supports; ``grid`` only with a fixed phase."""


def missing_in_reference(config: Any) -> str | None:
    """What the reference code lacks to run a model; None if nothing."""
    method = config.chunking["method"]
    if config.num_stages == 1:
        return None
    if method not in REFERENCE_METHODS:
        return f"chunking method {method}"
    if config.chunking.get("phase", "fixed") != "fixed":
        return f"chunking method {method} with phase {config.chunking['phase']}"
    return None


def write_hub_files(model: LDARNetPreTrainedModel, folder: Path) -> None:
    """Add a model card and the reference code to a saved model.

    ``auto_map`` in ``config.json`` names the classes of the code. Transformers runs it only by
    ``trust_remote_code=True``, and only if this package is not imported. The code refuses models that it does not
    support; see `missing_in_reference`.
    """
    from ldarnet.model.saved import read_config_file

    for source in sorted(REFERENCE_CODE.glob("*.py")):
        shutil.copyfile(source, folder / source.name)
    file = folder / run_files.MODEL_CONFIG
    content = read_config_file(file, hint="export the model again")
    other = "AutoModelForMaskedLM" if model.config.causal else "AutoModelForCausalLM"
    classes = {auto: f"{REFERENCE_MODULE}.{name}" for auto, name in AUTO_CLASSES.items() if auto != other}
    write_json_atomic(file, dict(sorted((content | {"auto_map": classes}).items())), indent=2)
    (folder / run_files.MODEL_CARD).write_text(_model_card(model), encoding="utf-8")


def _auto_class(model: LDARNetPreTrainedModel) -> str:
    names = {name: auto for auto, name in AUTO_CLASSES.items()}
    return names.get(type(model).__name__, "AutoModel")


def _model_card(model: LDARNetPreTrainedModel) -> str:
    config: Any = model.config
    missing = missing_in_reference(config)
    tokens = "bases" if config.tokenizer is None else f"tokens of several bases ({config.tokenizer['method']})"
    rows = {
        "class": f"`{type(model).__name__}`",
        "parameters": f"{sum(weight.numel() for weight in model.parameters()):,}",
        "layout": f"`{config.arch_layout}`, widths {', '.join(map(str, config.d_model))}",
        "input": tokens,
        "direction": "left to right" if config.causal else "both",
    }
    if config.num_stages > 1:
        rows["chunking"] = f"{config.chunking['method']}, target of {config.target_ratio:g} positions per chunk"
    table = "\n".join(f"| {name} | {value} |" for name, value in rows.items())
    auto = _auto_class(model)
    if missing is None:
        remote = f"""Without the package, transformers runs `{REFERENCE_MODULE}.py`, the same model in plain PyTorch:

```python
from transformers import AutoTokenizer, {auto}

tokenizer = AutoTokenizer.from_pretrained(FOLDER, trust_remote_code=True)
model = {auto}.from_pretrained(FOLDER, trust_remote_code=True).eval()
```

It is slower, needs more memory, and does not train from scratch. `AutoTokenizer` then returns a plain tokenizer, which
does not warn about characters that are not nucleotide codes; they become N, as with the package. Data collators may
mask N.
"""
    else:
        remote = f"The model does not load without the package: the reference code does not support {missing}.\n"
    return f"""---
library_name: transformers
tags:
- dna
- genomics
- ldarnet
---
# LDARNet model

A DNA language model that learns to divide sequences into chunks (arXiv 2606.04552), exported by the package `ldarnet`.

| property | value |
|---|---|
{table}

With the package, after `import ldarnet.model`:

```python
import ldarnet.model
from transformers import AutoTokenizer, {auto}

tokenizer = AutoTokenizer.from_pretrained(FOLDER)
model = {auto}.from_pretrained(FOLDER).eval()
```

{remote}
Please add before publication: training data, evaluation, intended use, limitations, license.
"""
