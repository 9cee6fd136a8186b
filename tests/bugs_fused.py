"""Bugs for the fused rungs of deformable convolution; read by test_planted_bugs.py."""

FUSED, FUSED_BACK = ("deform_conv2d_forward", "3_fused"), ("deform_conv2d_backward", "3_fused")
WEIGHT_BACK = ("deform_conv2d_weight_backward", "1_parts")
TILES, WARP = "include/tiles.cuh", "include/warp.cuh"

# Just more than a tile of channels, outputs and pixels; two taps. In channels 64 .. 68 most threads have nothing to do.
SHAPES = {"channels": 68, "outputs": 66, "size": (5, 14), "kernel_size": (1, 2), "padding": 0}
# The gradient of the weights belongs to the fused rungs.
BESIDE = {WEIGHT_BACK: {"deform_conv2d_backward": "3_fused"}}

BARRIER = "__syncthreads();  // who is past it"
UNORDERED = ("data race", "uninitialised shared memory")
IN_PRODUCT = ("lanes.v[c] = load<A>(from[c])", "sum[r] = sum[r] + four * tiles.right[d][right() + r]")
FILLS = ("tile[i / WIDTH][i % WIDTH] = value", "tiles[turn].left[", "store(float* to, float value)")
PACK = "pack = *reinterpret_cast<const Pack<T, WIDTH>*>(from)"
PLANES = ("mask[mask_at(k)]", "offset[y_at(k)]", "offset[x_at(k)]")  # of a tap by DeformConv2dRow

# As in test_planted_bugs.py.
BUGS = {
    "no barrier before the product": (
        FUSED, None, [(BARRIER, "//")], UNORDERED, None, IN_PRODUCT,
    ),
    "one pair of tiles for both turns": (
        FUSED, None, [(", turn ^= 1", "")], "data race", None, (*FILLS, *IN_PRODUCT),
    ),
    "the other pair of tiles is multiplied": (
        FUSED, None, [("product.add(tiles[turn], depth)", "product.add(tiles[turn ^ 1], depth)")],
        UNORDERED, None, IN_PRODUCT,
    ),
    "the tile's last pixels are not in the batch": (
        FUSED, TILES, [("there(number < shape.batch * (long long)shape.pixels())", "there(true)")],
        "out of bounds", ("mask", "offset"), PLANES,
    ),
    "the weights of the next channels": (
        FUSED, None, [("* per_group + c) * outputs + part;", "* per_group + c + DEPTH) * outputs + part;")],
        "out of bounds", "weight", "load<A>(row[(long long)d * outputs + o])",
    ),
    "the weights of outputs that are not there": (
        FUSED, None, [("part + o < outputs ? load<A>(row[(long long)d * outputs + o]) : A(0)",
                       "load<A>(row[(long long)d * outputs + o])")],
        "out of bounds", "weight", "load<A>(row[(long long)d * outputs + o])",
    ),
    "outputs that are not there": (
        FUSED, None, [("if (o >= outputs) continue;", "")],
        "out of bounds", ("bias", "output"), ("load<A>(bias[plane])", "store(float* to, float value)"),
    ),
    "no barrier before the columns' gradient is read": (
        FUSED_BACK, None, [("__syncthreads();\n            if", "if")],
        UNORDERED, None, "lanes.v[c] = load<A>(from[c])",
    ),
    "the gradient of columns that others still read": (
        FUSED_BACK, None, [(BARRIER, "if (o % outputs) __syncthreads();  //")],
        UNORDERED, None, (*IN_PRODUCT, "lanes.v[c] = load", "store(float* to, float value)"),
    ),
    "some lanes are not named": (
        FUSED_BACK, WARP, [("0xffffffffu", "0x7fffffffu")],
        "bad shuffle mask", None, "__shfl_xor_sync(",
    ),
    "spare pixels do not come to the sum": (
        FUSED_BACK, None, [("    gradient = {lane_sum", "    if (!pixel.there) return;\n    gradient = {lane_sum")],
        "bad shuffle mask", None, "__shfl_xor_sync(",
    ),
    "the weights of channels that are not there": (
        FUSED_BACK, None, [("channel < channels ? load<A>(row[(long long)d * shape.taps * per_group + channel]) : A(0)",
                            "load<A>(row[(long long)d * shape.taps * per_group + channel])")],
        "out of bounds", "weight", "load<A>(row[(long long)d * shape.taps",
    ),
    "every thread of a pixel writes, and the next pixel": (
        FUSED_BACK, None, [("    if (!pixel.there || threadIdx.x % PER_PIXEL) return;\n", "")],
        "data race", ("grad_mask", "grad_offset"), "store(float* to, float value)",
    ),
    "no barrier before the sum over pixels": (
        WEIGHT_BACK, None, [(BARRIER, "//")], UNORDERED, None, IN_PRODUCT,
    ),
    "the grad_output of outputs that are not there": (
        WEIGHT_BACK, None, [("pixel.there && o + i < outputs;", "pixel.there;")],
        "out of bounds", "grad_output", "load<A>(grad_output[",
    ),
    "four channels behind the last": (
        WEIGHT_BACK, TILES, [("return count > 0 ? sample_lanes<4>(image, corners, weight, Whole()) : Lanes<A, 4>();",
                              "return sample_lanes<4>(image, corners, weight, Whole());")],
        "out of bounds", "image", PACK,
    ),
    "four channels from the second one on": (
        WEIGHT_BACK, None, [("image + c + 4 * lane,", "image + c + 4 * lane + 1,")],
        "misaligned access", (None, "image"), PACK,
    ),
    "the weights of the next part": (
        WEIGHT_BACK, None, [("if (product.right() + r >= channels) continue;", "")],
        ("data race", "out of bounds"), "grad_weight", "store(float* to, float value)",
    ),
}  # fmt: skip
