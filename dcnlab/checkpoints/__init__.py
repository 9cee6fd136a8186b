"""Checkpoints: read torch's .pth, .safetensors and .npz without executing anything; write the latter two."""
