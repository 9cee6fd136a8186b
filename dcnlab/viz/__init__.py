"""Pictures of deformable sampling.

Every function takes ``ax=`` (and makes its own axes when it is None), reads positions from a
`dcnlab.geometry.SamplingGrid`, so that both published layouts work, and returns what it drew as a NamedTuple.
Modulation is in canonical order, (N, Ho, Wo, G, K): see `dcnlab.sampling_modulation`. Matplotlib is imported
when the first picture is drawn, not before.

=======================  ===========================================================================
sampling_points          where the taps of a few output pixels sample, with their modulation
stacked_sampling_points  where one output pixel samples through several layers
sampling_mesh            the whole output grid, drawn where it samples
offset_arrows            the offsets of one tap, or of the mean tap, as arrows
offset_wheel             the same as colours, with a colour wheel
modulation_maps          one small map a tap, laid out as the kernel is
modulation_sums          histogram of the sum over taps: sigmoid against softmax
bilinear_surface         the bilinear surface of a small image, with its kinks
bilinear_section         one line through it, and its slope
=======================  ===========================================================================
"""

from dcnlab.viz.fields import mean_positions, offset_arrows, offset_wheel, sampling_mesh
from dcnlab.viz.modulation import modulation_maps, modulation_sums
from dcnlab.viz.points import sampling_points
from dcnlab.viz.stacked import stacked_sampling_points
from dcnlab.viz.surface import bilinear_section, bilinear_surface

__all__ = [
    "bilinear_section",
    "bilinear_surface",
    "mean_positions",
    "modulation_maps",
    "modulation_sums",
    "offset_arrows",
    "offset_wheel",
    "sampling_mesh",
    "sampling_points",
    "stacked_sampling_points",
]
