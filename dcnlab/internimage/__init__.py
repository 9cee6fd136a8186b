"""The whole InternImage model: variants, forward, backward, and the official checkpoints without torch."""

from dcnlab.internimage.loading import infer_settings, published_names
from dcnlab.internimage.model import InternImage
from dcnlab.internimage.variants import VARIANTS, Variant, scale, stacking_rules

__all__ = ["VARIANTS", "InternImage", "Variant", "infer_settings", "published_names", "scale", "stacking_rules"]
