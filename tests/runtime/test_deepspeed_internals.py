"""One module uses private attributes of DeepSpeed, and reports versions that lack them."""

import re
from pathlib import Path
from types import SimpleNamespace

import pytest

from ldarnet.errors import UserError
from ldarnet.runtime import deepspeed_internals
from ldarnet.runtime.deepspeed_internals import check_optimizer

ROOT = Path(__file__).parents[2]
PRIVATE = re.compile(
    r"_global_grad_norm|_hp_mapping|_hp_optimizer_states|_lazy_init_hp|fp32_partitioned_groups|single_partition_of_fp32"
    r"|get_full_hp_param|_get_fp32_opt_state|_get_param_partition_rank|grad_position|get_param_id|ds_shape"
    r"|original_muon|__compatible_ops__|is_invalid_grad_norm|mask_nan_or_inf"
)


@pytest.mark.parametrize("package", ["ldarnet", "sharding", "benchmarks", "launch"])
def test_private_names_of_deepspeed_appear_in_one_module_only(package):
    touching = [path for path in (ROOT / package).rglob("*.py") if PRIVATE.search(path.read_text(encoding="utf-8"))]
    expected = [Path(str(deepspeed_internals.__file__)).relative_to(ROOT)] if package == "ldarnet" else []
    assert [path.relative_to(ROOT) for path in touching] == expected


@pytest.mark.parametrize("stage", [1, 2, 3])
def test_a_version_without_the_needed_attributes_is_reported(stage):
    with pytest.raises(
        UserError, match=rf"DeepSpeed [\d.]+ is not supported: its ZeRO stage {stage} optimizer has no attribute"
    ):
        check_optimizer(SimpleNamespace(), stage)


def test_stage_0_needs_no_private_attributes():
    check_optimizer(SimpleNamespace(), 0)
