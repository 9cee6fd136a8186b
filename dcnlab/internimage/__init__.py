"""The whole InternImage model: variants, forward, backward, official checkpoints without torch, and a look inside."""

from dcnlab.internimage.loading import infer_settings, published_names
from dcnlab.internimage.model import InternImage
from dcnlab.internimage.prediction import Prediction, classify
from dcnlab.internimage.preprocess import crop, preprocess
from dcnlab.internimage.receptive import effective_receptive_field, radius_of_share, share_within
from dcnlab.internimage.sampled import LayerSampling, sampling_grids
from dcnlab.internimage.variants import VARIANTS, Variant, scale, stacking_rules

__all__ = [
    "VARIANTS",
    "InternImage",
    "LayerSampling",
    "Prediction",
    "Variant",
    "classify",
    "crop",
    "effective_receptive_field",
    "infer_settings",
    "preprocess",
    "published_names",
    "radius_of_share",
    "sampling_grids",
    "scale",
    "share_within",
    "stacking_rules",
]
