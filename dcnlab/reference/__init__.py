"""The operators in readable NumPy, twice.

`loops` is the executable specification: plain for loops, to be read beside the papers. The other modules are the
same functions vectorised, on one shared sampling module; they also run on CuPy arrays.
"""
