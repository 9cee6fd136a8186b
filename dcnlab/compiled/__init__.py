"""The same operators by CUDA kernels: on this CPU for NumPy arrays, on a GPU for CuPy arrays.

`deformable` has the functions, with the signatures of `dcnlab.reference.deformable`; `rungs` says which kernels run.
"""
