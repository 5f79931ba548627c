"""Main networks sized to equal training FLOPs per base."""

import math

import pytest
from hypothesis import given, reject, settings
from hypothesis import strategies as st

from ldarnet import LDARNetConfig
from ldarnet.ablation.sizing import MLP_RATIOS, TOLERANCE, MainSize, ModelArm, size_arm, size_table
from ldarnet.errors import UserError
from ldarnet.model.cost import cost

PRESETS = ("ldarnet-2m", "quickstart")
METHODS = ("frozen", "grid", "learned", "none", "random")
LENGTH = 1024
SINGLE = {"arch_layout": ["M6"], "d_model": [128], "d_intermediate": [384], "attn_cfg": {}}


def preset_arm(preset, method="learned", ratio=4.0, bases_per_chunk=None, **changes):
    config = LDARNetConfig.preset(preset, chunking={"method": method}, target_ratio=ratio, **changes)
    return ModelArm(config, bases_per_chunk)


REFERENCES = {preset: preset_arm(preset) for preset in PRESETS}
REFERENCE = REFERENCES["ldarnet-2m"]
ARMS_2M = {
    **{f"learned {ratio}": preset_arm("ldarnet-2m", ratio=float(ratio)) for ratio in (2, 6, 8)},
    **{f"grid {ratio}": preset_arm("ldarnet-2m", "grid", float(ratio)) for ratio in (2, 4, 6, 8)},
    "measured": preset_arm("ldarnet-2m", bases_per_chunk=(4.6,)),
    "none": preset_arm("ldarnet-2m", "none"),
    "single stack": ModelArm(LDARNetConfig.preset("ldarnet-2m", **SINGLE)),
    "6-mers": ModelArm(LDARNetConfig.preset("ldarnet-2m", **SINGLE, tokenizer={"method": "kmers", "k": 6})),
    "BPE": ModelArm(
        LDARNetConfig.preset("ldarnet-2m", **SINGLE, tokenizer={"method": "bpe", "merges": ["A A", "AA T", "C G"]}),
        bases_per_token=2.3,
    ),
}


def outside_main(config):
    """Fields of a configuration without the sizes of the main network."""
    content = config.to_dict()
    for name in ("d_model", "d_intermediate"):
        content[name] = content[name][:-1]
    layout = content.pop("arch_layout")
    return content, (layout[0], layout[2]) if len(layout) == 3 else ()


def check_sized(sized, arm, reference):
    target = cost(reference.config, LENGTH, reference.bases_per_chunk).training_flops
    expected = cost(sized.config, LENGTH, arm.bases_per_chunk, bases_per_token=arm.bases_per_token)
    assert sized.cost == expected
    assert abs(sized.difference) <= TOLERANCE
    assert sized.difference == expected.training_flops / target - 1
    assert outside_main(sized.config) == outside_main(arm.config)
    assert sized.config.d_intermediate[-1] % 128 == 0


@pytest.mark.parametrize("name", ARMS_2M)
def test_arms_of_the_2m_model_cost_the_same(name):
    sized = size_arm(ARMS_2M[name], REFERENCE, LENGTH)
    check_sized(sized, ARMS_2M[name], REFERENCE)


@settings(max_examples=30, deadline=None)
@given(st.sampled_from(PRESETS), st.sampled_from(METHODS), st.integers(2, 8), st.none() | st.floats(0.7, 1.4))
def test_sizes_are_within_one_percent_and_deterministic(preset, method, ratio, realized):
    expected = preset_arm(preset, method, float(ratio)).cost(LENGTH).bases_per_chunk[0]
    measured = None if realized is None else (max(expected * realized, 1.0),)
    arm, reference = preset_arm(preset, method, float(ratio), measured), REFERENCES[preset]
    try:
        sized = size_arm(arm, reference, LENGTH)
    except UserError:
        reject()  # small models have few sizes
    check_sized(sized, arm, reference)
    assert size_arm(arm, reference, LENGTH).config.to_dict() == sized.config.to_dict()


@settings(max_examples=20, deadline=None)
@given(st.sampled_from(PRESETS), st.sampled_from(METHODS), st.integers(1, 8), st.integers(4, 12))
def test_flops_grow_with_every_size(preset, method, layers, width):
    arm = preset_arm(preset, method)

    def flops(layers, blocks, hidden):
        return arm.resized(MainSize(layers, 32 * blocks, 128 * hidden)).cost(LENGTH).training_flops

    smallest = flops(layers, width, 1)
    assert min(flops(layers + 1, width, 1), flops(layers, width + 1, 1), flops(layers, width, 2)) > smallest


@pytest.mark.parametrize("preset", ["ldarnet-2m", "quickstart", "tiny"])
def test_the_reference_keeps_its_size(preset):
    reference = preset_arm(preset)
    sized = size_arm(reference, reference, LENGTH)
    assert sized.config.to_dict() == reference.config.to_dict()
    assert sized.difference == 0


def all_sizes(arm, steps):
    """Relative difference from the quickstart reference of every size, evaluated one by one."""
    target = REFERENCES["quickstart"].cost(LENGTH).training_flops
    found = {}
    for width in range(64, 257, 16):
        for layers in range(1, steps):
            for hidden in range(128, 1025, 128):
                if math.ceil(MLP_RATIOS[0] * width / 128) <= hidden / 128 <= math.ceil(MLP_RATIOS[1] * width / 128):
                    size = MainSize(layers, width, hidden)
                    found[size] = abs(arm.resized(size).cost(LENGTH).training_flops / target - 1)
    return found


