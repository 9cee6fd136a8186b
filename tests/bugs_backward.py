"""Bugs for the rungs of DCNv3 backward that spread a group over lanes; read by test_planted_bugs.py."""

SHUFFLE = ("dcnv3_backward", "3_shuffle")
VECTOR_ATOMIC = ("dcnv3_backward", "4_vector_atomic")
GROUP_LANES, SCATTERED = "include/group_lanes.cuh", "include/scattered.cuh"

# Twelve channels a group: three lanes have four each, the fourth none; the rows end within a warp.
SHAPES = {"channels": 24, "groups": 2, "size": (3, 3)}

SHUFFLES = "__shfl_xor_sync(WHOLE_WARP"
LOADS = "*reinterpret_cast<const Pack<T, WIDTH>*>(from)"

# As in test_planted_bugs.py.
BUGS = {
    "half of the warp is not named": (
        SHUFFLE, GROUP_LANES, [("WHOLE_WARP = 0xffffffffu", "WHOLE_WARP = 0x0000ffffu")],
        "bad shuffle mask", None, SHUFFLES,
    ),
    "spare lanes do not come to the shuffle": (
        SHUFFLE, None,
        [("    const unsigned pixel =", "    if (thread / LANES >= shape.rows()) return;\n    const unsigned pixel =")],
        "bad shuffle mask", None, SHUFFLES,
    ),
    "lanes behind the last channel load": (
        SHUFFLE, GROUP_LANES, [("has_channels = !spare && channel < group_width", "has_channels = !spare")],
        "out of bounds", ("grad_output", "input"), LOADS,
    ),
    "vectors begin between the channels": (
        SHUFFLE, GROUP_LANES, [("int(thread % LANES) * WIDTH;", "int(thread % LANES) * WIDTH + 1;")],
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
}  # fmt: skip
