"""Bugs for the kernel exercises, planted in their solutions; read by exercises/test_kernel_exercises.py."""

OUT, RACE, UNWRITTEN, DIVERGENT = "out of bounds", "race", "uninitialised shared memory", "divergent barrier"

GUARD, SPARE = "if (n >= height * width * channels) return;", "    if (c >= channels) return;\n"
X, Y = "2 * tap])", "2 * tap + 1])"
COLUMN, ROW = "k / 3 - 1", "k % 3 - 1"
FLOORS = "int(floorf(y)), x0 = int(floorf(x))"
FETCH, BARRIER = "    for (int t = threadIdx.x", "    __syncthreads();\n"
SUM = "m[t] * sample"
SCATTER = "atomicAdd(&grad_input[(row * width + column) * channels + c], weight * mask[tap] * grad_output[n])"
CORNERS = "if (row < 0 || row >= height || column < 0 || column >= width) continue;"
FREE = "grad_mask[tap] = part[0];\n        __syncthreads();"

NO_OUTPUT, CORNER, ELSE = "This thread has no output", "A corner lies outside", "Work out by hand"

# Exercise, replacements in its solution, kind of the report, a text in the line that it names (None if it names none),
# words of the diagnosis. Which of the stores to x[t], y[t] and m[t] comes first is the compiler's choice.
BUGS = {
    # -- values and guards -----------------------------------------------------------------------------------------
    "no guard": ("first_kernel", [(GUARD, "")], OUT, "offset[2 * tap]", NO_OUTPUT),
    "a guard one too late": ("first_kernel", [("n >= height", "n > height")], OUT, "offset[2 * tap]", NO_OUTPUT),
    "rows unguarded": ("first_kernel", [("row < 0 || row >= height || ", "")], OUT, "input[", CORNER),
    "ten taps": ("first_kernel", [("k < 9", "k < 10")], OUT, "offset[2 * tap]", ELSE),
    "one pixel for all": ("first_kernel", [("output[n] =", "output[c] =")], RACE, "output[c] =", "atomicAdd"),
    "x and y swapped": (
        "first_kernel", [(X, "2 * tap + 1 ])"), (Y, X)],
        "value", None, "x and y are swapped in the offsets",
    ),
    "taps row by row": (
        "first_kernel", [(COLUMN, "k % 3  - 1"), (ROW, COLUMN)],
        "value", None, "You count the taps row by row",
    ),
    "a cast instead of floor": (
        "first_kernel", [(FLOORS, "int(y), x0 = int(x)")],
        "value", None, "A cast to int rounds towards 0",
    ),
    "one channel of two": ("first_kernel", [("output[n] =", "if (c % 2 == 0) output[n] =")], "value", None, ""),
    "tap 7 left out": ("first_kernel", [("k < 9; ++k", "k < 9; k += k == 6 ? 2 : 1")], "value", None, ""),
    # -- shared memory ---------------------------------------------------------------------------------------------
    "no barrier": ("shared_taps", [(BARRIER, "")], UNWRITTEN, SUM, "__syncthreads()"),
    "a barrier too early": (
        "shared_taps", [(BARRIER, ""), (FETCH, BARRIER + FETCH)],
        UNWRITTEN, SUM, "__syncthreads()",
    ),
    "no second round": (
        "shared_taps", [("t += blockDim.x", "t += 1000")],
        UNWRITTEN, SUM, "more elements than threads",
    ),
    "threads to spare leave early": (
        "shared_taps", [(SPARE, ""), (FETCH, SPARE + FETCH)],
        DIVERGENT, "__syncthreads", "none may return before it",
    ),
    "threads to spare go on": ("shared_taps", [(SPARE, "")], UNWRITTEN, SUM, NO_OUTPUT),
    "every thread fetches every tap": (
        "shared_taps", [("t = threadIdx.x; t", "t = 0; t"), ("t += blockDim.x", "t += 1")],
        RACE, "[t] =", "Give each element to one",
    ),
    "the mask from global memory": (
        "shared_taps", [("sum += m[t]", "sum += mask[pixel * 9 * groups + t]")],
        "traffic", None, "read by one thread, once",
    ),
    "room for 32 taps": (
        "shared_taps", [("y[36], x[36], m[36]", "y[32], x[32], m[32]")],
        OUT, "[t] =", ELSE,
    ),
    # -- atomics ---------------------------------------------------------------------------------------------------
    "no atomics": (
        "atomic_scatter", [(SCATTER, SCATTER.replace("atomicAdd(&", "").replace("], ", "] += ").rstrip(")"))],
        RACE, "grad_input[", "atomicAdd",
    ),
    "corners unguarded": ("atomic_scatter", [(CORNERS, "")], OUT, "atomicAdd(&grad_input", CORNER),
    "no weight": (
        "atomic_scatter", [("weight * mask[tap]", "mask[tap]")],
        "value", None, "All four corners get the same",
    ),
    "no modulation": (
        "atomic_scatter", [("weight * mask[tap] *", "weight *")],
        "value", None, "The mask is not used",
    ),
    "the gradient of another channel": (
        "atomic_scatter", [("grad_output[n]", "grad_output[pixel * channels]")],
        "value", None, "",
    ),
    # -- the kernel of exercise 11 ---------------------------------------------------------------------------------
    "blocks that add without atomics": (
        "find_the_race", [("atomicAdd(&grad_input[i], ", "grad_input[i] += (")],
        RACE, "grad_input[i] +=", "atomicAdd",
    ),
    "no barrier between two taps": (
        "find_the_race", [("__syncthreads();  //", "//")],
        "missing barrier", "part[c] = value * g", "belongs between the two",
    ),
    "a barrier for thread 0 only": (
        "find_the_race", [(f"if (c == 0) {FREE}", f"if (c == 0) {{ {FREE} }}")],
        DIVERGENT, "__syncthreads(); }", "may not stand in a branch",
    ),
    "half a tree": ("find_the_race", [("step > 0", "step > 1")], "value", None, ""),
}  # fmt: skip