def changes(size):
    """Which sizes differ from the quickstart preset: 0 for the MLP hidden width, 1 for the depth, 2 for the width."""
    return 2 if size.width != 96 else int(size.layers != 2)


@pytest.mark.parametrize(
    ("method", "bases_per_chunk"), [("learned", 4.6), ("none", 1.0), ("grid", 2.0), ("learned", 4.2)]
)
def test_the_search_finds_what_a_full_search_finds(method, bases_per_chunk):
    arm = preset_arm("quickstart", method, bases_per_chunk=(bases_per_chunk,))
    found = all_sizes(arm, steps=5)
    matching = {size for size, difference in found.items() if difference <= TOLERANCE}
    if matching:
        chosen = MainSize.of(size_arm(arm, REFERENCES["quickstart"], LENGTH).config)
        assert chosen in matching
        assert changes(chosen) == min(map(changes, matching))
        return
    nearest = min(found, key=found.__getitem__)
    with pytest.raises(UserError, match=rf"M{nearest.layers}, width {nearest.width}, .* {nearest.hidden} with "):
        size_arm(arm, REFERENCES["quickstart"], LENGTH)


def test_no_compression_at_quickstart_size():
    arm, reference = preset_arm("quickstart", "none"), REFERENCES["quickstart"]
    with pytest.raises(UserError, match=r"^no main network has .* within 1.00%: chunking none, 1 bases per chunk"):
        size_arm(arm, reference, LENGTH)
    check_sized(size_arm(reference, arm, LENGTH), reference, arm)
    assert abs(size_arm(arm, reference, LENGTH, tolerance=0.1).difference) <= 0.1


def test_hidden_width_changes_first_then_depth_then_width():
    hidden = size_arm(preset_arm("ldarnet-110m", bases_per_chunk=(4.2,)), preset_arm("ldarnet-110m"), LENGTH)
    depth = size_arm(ARMS_2M["learned 8"], REFERENCE, LENGTH)
    width = size_arm(ARMS_2M["none"], REFERENCE, LENGTH)
    assert (MainSize.of(hidden.config).layers, MainSize.of(hidden.config).width) == (10, 768)
    assert MainSize.of(hidden.config).hidden != 2560
    assert MainSize.of(depth.config) == MainSize(12, 128, 384)
    assert MainSize.of(width.config).width != 128


def test_layers_keep_their_proportions():
    layout = ["m3t1", ["M4T2"], "m3"]
    arm = preset_arm("ldarnet-2m", "grid", 8.0, arch_layout=layout)
    sized = size_arm(arm, REFERENCE, LENGTH)
    main = sized.config.arch_layout[1][0]
    assert main in {f"M{2 * number}T{number}" for number in range(1, 20)}
    check_sized(sized, arm, REFERENCE)


def test_main_network_without_mlp():
    arm = preset_arm("ldarnet-2m", arch_layout=["m3t1", ["m6"], "m3"], d_intermediate=[0, 0])
    sized = size_arm(arm, REFERENCE, LENGTH)
    assert sized.config.d_intermediate == [0, 0]
    check_sized(sized, arm, REFERENCE)


def test_two_routers():
    layout = ["m3t1", ["m1", ["M4"], "m1"], "m3"]
    changes = {
        "arch_layout": layout,
        "d_model": [64, 96, 128],
        "d_intermediate": [0, 0, 384],
        "attn_cfg": {"num_heads": [2, 2, 4], "rotary_emb_dim": [32, 32, 32], "window_size": [1023, -1, -1]},
    }
    arm = preset_arm("ldarnet-2m", ratio=3.0, bases_per_chunk=(2.8, 8.1), **changes)
    sized = size_arm(arm, REFERENCE, LENGTH)
    check_sized(sized, arm, REFERENCE)
    assert sized.config.d_model[:2] == [64, 96]


def test_ops_survive():
    arm = preset_arm("ldarnet-2m", "grid", ops={"ssd": "torch"})
    assert size_arm(arm, REFERENCE, LENGTH).config.ops == {"ssd": "torch"}


@pytest.mark.parametrize("values", [(), (4.0, 16.0), (0.5,), (math.nan,), (math.inf,)])
def test_invalid_chunk_lengths(values):
    with pytest.raises(ValueError, match=r"^bases_per_chunk: "):
        preset_arm("ldarnet-2m", bases_per_chunk=values)


def test_tokens_of_variable_length_need_their_mean_length():
    arm = ModelArm(ARMS_2M["BPE"].config)
    with pytest.raises(ValueError, match=r"^bases_per_token: give it for bpe"):
        size_arm(arm, REFERENCE, LENGTH)


def test_table():
    arms = {"learned": REFERENCE, "6-mers | single": ARMS_2M["6-mers"]}
    lines = size_table({name: size_arm(arm, REFERENCE, LENGTH) for name, arm in arms.items()}).splitlines()
    cells = [[cell.strip() for cell in line.replace(r"\|", "/").split("|")[1:-1]] for line in lines]
    assert {len(row) for row in cells} == {9}
    assert cells[2][:6] == ["learned", "M6", "128", "384", "1", "4"]
    assert cells[2][7:] == ["+0.00%", "2,011,288"]
    assert cells[3][0] == "6-mers / single"
    assert cells[3][4:6] == [f"{LENGTH / (170 + 4):.4g}", "-"]  # 170 6-mers and 4 bases
