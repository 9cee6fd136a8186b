"""From a checkpoint file to a model: published key names, and settings inferred from shapes and names."""

from __future__ import annotations

import os
import re
import warnings
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import numpy as np

from dcnlab.arrays import Array
from dcnlab.checkpoints.load import load_checkpoint
from dcnlab.internimage.variants import CLIP_EMBED_DIMS, LEVELS, VARIANTS

M = TypeVar("M")
State = dict[str, Array]

# What the shapes and names of a checkpoint cannot tell, with the constructor's default.
UNTOLD: dict[str, Any] = {"offset_scale": 1.0, "post_norm": False, "level2_post_norm_block_ids": None}
HEADS = "attnpool_num_heads"
TAPS = {False: 9, True: 8}  # remove_center: taps of the published 3x3 kernels


def load_model(
    cls: Callable[..., M], path: str | os.PathLike[str], variant: str | None, dtype: Any, settings: Mapping[str, Any]
) -> M:
    """Return the model of a checkpoint; see `InternImage.from_checkpoint`."""
    state = published_names(load_checkpoint(path))
    found = infer_settings(state, settings)
    name = matching_variant(found) if variant is None else _required(variant, {**found, **settings}, path)
    chosen = {**found, **_untold(found, _post_norms(state), name, settings), **settings}
    if embed := {**found.get("clip_embed_dims", {}), **chosen.get("clip_embed_dims", {})}:
        chosen["clip_embed_dims"] = embed
    if chosen["remove_center"] and len(state["levels.0.blocks.0.dcn.mask.weight"]) == 9 * chosen["groups"][0]:
        state = without_centre(state)
    model: Any = cls(**chosen, dtype=dtype)
    try:
        model.load_state_dict(state)
    except ValueError as error:
        what = f"as variant {name}" if name else "with the settings inferred from it"
        raise ValueError(f"{path} does not fit InternImage {what}: {error}") from None
    loaded: M = model.eval()
    return loaded


def published_names(state: Mapping[str, Array]) -> State:
    """Return a state dictionary under the names of the classification code.

    Prefixes "module." (DataParallel), "model." (Hugging Face) and "backbone." (detection and segmentation, whose other
    parts are left out) go, and layer_scale1, layer_scale2 become gamma1, gamma2.

    >>> list(published_names({"model.levels.0.blocks.0.layer_scale1": 0}))
    ['levels.0.blocks.0.gamma1']
    """
    for prefix in ("module.", "model."):
        if state and all(key.startswith(prefix) for key in state):
            state = {key.removeprefix(prefix): value for key, value in state.items()}
    if any(key.startswith("backbone.") for key in state):
        state = {k.removeprefix("backbone."): value for k, value in state.items() if k.startswith("backbone.")}
    return {re.sub(r"\blayer_scale([12])$", r"gamma\1", key): value for key, value in state.items()}


def infer_settings(state: Mapping[str, Array], given: Mapping[str, Any] = {}) -> dict[str, Any]:
    """Return the settings of `InternImage` that shapes and names determine.

    Parameters
    ----------
    state : mapping
        Under published names.
    given : mapping
        Settings known beforehand; of these, remove_center decides how many taps a group has.
    """
    channels = _shape(state, "patch_embed.conv2.weight", 4)[0]
    depths = [_count(state, rf"levels\.{level}\.blocks\.(\d+)\.") for level in range(LEVELS)]
    block, norms = "levels.0.blocks.0", _post_norms(state)
    settings: dict[str, Any] = {
        "channels": channels,
        "depths": depths,
        "mlp_ratio": _shape(state, f"{block}.mlp.fc1.weight", 2)[0] / channels,
        "layer_scale": 1.0 if f"{block}.gamma1" in state else None,  # where training starts: loading replaces it
        "dw_kernel_size": _shape(state, f"{block}.dcn.dw_conv.0.weight", 4)[-1],
        "center_feature_scale": f"{block}.dcn.center_feature_scale_proj_weight" in state,
        "res_post_norm": f"{block}.res_post_norm1.0.weight" in state,
        "level2_post_norm": norms > 0,
        "num_classes": len(state["head.weight"]) if "head.weight" in state else None,
        **_groups(state, channels, given),
        **_head(state, channels),
    }
    if not settings["center_feature_scale"]:
        settings["post_norm"] = "levels.0.norm.0.weight" not in state
    return settings


