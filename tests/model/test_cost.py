"""The cost of a model is what it computes and keeps: held against the products that PyTorch counts and the tensors that
autograd saves. So it also shows that no product is computed twice, such as a projection for each reading direction.
"""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode, sdpa_backward_flop_count, sdpa_flop_count

from ldarnet import LDARNetConfig, LDARNetForMaskedLM
from ldarnet.model.cost import cost, keys_per_query
from ldarnet.model.router import Router
from ldarnet.ops.attention import BLOCK as QUERY_BLOCK

# PyTorch counts attention on a GPU but not on a CPU.
ON_CPU = {
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: lambda q, k, v, *_, **__: sdpa_flop_count(q, k, v),
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward: (
        lambda gradient, q, k, v, *_, **__: sdpa_backward_flop_count(gradient, q, k, v)
    ),
}
EVERY = 4  # bases per chunk

TWO_CHUNKINGS = {
    "arch_layout": ["m1T1", ["t1M1", ["M1T1"], "m1"], "T1m1"],
    "d_model": [16, 24, 32],
    "d_intermediate": [32, 32, 64],
}


def configuration(preset, *, everywhere=False, **changes):
    """A preset, with attention that sees everything if asked for."""
    config = LDARNetConfig.preset(preset, **changes)
    if everywhere:
        config.attn_cfg["window_size"] = [-1] * config.num_stages
    return config


CONFIGS = {
    "tiny": configuration("tiny", everywhere=True),
    "tied": configuration("tiny", everywhere=True, tie_word_embeddings=True),
    "quickstart": configuration("quickstart", everywhere=True),
    "ldarnet-2m": configuration("ldarnet-2m"),
    "two chunkings": configuration(
        "tiny",
        **TWO_CHUNKINGS,
        attn_cfg={"num_heads": [2, 3, 2], "rotary_emb_dim": [8, 4, 8], "window_size": [-1, -1, -1]},
    ),
    "one stack": configuration(
        "tiny",
        arch_layout=["m1T1"],
        d_model=[16],
        d_intermediate=[32],
        attn_cfg={"num_heads": [2], "rotary_emb_dim": [8], "window_size": [-1]},
    ),
}


@pytest.fixture(autouse=True)
def chunks_of_equal_length(monkeypatch):
    """Every fourth position starts a chunk, so that all lengths are known."""
    forward = Router.forward

    def routed(router, h_TD, packing):
        return forward(router, h_TD, packing)[0], packing.position % EVERY == 0

    monkeypatch.setattr(Router, "forward", routed)


def expected(config, length, **options):
    return cost(config, length, [EVERY**stage for stage in range(1, config.num_stages)], **options)


def counted(config, length, windows, recompute=()):
    """Operations per base of the forward pass, and of both passes."""
    model = LDARNetForMaskedLM(config)
    model.set_activation_checkpointing(recompute)
    ids = torch.randint(0, 4, (windows, length))
    with FlopCounterMode(display=False, custom_mapping=ON_CPU) as forward:
        loss = model(ids, labels=ids).loss
    with FlopCounterMode(display=False, custom_mapping=ON_CPU) as backward:
        loss.backward()
    bases = ids.numel()
    return forward.get_total_flops() / bases, (forward.get_total_flops() + backward.get_total_flops()) / bases


@pytest.mark.parametrize(
    ("name", "recompute"),
    [
        ("tiny", []),
        ("tied", []),
        ("quickstart", []),
        ("quickstart", [0]),
        ("quickstart", [0, 1]),
        ("ldarnet-2m", []),
        ("ldarnet-2m", [1]),
        ("two chunkings", []),
        ("two chunkings", [1]),
        ("two chunkings", [0, 1, 2]),
        ("one stack", []),
        ("one stack", [0]),
    ],
)
def test_operations_are_those_that_run(name, recompute):
    wanted = expected(CONFIGS[name], 256, activation_checkpointing=recompute)
    assert counted(CONFIGS[name], 256, windows=4, recompute=recompute) == (wanted.forward_flops, wanted.hardware_flops)
    assert wanted.training_flops == 3 * wanted.forward_flops
    assert wanted.hardware_flops >= wanted.training_flops


