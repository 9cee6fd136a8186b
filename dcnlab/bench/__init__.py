"""Benchmarks: every figure is a ratio to a peer, or to a floor, measured in the same run."""
