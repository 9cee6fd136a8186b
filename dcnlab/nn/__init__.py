"""Layers: parameters, a forward pass, and a backward pass written by hand."""
