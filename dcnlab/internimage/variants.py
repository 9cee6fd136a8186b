"""The published variants of InternImage, and the rules of section 3.3 of the paper (arXiv 2211.05778) behind them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, NamedTuple

LEVELS = 4  # stages
# Of the attention pooling head of H and G: width, heads, output channels.
CLIP_EMBED_DIMS = {"pretrain_embed_dim": 1024, "attnpool_num_heads": 16, "clip_embed_dim": 768}


def stacking_rules(channels: int = 64, group_channels: int = 16, depth: int = 4, depth3: int = 18) -> dict[str, Any]:
    """Return the settings that the four hyper-parameters of a model stand for.

    The paper's rules: C_i = 2^(i-1) C_1, G_i = C_i / C', L_1 = L_2 = L_4 and L_1 <= L_3.

    Parameters
    ----------
    channels : int
        C_1, of the first stage.
    group_channels : int
        C', channels of one group in every stage.
    depth : int
        L_1, blocks of stages 1, 2 and 4.
    depth3 : int
        L_3, blocks of stage 3.

    Returns
    -------
    dict with channels, depths and groups, as `InternImage` takes them.

    Examples
    --------
    >>> stacking_rules()
    {'channels': 64, 'depths': [4, 4, 18, 4], 'groups': [4, 8, 16, 32]}
    """
    if min(channels, group_channels, depth, depth3) < 1 or channels % group_channels:
        raise ValueError(
            f"all four must be positive and group_channels divide channels, got C1 = {channels}, "
            f"C' = {group_channels}, L1 = {depth}, L3 = {depth3}"
        )
    if depth > depth3:
        raise ValueError(f"the rules ask for L1 <= L3, got L1 = {depth}, L3 = {depth3}")
    return {
        "channels": channels,
        "depths": [depth, depth, depth3, depth],
        "groups": [channels * 2**i // group_channels for i in range(LEVELS)],
    }


class Scaled(NamedTuple):
    """What `scale` answers: the real numbers of the rule, and the nearest model that can be built."""

    depth: float
    channels: float
    settings: dict[str, Any]


def scale(
    phi: float,
    alpha: float = 1.09,
    beta: float = 1.36,
    origin: tuple[int, int, int, int] = (64, 16, 4, 18),
    group_channels: int | None = None,
) -> Scaled:
    r"""Scale the origin model up: depth D' = alpha^phi D and width C_1' = beta^phi C_1, where D = 3 L_1 + L_3.

    With alpha beta^1.99 about 2, a step of phi doubles the multiply-adds.

    Parameters
    ----------
    phi : float
    alpha, beta : float
        At least 1.
    origin : (C_1, C', L_1, L_3)
    group_channels : int, optional
        C' of the scaled model, where it is not the origin's (32 in variant H).

    Returns
    -------
    Scaled(depth, channels, settings)
        The rule's two real numbers, and the settings of the nearest model: C_1' rounded to a multiple of C', and the
        D' blocks rounded and shared out as in the origin, the remainder to stage 3.

    Notes
    -----
    phi = 0 is variant T, phi = 1 is S. For phi = 2, 3 and 3.5 the widths are those of B, L and XL, and that of H for
    5.2 with C' = 32; their depths were set by hand: the published models have 3, 2 and 2 blocks fewer than the rule
    says, and H 3 more.

    Examples
    --------
    >>> scale(1).settings
    {'channels': 80, 'depths': [4, 4, 21, 4], 'groups': [5, 10, 20, 40]}
    """
    if min(alpha, beta) < 1:
        raise ValueError(f"alpha and beta must be at least 1, got {alpha} and {beta}")
    channels1, width, depth1, depth3 = origin
    total = 3 * depth1 + depth3
    depth, channels = alpha**phi * total, beta**phi * channels1
    width = group_channels or width
    blocks = round(depth)
    outer = max(1, blocks * depth1 // total)
    settings = stacking_rules(max(1, round(channels / width)) * width, width, outer, blocks - 3 * outer)
    return Scaled(depth, channels, settings)


@dataclass(frozen=True)
class Variant:
    """A published model.

    Attributes
    ----------
    name : str
    hyper_parameters : (C_1, C', L_1, L_3)
    size : int
        Side of the images it was published with.
    options : dict
        Settings of `InternImage` beside those that follow from the hyper-parameters.
    """

    name: str
    hyper_parameters: tuple[int, int, int, int]
    size: int
    options: dict[str, Any] = field(default_factory=dict)

    @property
    def settings(self) -> dict[str, Any]:
        """The keywords of `InternImage`."""
        return {**stacking_rules(*self.hyper_parameters), **self.options}


_POST = {"layer_scale": 1e-5, "post_norm": True}
_CLIP = {"dw_kernel_size": 5, "level2_post_norm": True, "center_feature_scale": True, "use_clip_projector": True}

VARIANTS = {
    variant.name: variant
    for variant in (
        Variant("T", (64, 16, 4, 18), 224, {"drop_path_rate": 0.1}),
        Variant("S", (80, 16, 4, 21), 224, {**_POST, "drop_path_rate": 0.4}),
        Variant("B", (112, 16, 4, 21), 224, {**_POST, "drop_path_rate": 0.5}),
        Variant("L", (160, 16, 5, 22), 384, {**_POST, "offset_scale": 2.0, "drop_path_rate": 0.1}),
        Variant("XL", (192, 16, 5, 24), 384, {**_POST, "offset_scale": 2.0, "drop_path_rate": 0.2}),
        Variant(
            "H",
            (320, 32, 6, 32),
            640,
            {
                **_CLIP,
                "res_post_norm": True,
                "level2_post_norm_block_ids": list(range(5, 32, 6)),
                "drop_path_rate": 0.2,
            },
        ),
        # G is the one model that breaks the rules: L1 = L2 = 2, L4 = 4.
        Variant(
            "G",
            (512, 32, 2, 48),
            512,
            {
                **_CLIP,
                "depths": [2, 2, 48, 4],
                "post_norm": True,
                "level2_post_norm_block_ids": list(range(5, 48, 6)),
                "drop_path_rate": 0.4,
            },
        ),
    )
}
