"""Digests of weights: which networks made a set, whatever their folder is called; and weights that are none."""

from __future__ import annotations

import hashlib

import torch


def weights_digest(module: torch.nn.Module) -> str:
    """Return the SHA-256 (64 hex digits) over the names, types, shapes and bytes of all weights.

    It is the same however a checkpoint is cut into files.
    """
    digest = hashlib.sha256()
    for name, tensor in sorted(module.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()
