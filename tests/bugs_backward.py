"""Bugs for the rungs of DCNv3 backward that spread a group over lanes; read by test_planted_bugs.py."""

SHUFFLE = ("dcnv3_backward", "3_shuffle")
VECTOR_ATOMIC = ("dcnv3_backward", "4_vector_atomic")
TILE = ("dcnv3_backward", "5_tile")
DETERMINISTIC = ("dcnv3_backward", "6_deterministic")
GROUP_LANES, SCATTERED, WARP = (f"include/{name}.cuh" for name in ("group_lanes", "scattered", "warp"))

# Twelve channels a group: three lanes have four each, the fourth none; the rows end within a warp.
LANES = {"channels": 24, "groups": 2, "size": (3, 3)}
# Shapes that every guard of a rung matters for.
SHAPES = {
    SHUFFLE: LANES,
    VECTOR_ATOMIC: LANES,
    TILE: {**LANES, "size": (20, 3)},  # higher than the area of a tile
    DETERMINISTIC: {**LANES, "size": (15, 17)},  # more cells than a block scans at a time
}

SHUFFLES = "__shfl_xor_sync(WHOLE_WARP"
LOADS = "*reinterpret_cast<const Pack<T, WIDTH>*>(from)"

# As in test_planted_bugs.py.
BUGS = {
    "half of the warp is not named": (
        SHUFFLE, WARP, [("WHOLE_WARP = 0xffffffffu", "WHOLE_WARP = 0x0000ffffu")],
        "bad shuffle mask", None, SHUFFLES,
    ),
    "spare lanes do not come to the shuffle": (
        SHUFFLE, None,
        [("    const unsigned pixel =", "    if (!lane.has_channels) return;\n    const unsigned pixel =")],
        "bad shuffle mask", None, SHUFFLES,
    ),
    "lanes behind the last channel load": (
        SHUFFLE, GROUP_LANES, [("has_channels = !spare && channel < group_width", "has_channels = !spare")],
        "out of bounds", ("grad_output", "input"), LOADS,
    ),
    "vectors begin between the channels": (
        SHUFFLE, GROUP_LANES, [("int(thread % lanes) * WIDTH;", "int(thread % lanes) * WIDTH + 1;")],
        "misaligned access", None, LOADS,
    ),
    "a plain add of a lane's share": (
        SHUFFLE, None,
        [("Scattered<A> grad_input", "A* grad_input"), ("const Scattered<A> to", "A* to"),
         ("atomicAdd(to + c, share[c]);", "to[c] += share[c];")],
        "data race", "grad_input", "to[c] += share[c];",
    ),
    "four sums from the second one on": (
        VECTOR_ATOMIC, None, [("add_four(to + c,", "add_four(to + c + 1,")],
        "misaligned access", "grad_input", "atomicAdd(to, four);",
    ),
    "a plain add of four": (
        VECTOR_ATOMIC, SCATTERED, [("atomicAdd(to, four);", "to.sums()[0] = to.sums()[0] + four.x;")],
        "data race", "grad_input", "to.sums()[0] = to.sums()[0] + four.x;",
    ),
    "the area is one row too high": (
        TILE, None, [("unsigned(at_y) < AREA", "unsigned(at_y) <= AREA")],
        "out of bounds", None, "atomicAdd(sum + c, share[c]);",
    ),
    "no barrier before the flush": (
        TILE, None,
        [("        __syncthreads();\n        for (int i = threadIdx.x; i < size; i += blockDim.x) {",
          "        for (int i = threadIdx.x; i < size; i += blockDim.x) {")],
        "data race", None, ("if (sums[i] == A(0))", "atomicAdd(sum + c, share[c]);"),
    ),
    "no barrier behind the zeros": (
        TILE, None,
        [("        __syncthreads();\n        for (unsigned start", "        for (unsigned start")],
        ("data race", "uninitialised shared memory"), None, ("sums[i] = A(0);", "atomicAdd(sum + c, share[c]);"),
    ),
    "a plain add in shared memory": (
        TILE, None, [("atomicAdd(sum + c, share[c]);", "sum[c] += share[c];")],
        "data race", None, "sum[c] += share[c];",
    ),
    "outputs outside the image leave the block": (
        TILE, None, [("lane.has_channels = lane.is_first = false;", "return;")],
        "bad shuffle mask", None, SHUFFLES,
    ),
    "the scan is inclusive": (
        DETERMINISTIC, None, [("before + sum - count;", "before + sum;")],
        ("data race", "out of bounds"), "lists", "lists[segment * list_length(shape) + place]",
    ),
    "the scan's warps do not wait for each other": (
        DETERMINISTIC, None,
        [("            __syncthreads();\n            int start", "            int start")],
        ("data race", "uninitialised shared memory"), None, ("sums[warp] = sum;", "sums[w]"),
    ),
    "the scan's next round does not wait": (
        DETERMINISTIC, None,
        [("here[i] = start;\n            __syncthreads();", "here[i] = start;")],
        "data race", None, ("sums[warp] = sum;", "sums[w]"),
    ),
    "a plain count": (
        DETERMINISTIC, None, [("const int place = atomicAdd(next, 1);", "const int place = (*next)++;")],
        "data race", "starts", "(*next)++",
    ),
    "cells do not begin above the image": (
        DETERMINISTIC, None, [("return (row + 1) * (shape.width + 1)", "return row * (shape.width + 1)")],
        "out of bounds", "starts", ("atomicAdd(next, 1)", "end[-1]"),
    ),
}  # fmt: skip
