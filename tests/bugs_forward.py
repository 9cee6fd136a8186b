"""Bugs for the upper rungs of DCNv3 forward; read by test_planted_bugs.py."""

VECTOR, RECORDS, HALF = (("dcnv3_forward", idea) for idea in ("3_vector", "4_records", "5_half"))
TAP, VECTORS, RECORDS_HEADER = (f"include/{name}.cuh" for name in ("tap", "vectors", "records"))

# Two blocks of 64 rows, the second with 20; four vectors of float a group, two of half. Many samples cross the border.
SHAPES = {"channels": 32, "groups": 2, "size": (6, 7)}

LOADS, STORES = "reinterpret_cast<const uint4*>(first)[number]", "*reinterpret_cast<Pack<T, WIDTH>*>(to) = pack"
READS = ("load<A>(mask[k])", "load<A>(offset[2 * k")
BARRIER = ("    __syncthreads();\n", "\n")
HALF_RECORD = ("tap.place", "tap.upper", "tap.lower", "tap.modulation")
RECORD = ("const Weights<A> weight =", "const Place place =")

# As in test_planted_bugs.py.
BUGS = {
    "vectors without the tail guard": (
        VECTOR, None, [("item >= shape.rows() * vectors || ", "")],
        "out of bounds", ("mask", "offset"), READS,
    ),
    "a vector from the second channel on": (
        VECTOR, None, [("packs_of(input, shape, n, channel)", "packs_of(input, shape, n, channel + 1)")],
        "misaligned access", (None, "input"), LOADS,
    ),
    "a store between two vectors": (
        VECTOR, None, [("vectors + item) * WIDTH,", "vectors + item) * WIDTH + WIDTH / 2,")],
        "misaligned access", (None, "output"), STORES,
    ),
    "the next image": (
        VECTOR, None, [("packs_of(input, shape, n, channel)", "packs_of(input, shape, n + 1, channel)")],
        "out of bounds", "input", LOADS,
    ),
    "stores of twice the width": (
        VECTOR, None, [("store_pack<WIDTH>(", "store_pack<2 * WIDTH>(")],
        ("misaligned access", "data race", "out of bounds"), (None, "output"), STORES,
    ),
    "vectors of half the width": (
        VECTOR, None, [("* vectors) * WIDTH;", "* vectors) * (WIDTH / 2);")],
        "misaligned access", (None, "input"), LOADS,
    ),
    "all corners are loaded": (
        VECTOR, TAP, [("there >> i & 1)", "true)")],
        "out of bounds", "input", LOADS,
    ),
    "the cell below the last": (
        VECTOR, TAP, [("cell + i / 2 * below", "cell + (i / 2 + 1) * below")],
        "out of bounds", "input", LOADS,
    ),
    "records without a barrier": (
        RECORDS, None, [BARRIER],
        ("uninitialised shared memory", "data race"), None, RECORD,
    ),
    "only threads with a row wait": (
        RECORDS, None, [("__syncthreads();", "if (threadIdx.x < rows) __syncthreads();")],
        "data race", None, RECORD,
    ),
    "threads without a row leave": (
        RECORDS, None,
        [("    make_records<SOFTMAX>(", "    if (threadIdx.x >= rows) return;\n    make_records<SOFTMAX>(")],
        "divergent barrier", None, "__syncthreads();",
    ),
    "records of the rows behind the last": (
        RECORDS, None, [("min(shape.rows() - first, unsigned(ROWS))", "unsigned(ROWS)")],
        "out of bounds", ("mask", "offset"), READS,
    ),
    "records of the row beside, none for the last": (
        RECORDS, None, [("weights[k * ROWS + r];", "weights[k * ROWS + r + 1];")],
        ("uninitialised shared memory", "out of bounds"), None, RECORD,
    ),
    "two rows share a record": (
        RECORDS, None, [("places[k * ROWS + r] = {", "places[k * ROWS + r / 2] = {")],
        "data race", None, "places[k * ROWS + r / 2] = {",
    ),
    "records row by row, read tap by tap": (
        HALF, None, [("records[k * ROWS + r] = {", "records[r * USUAL + k] = {")],
        "uninitialised shared memory", None, HALF_RECORD,
    ),
    "half records without a barrier": (
        HALF, None, [BARRIER],
        ("uninitialised shared memory", "data race"), None, HALF_RECORD,
    ),
    "more vectors than a group has": (
        HALF, None, [("unsigned(shape.group_width / 8)", "unsigned(shape.group_width / 4)")],
        "out of bounds", ("input", "output"), (LOADS, STORES),
    ),
    "three bits for four corners": (
        HALF, None, [("tap.place >> 4", "tap.place >> 3")],
        "out of bounds", "input", LOADS,
    ),
}  # fmt: skip
