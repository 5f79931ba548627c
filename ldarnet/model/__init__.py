"""The LDARNet model: configuration, layers, hierarchy, Hugging Face classes, published checkpoint format."""

from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForMaskedLM,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    AutoTokenizer,
)

from ldarnet.model.boundaries import Boundaries
from ldarnet.model.classifiers import LDARNetForSequenceClassification, LDARNetForTokenClassification
from ldarnet.model.configuration import PRESETS, LDARNetConfig
from ldarnet.model.folder import load_backbone, load_model, write_model
from ldarnet.model.heads import (
    LDARNetForCausalLM,
    LDARNetForMaskedLM,
    LDARNetLanguageModel,
    language_model,
)
from ldarnet.model.modeling import LDARNetModel
from ldarnet.model.outputs import LDARNetClassifierOutput, LDARNetHeadOutput, LDARNetOutput
from ldarnet.model.published import load_published_checkpoint, save_published_checkpoint
from ldarnet.model.tokenizer import DNATokenizer

AutoConfig.register(LDARNetConfig.model_type, LDARNetConfig)
AutoModel.register(LDARNetConfig, LDARNetModel)
AutoModelForCausalLM.register(LDARNetConfig, LDARNetForCausalLM)
AutoModelForMaskedLM.register(LDARNetConfig, LDARNetForMaskedLM)
AutoModelForSequenceClassification.register(LDARNetConfig, LDARNetForSequenceClassification)
AutoModelForTokenClassification.register(LDARNetConfig, LDARNetForTokenClassification)
AutoTokenizer.register(LDARNetConfig, fast_tokenizer_class=DNATokenizer)

__all__ = [
    "PRESETS",
    "Boundaries",
    "DNATokenizer",
    "LDARNetClassifierOutput",
    "LDARNetConfig",
    "LDARNetForCausalLM",
    "LDARNetForMaskedLM",
    "LDARNetForSequenceClassification",
    "LDARNetForTokenClassification",
    "LDARNetHeadOutput",
    "LDARNetLanguageModel",
    "LDARNetModel",
    "LDARNetOutput",
    "language_model",
    "load_backbone",
    "load_model",
    "load_published_checkpoint",
    "save_published_checkpoint",
    "write_model",
]
