"""The analytical cost against FLOPs counted by PyTorch and tensors saved by autograd.

Equal FLOPs also show that no matrix product is computed twice, such as a projection once per direction.
"""

from dataclasses import replace

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode, sdpa_backward_flop_count, sdpa_flop_count

from ldarnet import LDARNetConfig, LDARNetForCausalLM, LDARNetForMaskedLM
from ldarnet.model.chunking.learned import Router
from ldarnet.model.cost import cost, keys_per_query
from ldarnet.ops.attention import BLOCK as QUERY_BLOCK


def visible(q, is_causal):
    """Fraction of the scores that causal attention needs, or 1."""
    return (q[2] + 1) / (2 * q[2]) if is_causal else 1


# FlopCounterMode does not count the fused CPU kernel of attention.
ON_CPU = {
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: (
        lambda q, k, v, dropout=0, is_causal=False, **__: sdpa_flop_count(q, k, v) * visible(q, is_causal)
    ),
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward: (
        lambda gradient, q, k, v, out, logsumexp, dropout, is_causal, **__: (
            sdpa_backward_flop_count(gradient, q, k, v) * visible(q, is_causal)
        )
    ),
}
BASES_PER_CHUNK = 4

TWO_ROUTERS = {
    "arch_layout": ["m1T1", ["t1M1", ["M1T1"], "m1"], "T1m1"],
    "d_model": [16, 24, 32],
    "d_intermediate": [32, 32, 64],
}


@pytest.fixture(autouse=True)
def general_scan(monkeypatch):
    """Compute all blocks of scans as for arbitrary decays; the cost does not depend on the decays."""
    monkeypatch.setattr("ldarnet.ops.scan_factored.MAX_LOG_DECAY", -1.0)


def configuration(preset, *, full_attention=False, **changes):
    """A preset, optionally with unlimited attention windows."""
    config = LDARNetConfig.preset(preset, **changes)
    if full_attention:
        config.attn_cfg["window_size"] = [-1] * config.num_stages
    return config


CONFIGS = {
    "tiny": configuration("tiny", full_attention=True),
    "tied": configuration("tiny", full_attention=True, tie_word_embeddings=True),
    "quickstart": configuration("quickstart", full_attention=True),
    "ldarnet-2m": configuration("ldarnet-2m"),
    "causal": configuration("quickstart", full_attention=True, causal=True),
    **{
        f"{smoothing} smoothing": configuration("tiny", full_attention=True, chunking={"smoothing": smoothing})
        for smoothing in ("mirrored", "forward", "none")
    },
    "two routers": configuration(
        "tiny",
        **TWO_ROUTERS,
        attn_cfg={"num_heads": [2, 3, 2], "rotary_emb_dim": [8, 4, 8], "window_size": [-1, -1, -1]},
    ),
    "no router": configuration(
        "tiny",
        arch_layout=["m1T1"],
        d_model=[16],
        d_intermediate=[32],
        attn_cfg={"num_heads": [2], "rotary_emb_dim": [8], "window_size": [-1]},
    ),
}

KMERS = configuration(
    "tiny",
    arch_layout=["M1T1"],
    d_model=[16],
    d_intermediate=[32],
    attn_cfg={"num_heads": [2], "rotary_emb_dim": [8], "window_size": [-1]},
    tokenizer={"method": "kmers", "k": 4},
)


@pytest.fixture(autouse=True)
def fixed_chunks(monkeypatch):
    """Make every fourth position a boundary, so that all lengths are known."""
    forward = Router.forward

    def routed(router, h_TD, packing, tokens):
        return replace(forward(router, h_TD, packing, tokens), boundary=packing.position % BASES_PER_CHUNK == 0)

    monkeypatch.setattr(Router, "forward", routed)


def expected(config, length, **options):
    return cost(config, length, [BASES_PER_CHUNK**stage for stage in range(1, config.num_stages)], **options)


def model_of(config):
    return LDARNetForCausalLM(config) if config.causal else LDARNetForMaskedLM(config)


def count_flops(config, length, windows, checkpointed=()):
    """FLOPs per base of the forward pass, and of forward and backward pass."""
    model = model_of(config)
    model.set_activation_checkpointing(checkpointed)
    ids = torch.randint(0, 4, (windows, length))
    with FlopCounterMode(display=False, custom_mapping=ON_CPU) as forward:
        loss = model(ids, labels=ids).loss
    with FlopCounterMode(display=False, custom_mapping=ON_CPU) as backward:
        loss.backward()
    bases = ids.numel()
    return forward.get_total_flops() / bases, (forward.get_total_flops() + backward.get_total_flops()) / bases


@pytest.mark.parametrize(
    ("name", "checkpointed"),
    [
        ("tiny", []),
        ("tied", []),
        ("mirrored smoothing", []),
        ("forward smoothing", []),
        ("none smoothing", []),
        ("quickstart", []),
        ("quickstart", [0]),
        ("quickstart", [0, 1]),
        ("ldarnet-2m", []),
        ("ldarnet-2m", [1]),
        ("two routers", []),
        ("two routers", [1]),
        ("two routers", [0, 1, 2]),
        ("causal", []),
        ("causal", [0, 1]),
        ("no router", []),
        ("no router", [0]),
    ],
)
def test_flops_match_the_counter(name, checkpointed):
    predicted = expected(CONFIGS[name], 256, activation_checkpointing=checkpointed)
    assert count_flops(CONFIGS[name], 256, windows=4, checkpointed=checkpointed) == (
        predicted.forward_flops,
        predicted.hardware_flops,
    )
    assert predicted.training_flops == 3 * predicted.forward_flops


