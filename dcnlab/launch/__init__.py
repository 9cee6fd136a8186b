"""Compile a CUDA C++ file and launch its kernels, on a GPU or on this CPU, with the same Python call.

::

    kernels = module("sampling/1_naive.cu", ["sample_bilinear<float, float>"], target="cpu")
    kernels["sample_bilinear<float, float>"][grid, block](*arguments)

`target="cpu"` compiles the unchanged file with the machine's C++ compiler against kernels/cpu; `mode="check"` then
finds out-of-bounds accesses, data races, reads of uninitialised shared memory, and says where. `dcnlab kernels check
FILE` (check_file.py) does that for a file of yours.
"""

from dcnlab.launch.cache import cache_folder
from dcnlab.launch.faults import Access, KernelCompileError, KernelFault
from dcnlab.launch.forced import forced
from dcnlab.launch.modules import Kernel, Launcher, Module, module
from dcnlab.launch.sources import kernels_folder
from dcnlab.launch.threads import limit_blas, num_threads
from dcnlab.launch.toolchain import Compiler, find_compiler
from dcnlab.launch.traffic import Traffic

__all__ = [
    "Access",
    "Compiler",
    "Kernel",
    "KernelCompileError",
    "KernelFault",
    "Launcher",
    "Module",
    "Traffic",
    "cache_folder",
    "find_compiler",
    "forced",
    "kernels_folder",
    "limit_blas",
    "module",
    "num_threads",
]
