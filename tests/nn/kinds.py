"""Odd layers that the tests of adapted layers share: with a hook, and with another ``forward``."""

from __future__ import annotations

from torch import nn

__all__ = ["_hooked", "_patched", "single"]


def single(layer: nn.Module) -> nn.Sequential:
    return nn.Sequential(layer)


def _hooked(base: nn.Module) -> None:
    base.register_forward_hook(lambda module, inputs, output: output + 1.0)


def _patched(base: nn.Module) -> None:
    """Patch the layer as offloading does."""
    forward = base.forward
    base.forward = lambda x: forward(x) - 3.0
