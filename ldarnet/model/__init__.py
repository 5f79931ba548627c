"""The model: configuration, layers, hierarchy, Hugging Face classes and the authors' checkpoint form."""

from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForMaskedLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
)

from ldarnet.model.chunking import Boundaries
from ldarnet.model.configuration import PRESETS, LDARNetConfig
from ldarnet.model.folder import write_model
from ldarnet.model.modeling import (
    LDARNetForMaskedLM,
    LDARNetForSequenceClassification,
    LDARNetHeadOutput,
    LDARNetModel,
    LDARNetOutput,
)
from ldarnet.model.published import load_published_checkpoint, save_published_checkpoint
from ldarnet.model.tokenizer import DNATokenizer

AutoConfig.register(LDARNetConfig.model_type, LDARNetConfig)
AutoModel.register(LDARNetConfig, LDARNetModel)
AutoModelForMaskedLM.register(LDARNetConfig, LDARNetForMaskedLM)
AutoModelForSequenceClassification.register(LDARNetConfig, LDARNetForSequenceClassification)
AutoTokenizer.register(LDARNetConfig, fast_tokenizer_class=DNATokenizer)

__all__ = [
    "PRESETS",
    "Boundaries",
    "DNATokenizer",
    "LDARNetConfig",
    "LDARNetForMaskedLM",
    "LDARNetForSequenceClassification",
    "LDARNetHeadOutput",
    "LDARNetModel",
    "LDARNetOutput",
    "load_published_checkpoint",
    "save_published_checkpoint",
    "write_model",
]
