"""Models that read tokens of several bases: configuration, tokenizer, marginal probabilities."""

import json
from itertools import product

import pytest
import torch
from transformers import AutoConfig, AutoTokenizer

from ldarnet import DNATokenizer, LDARNetConfig, LDARNetForMaskedLM
from ldarnet.alphabet import encode
from ldarnet.errors import UserError
from ldarnet.model import load_model, save_published_checkpoint, write_model
from ldarnet.model.cost import cost
from ldarnet.model.token_losses import base_log_probabilities, bases_of
from ldarnet.tokenization.kmers import Kmers

KMERS = {"method": "kmers", "k": 3}


def small(tokenizer=KMERS, **changes):
    shape = {"arch_layout": ["M1"], "d_model": [16], "d_intermediate": [32]}
    return LDARNetConfig.preset("tiny", **shape | changes, tokenizer=tokenizer)


@pytest.fixture
def folder(tmp_path):
    torch.manual_seed(0)
    write_model(LDARNetForMaskedLM(small()), tmp_path / "model")
    return tmp_path / "model"


def test_the_vocabulary_size_follows_from_the_tokenizer():
    assert small().vocab_size == 7 + 64
    assert LDARNetConfig.from_dict(small().to_dict()).tokenizer == KMERS
    assert "tokenizer" not in small(None).to_dict()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"vocab_size": 70}, "vocab_size: must be 71"),
        ({"arch_layout": ["m1", ["M1"], "m1"], "d_model": [16, 24], "d_intermediate": [0, 32]}, "single stack"),
        ({"tokenizer": {"method": "kmers", "k": 30}}, "k must be from 2 to 8"),
    ],
)
def test_inconsistent_configurations_are_rejected(changes, message):
    with pytest.raises(ValueError, match=message):
        small(**changes)


def test_a_saved_model_comes_with_its_tokenizer(folder):
    assert AutoConfig.from_pretrained(folder).tokenizer == KMERS
    tokenizer = AutoTokenizer.from_pretrained(folder)
    ids = tokenizer("ACGTNAacgttt")["input_ids"]
    assert ids == Kmers(3).encode(encode("ACGTNAACGTTT")).tolist()
    assert tokenizer.decode(tokenizer("ACGTTTGC")["input_ids"]) == "ACGTTTGC"
    assert tokenizer.get_special_tokens_mask([0, 4, 5, 6, 7, 70]) == [0, 1, 1, 1, 0, 0]
    model = load_model(folder, LDARNetForMaskedLM)
    logits = model(**tokenizer(["ACGTTTGC", "AC"], padding=True, return_tensors="pt")).logits
    assert logits.shape == (2, 4, 71)


def test_the_tokenizer_of_another_model_is_rejected(folder, tmp_path):
    DNATokenizer().save_pretrained(tmp_path / "bases")
    (tmp_path / "bases/tokenizer.json").replace(folder / "tokenizer.json")
    with pytest.raises(UserError, match="not the LDARNet vocabulary"):
        DNATokenizer.from_pretrained(folder, verify=False)


def test_a_tokenizer_without_a_model_loads(tmp_path):
    DNATokenizer.of(small()).save_pretrained(tmp_path)
    assert len(DNATokenizer.from_pretrained(tmp_path)) == 71
    content = json.loads((tmp_path / "tokenizer.json").read_text())
    content["model"]["vocab"]["hello"] = content["model"]["vocab"].pop("AAA")
    (tmp_path / "tokenizer.json").write_text(json.dumps(content))
    with pytest.raises(UserError, match="not the LDARNet vocabulary"):
        DNATokenizer.from_pretrained(tmp_path)


def test_the_published_format_is_refused(tmp_path):
    with pytest.raises(UserError, match="no tokens of several bases"):
        save_published_checkpoint(LDARNetForMaskedLM(small()), tmp_path / "model.pt")


def test_marginal_probabilities_are_sums_over_kmers():
    logits = torch.randn(5, 7 + 64, dtype=torch.float64)
    found = base_log_probabilities(logits, 3).exp()
    assert found.sum(-1) == pytest.approx(1)
    probabilities = logits[:, 7:].softmax(-1)
    for at, base in product(range(3), range(4)):
        chosen = [number for number, kmer in enumerate(product(range(4), repeat=3)) if kmer[at] == base]
        torch.testing.assert_close(found[:, at, base], probabilities[:, chosen].sum(-1))


def test_bases_of_tokens():
    kmers = list(product(range(4), repeat=3))
    assert bases_of(torch.arange(7, 71), 3).tolist() == [list(kmer) for kmer in kmers]


def test_a_byte_pair_encoding_is_saved_with_the_model(tmp_path):
    settings = {"method": "bpe", "merges": ["A C", "AC G", "T T"]}
    write_model(LDARNetForMaskedLM(small(settings)), tmp_path / "model")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "model")
    assert tokenizer("ACGACTTTNT")["input_ids"] == [8, 7, 9, 3, 4, 3]
    assert load_model(tmp_path / "model", LDARNetForMaskedLM).config.tokenizer == settings
    tokenizer.save_pretrained(tmp_path / "again")
    assert DNATokenizer.from_pretrained(tmp_path / "again").get_vocab() == tokenizer.get_vocab()


def test_the_cost_of_tokens_of_variable_length_needs_their_length():
    config = small({"method": "bpe", "merges": ["A C"]})
    with pytest.raises(ValueError, match="bases_per_token"):
        cost(config, 64)
    assert cost(config, 64, bases_per_token=4).forward_flops == cost(config, 64, bases_per_token=2).forward_flops / 2