@pytest.mark.parametrize("length", [200, 515])
def test_unfinished_blocks_take_less_and_windows_of_the_reference_a_little_more(length):
    config = configuration("quickstart")
    wanted = expected(config, length)
    forward, both = counted(config, length, windows=1)
    width, window = config.d_model[0], config.attn_cfg["window_size"][0]
    beyond_window = 4 * width * (min(length, QUERY_BLOCK + 2 * window) - keys_per_query(length, window))
    operations = wanted.group_by("operation")
    scans = operations["scan"].forward_flops + operations["dechunking"].forward_flops
    assert wanted.forward_flops - scans < forward <= wanted.forward_flops + beyond_window
    assert wanted.hardware_flops - 4 * scans < both <= wanted.hardware_flops + 4 * beyond_window


def test_keys_per_query_counts_pairs():
    for length, window in [(1, 0), (1, 7), (10, 3), (10, 9), (10, 8), (10, -1), (3, 1)]:
        reach = length if window < 0 else window
        pairs = sum(abs(i - j) <= reach for i in range(length) for j in range(length))
        assert keys_per_query(length, window) == pytest.approx(pairs / length)


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS.keys())
def test_every_parameter_belongs_to_a_part(config):
    model, whole = LDARNetForMaskedLM(config), cost(config, 256)
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


def kept(model, windows, length, autocast):
    """Bytes of what autograd saves in a forward pass, parameters left out, each storage once."""
    parameters = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    storages = {}

    def save(tensor):
        storages[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage()  # held, so that none takes its place
        return tensor

    ids = torch.randint(0, 4, (windows, length))
    with (
        torch.autograd.graph.saved_tensors_hooks(save, lambda tensor: tensor),
        torch.autocast("cpu", torch.bfloat16, enabled=autocast),
    ):
        loss = model(ids, labels=ids.clone()).loss
    assert loss.requires_grad
    return sum(storage.nbytes() for place, storage in storages.items() if place not in parameters)


@pytest.mark.parametrize("autocast", [False, True])
@pytest.mark.parametrize("recompute", [[], [0], [0, 1]])
@pytest.mark.parametrize("preset", ["quickstart", "ldarnet-2m"])
def test_bytes_are_those_that_are_kept(preset, recompute, autocast):
    config, length = configuration(preset), 512
    model = LDARNetForMaskedLM(config)
    model.set_activation_checkpointing(recompute)
    # The difference of two batches leaves out what does not grow with them: casts of weights, masks of windows.
    grown = kept(model, 4, length, autocast) - kept(model, 2, length, autocast)
    wanted = expected(config, length, activation_checkpointing=recompute, autocast=autocast).activation_bytes
    assert grown / (2 * length) == pytest.approx(wanted, rel=0.02)


def test_recomputing_a_stage_keeps_less_and_computes_more():
    config = CONFIGS["ldarnet-2m"]
    nothing, outer, both = (cost(config, 4096, activation_checkpointing=stages) for stages in ([], [0], [0, 1]))
    assert both.activation_bytes < outer.activation_bytes < nothing.activation_bytes
    assert nothing.hardware_flops < outer.hardware_flops < both.hardware_flops < nothing.hardware_flops * 4 / 3
    assert nothing.training_flops == outer.training_flops == both.training_flops


def test_cost_follows_the_measured_chunks():
    config = CONFIGS["two chunkings"]
    coarse, fine = cost(config, 4096, [8, 64]), cost(config, 4096, [2, 4])
    assert coarse.forward_flops < cost(config, 4096).forward_flops < fine.forward_flops
    assert cost(config, 4096).bases_per_chunk == (4, 16)


def test_table_adds_up():
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
