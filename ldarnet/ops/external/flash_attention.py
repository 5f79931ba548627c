"""FlashAttention for packed rows, from torch, flash-attn and flash-attn 3. Shapes as in :mod:`ldarnet.ops.attention`.

All backends support head dimensions that are multiples of 8, up to 256.
"""

from torch import Tensor

from ldarnet.errors import UserError
from ldarnet.ops.external._requirements import HALF, INSTALL_KERNELS
from ldarnet.ops.packing import Packing
from ldarnet.ops.registry import register

MAX_HEAD_DIM = 256


def _check_head_dim(name: str, q_THP: Tensor) -> None:
    head_dim = q_THP.shape[2]
    if head_dim % 8 or head_dim > MAX_HEAD_DIM:
        raise UserError(
            f"ops.attention={name}: head dimension {head_dim} must be a multiple of 8 and at most {MAX_HEAD_DIM}; set "
            "ops.attention=torch or change attn_cfg.num_heads"
        )


def _visible(window: int, causal: bool) -> tuple[int, int]:
    """Number of visible positions on the left and on the right; -1 for no limit."""
    return window, 0 if causal else window


@register("attention", "torch-varlen", devices=("cuda",), dtypes=HALF)
def varlen_attention(
    q_THP: Tensor, k_THP: Tensor, v_THP: Tensor, packing: Packing, window: int, causal: bool = False
) -> Tensor:
    """FlashAttention 2 from torch."""
    _check_head_dim("torch-varlen", q_THP)
    from torch.nn.attention.varlen import varlen_attn

    starts, longest = packing.starts.int(), packing.max_length
    out = varlen_attn(q_THP, k_THP, v_THP, starts, starts, longest, longest, window_size=_visible(window, causal))
    assert isinstance(out, Tensor)
    return out


@register("attention", "flash-attn", devices=("cuda",), dtypes=HALF, package="flash_attn", install=INSTALL_KERNELS)
def flash_attention(
    q_THP: Tensor, k_THP: Tensor, v_THP: Tensor, packing: Packing, window: int, causal: bool = False
) -> Tensor:
    """FlashAttention 2 from flash-attn."""
    _check_head_dim("flash-attn", q_THP)
    from flash_attn import flash_attn_varlen_func

    starts, longest = packing.starts.int(), packing.max_length
    return flash_attn_varlen_func(
        q_THP, k_THP, v_THP, starts, starts, longest, longest, window_size=_visible(window, causal)
    )


@register(
    "attention",
    "flash-attn-3",
    devices=("cuda",),
    dtypes=HALF,
    package="flash_attn_interface",
    install="python setup.py install in the folder hopper of https://github.com/Dao-AILab/flash-attention",
)
def flash_attention_3(
    q_THP: Tensor, k_THP: Tensor, v_THP: Tensor, packing: Packing, window: int, causal: bool = False
) -> Tensor:
    """FlashAttention 3, for Hopper GPUs. Head dimensions below 64 are padded to 64."""
    _check_head_dim("flash-attn-3", q_THP)
    from flash_attn_interface import flash_attn_varlen_func

    starts, longest = packing.starts.int(), packing.max_length
    out = flash_attn_varlen_func(
        q_THP, k_THP, v_THP, starts, starts, longest, longest, window_size=_visible(window, causal)
    )
    return out[0] if isinstance(out, tuple) else out  # older releases also return the log-sum-exp