@pytest.mark.parametrize("checkpointed", [[], [0]])
def test_flops_per_base_of_tokens_match_the_counter(checkpointed):
    per_token = count_flops(KMERS, 256, windows=4, checkpointed=checkpointed)  # windows of 256 tokens
    predicted = cost(KMERS, 4 * 256, activation_checkpointing=checkpointed)
    assert (predicted.forward_flops, predicted.hardware_flops) == tuple(flops / 4 for flops in per_token)
    assert predicted.forward_flops == cost(KMERS, 4 * 256, bases_per_token=4).forward_flops
    assert predicted.parameters == LDARNetForMaskedLM(KMERS).num_parameters()
    assert predicted.hardware_flops >= predicted.training_flops


@pytest.mark.parametrize("length", [200, 515])
def test_flops_with_partial_blocks_and_windowed_attention(length):
    config = configuration("quickstart")
    predicted = expected(config, length)
    forward, both = count_flops(config, length, windows=1)
    width, window = config.d_model[0], config.attn_cfg["window_size"][0]
    beyond_window = 4 * width * (min(length, QUERY_BLOCK + 2 * window) - keys_per_query(length, window))
    operations = predicted.group_by("operation")
    scans = operations["scan"].forward_flops + operations["dechunking"].forward_flops
    assert predicted.forward_flops - scans < forward <= predicted.forward_flops + beyond_window
    assert predicted.hardware_flops - 4 * scans < both <= predicted.hardware_flops + 4 * beyond_window


def test_keys_per_query_match_a_plain_count():
    for length, window in [(1, 0), (1, 7), (10, 3), (10, 9), (10, 8), (10, -1), (3, 1)]:
        reach = length if window < 0 else window
        pairs = [(i, j) for i in range(length) for j in range(length) if abs(i - j) <= reach]
        assert keys_per_query(length, window) == pytest.approx(len(pairs) / length)
        to_the_left = sum(j <= i for i, j in pairs)
        assert keys_per_query(length, window, causal=True) == pytest.approx(to_the_left / length)


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS.keys())
def test_parameters_match_the_model(config):
    model, whole = model_of(config), cost(config, 256)
    assert whole.parameters == model.num_parameters()
    for attribute in ("part", "operation"):
        assert sum(part.parameters for part in whole.group_by(attribute).values()) == whole.parameters
    named = {name: part.parameters for name, part in whole.group_by("part").items()}
    if "encoder" in named:
        assert named["encoder"] == sum(p.numel() for p in model.model.backbone.encoder.parameters())
        assert named["decoder"] == sum(p.numel() for p in model.model.backbone.decoder.parameters())


def test_published_sizes():
    assert cost(LDARNetConfig.preset("ldarnet-110m"), 4096).parameters == 110_687_296
    assert cost(LDARNetConfig.preset("ldarnet-2m"), 4096).parameters == 2_011_288


def saved_bytes(model, windows, length, autocast):
    """Bytes that autograd saves in a forward pass, without parameters; each storage counts once."""
    parameters = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    storages = {}

    def save(tensor):
        storages[tensor.untyped_storage().data_ptr()] = (
            tensor.untyped_storage()
        )  # keep it alive, so that its pointer is not reused
        return tensor

    ids = torch.randint(0, 4, (windows, length))
    with (
        torch.autograd.graph.saved_tensors_hooks(save, lambda tensor: tensor),
        torch.autocast("cpu", torch.bfloat16, enabled=autocast),
    ):
        loss = model(ids, labels=ids.clone()).loss
    assert loss.requires_grad
    return sum(storage.nbytes() for pointer, storage in storages.items() if pointer not in parameters)


@pytest.mark.parametrize("autocast", [False, True])
@pytest.mark.parametrize("checkpointed", [[], [0], [0, 1]])
@pytest.mark.parametrize("preset", ["quickstart", "ldarnet-2m", "causal quickstart"])
def test_activation_bytes_match_autograd(preset, checkpointed, autocast):
    config, length = configuration(preset.split()[-1], causal=preset.startswith("causal")), 512
    model = model_of(config)
    model.set_activation_checkpointing(checkpointed)
    # The difference between two batch sizes cancels constants such as weight casts and window masks.
    growth = saved_bytes(model, 4, length, autocast) - saved_bytes(model, 2, length, autocast)
    predicted = expected(config, length, activation_checkpointing=checkpointed, autocast=autocast).activation_bytes
    assert growth / (2 * length) == pytest.approx(predicted, rel=0.02)


def test_activation_checkpointing_trades_memory_for_compute():
    config = CONFIGS["ldarnet-2m"]
    nothing, outer, both = (cost(config, 4096, activation_checkpointing=stages) for stages in ([], [0], [0, 1]))
    assert both.activation_bytes < outer.activation_bytes < nothing.activation_bytes
    assert nothing.hardware_flops < outer.hardware_flops < both.hardware_flops < nothing.hardware_flops * 4 / 3
    assert nothing.training_flops == outer.training_flops == both.training_flops


def test_cost_follows_bases_per_chunk():
    config = CONFIGS["two routers"]
    coarse, fine = cost(config, 4096, [8, 64]), cost(config, 4096, [2, 4])
    assert coarse.forward_flops < cost(config, 4096).forward_flops < fine.forward_flops
    assert cost(config, 4096).bases_per_chunk == (4, 16)


def test_table_lists_the_parts_and_the_total():
    lines = cost(LDARNetConfig.preset("ldarnet-110m"), 4096).table().splitlines()
    assert [line.split("|")[1].strip() for line in lines[2:]] == [
        "embedding and head",
        "encoder",
        "chunking",
        "main network",
        "decoder",
        "total",
    ]
    assert "110,687,296" in lines[-1]
    assert "100.0%" in lines[-1]