def _groups(state: Mapping[str, Array], channels: int, given: Mapping[str, Any]) -> dict[str, Any]:
    """Return groups and remove_center: the masks of a group have 9 taps, or 8 without the centre."""
    rows = [_shape(state, f"levels.{i}.blocks.0.dcn.mask.weight", 2)[0] for i in range(LEVELS)]
    for remove_center in (False, True):
        taps = TAPS[remove_center]
        whole = all(n % taps == 0 and channels * 2**i % (n // taps) == 0 for i, n in enumerate(rows) if n)
        if whole and min(rows) > 0:
            wanted = bool(given.get("remove_center", remove_center))
            return {"groups": [n // taps for n in rows], "remove_center": remove_center or wanted}
    raise ValueError(
        f"the masks of the four stages have {', '.join(map(str, rows))} rows: no number of groups of 9 or 8 taps"
    )


def _head(state: Mapping[str, Array], channels: int) -> dict[str, Any]:
    if "conv_head.0.weight" in state:
        return {"cls_scale": len(state["conv_head.0.weight"]) / (channels * 2 ** (LEVELS - 1))}
    query = "clip_projector.cross_dcn.q.weight"
    if query not in state:
        return {}
    width, out = state[query].shape[-1], _shape(state, "clip_projector.cross_dcn.proj.weight", 2)[0]
    return {"use_clip_projector": True, "clip_embed_dims": {"pretrain_embed_dim": width, "clip_embed_dim": out}}


def matching_variant(found: Mapping[str, Any]) -> str | None:
    """Return the variant that has the shapes of the settings found, or None."""
    for name in VARIANTS:
        if all(found.get(key) == value for key, value in _shapes(name).items()):
            return name
    return None


def _untold(found: Mapping[str, Any], norms: int, name: str | None, given: Mapping[str, Any]) -> dict[str, Any]:
    """Return what the file does not tell: from the variant, or from the defaults with a warning."""
    if name is not None:
        settings = VARIANTS[name].settings
        return {key: settings.get(key, default) for key, default in UNTOLD.items() if key not in found}
    guessed = {key: default for key, default in UNTOLD.items() if key not in found and key not in given}
    if "level2_post_norm_block_ids" in guessed:
        guessed["level2_post_norm_block_ids"] = _spread(norms, found["depths"][2])
    if not found["level2_post_norm"]:
        guessed.pop("level2_post_norm_block_ids", None)
    notes = [f"{key}={value!r}" for key, value in guessed.items()]
    if "clip_embed_dims" in found and HEADS not in given.get("clip_embed_dims", {}):
        notes.append(f"clip_embed_dims[{HEADS!r}]={CLIP_EMBED_DIMS[HEADS]}")
    if notes:
        warnings.warn(
            "the checkpoint is none of the published variants and does not tell some settings; taken as "
            f"{', '.join(notes)}. Give them as keywords if they were others.",
            stacklevel=4,
        )
    return guessed


def _spread(norms: int, depth: int) -> list[int]:
    """Return after which blocks norms stand if they are spread evenly, as the published ones nearly are.

    >>> _spread(2, 4)
    [1, 3]
    """
    return [(i + 1) * depth // norms - 1 for i in range(norms)]


def without_centre(state: Mapping[str, Array]) -> State:
    """Return a state whose 9-tap offsets and masks have lost their centre tap, number 4, as the published code does."""
    result = dict(state)
    for key, value in state.items():
        found = re.fullmatch(r"levels\.\d+\.blocks\.\d+\.dcn\.(offset|mask)\.(weight|bias)", key)
        per_tap = 2 if found and found[1] == "offset" else 1
        if found and len(value) % (9 * per_tap) == 0:
            by_tap = np.reshape(value, (-1, 9, per_tap, *value.shape[1:]))
            result[key] = np.delete(by_tap, 4, axis=1).reshape(-1, *value.shape[1:])
    return result


def _required(variant: str, found: Mapping[str, Any], path: str | os.PathLike[str]) -> str:
    """Return the variant that was asked for, refusing a file of other shapes."""
    if variant not in VARIANTS:
        raise ValueError(f"variant must be one of {', '.join(VARIANTS)}, got {variant!r}")
    wanted = _shapes(variant)
    others = [f"{key} {found[key]} (expected {value})" for key, value in wanted.items() if found[key] != value]
    if others:
        raise ValueError(f"{path} is no InternImage-{variant}: it has {', '.join(others)}")
    return variant


def _shapes(variant: str) -> dict[str, Any]:
    """Return the settings of a variant that show in the shapes."""
    settings = {"mlp_ratio": 4.0, "dw_kernel_size": 3, **VARIANTS[variant].settings}
    return {key: settings[key] for key in ("channels", "depths", "groups", "mlp_ratio", "dw_kernel_size")}


def _shape(state: Mapping[str, Array], key: str, axes: int) -> tuple[int, ...]:
    if key not in state:
        raise ValueError(f"this is no InternImage checkpoint: it has no {key!r} (it has {len(state)} other names)")
    shape = tuple(state[key].shape)
    if len(shape) != axes or 0 in shape:
        raise ValueError(f"this is no InternImage checkpoint: {key!r} has shape {shape}, expected {axes} axes")
    return shape


def _post_norms(state: Mapping[str, Array]) -> int:
    """Return how many norms stand between the blocks of stage 3."""
    return _count(state, r"levels\.2\.post_norms\.(\d+)\.")


def _count(state: Mapping[str, Array], pattern: str) -> int:
    numbers = [int(found[1]) for key in state if (found := re.match(pattern, key))]
    return max(numbers, default=-1) + 1
