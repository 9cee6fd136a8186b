"""The golden models: whole networks of the published code with their logits, stage maps and gradients."""

import json

import numpy as np
from helpers import GOLDEN

from dcnlab import InternImage

NETS = ("net_t", "net_b_post_norm", "net_l_os2", "net_h")
FOLDER = GOLDEN / "dcnv3"

# What no checkpoint tells; see InternImage.from_checkpoint.
UNTOLD = ("offset_scale", "post_norm", "level2_post_norm_block_ids", "clip_embed_dims")


def settings_of(name):
    """Return the constructor settings of a golden model, as published."""
    settings = json.loads((FOLDER / f"{name}.json").read_text())
    del settings["input_size"]
    return settings


def load_net(name, dtype, file=None):
    """Return a golden model in eval mode, from its checkpoint."""
    settings = settings_of(name)
    told = {key: settings[key] for key in UNTOLD if settings.get(key) is not None}
    return InternImage.from_checkpoint(FOLDER / (file or f"{name}.pth"), dtype=dtype, **told)


def golden(name, dtype):
    """Return the file's arrays, the input in `dtype`."""
    data = dict(np.load(FOLDER / f"{name}.npz", allow_pickle=False))
    data["input"] = data["input"].astype(dtype)
    return data
