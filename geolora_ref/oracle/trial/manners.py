"""Detect what a backend must not do to its caller: change global state, or keep arrays that it has
returned.
"""

from __future__ import annotations

import contextlib
import os
import random
import sys
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

import numpy as np
from numpy.random.mtrand import get_bit_generator, set_bit_generator

from geolora_ref.arrays import Array

__all__ = ["spoil", "watched"]


def spoil(arrays: Iterable[Array]) -> None:
    """Overwrite arrays with NaN that their owner needs no longer; an array that cannot be written
    to stays as it is.

    A backend that has kept such an array computes with the overwritten numbers from now on.
    """
    for X in arrays:
        # read-only, JAX, inference tensors
        with contextlib.suppress(ValueError, TypeError, RuntimeError, AttributeError):
            if isinstance(X, np.ndarray):
                X[...] = np.nan
            elif hasattr(X, "detach"):
                X.detach().fill_(np.nan)
            else:
                X.fill(np.nan)


@contextlib.contextmanager
def watched() -> Iterator[list[str]]:
    """Restore all global state after this context; the list then names the state that was changed
    inside.

    The generators draw first: one that is seeded with the same number in every call would else be
    found as it was left.
    """
    settings = []
    for setting in _settings():
        before = setting.read()
        setting.draw()
        settings.append((setting, before, setting.read()))
    touched: list[str] = []
    try:
        yield touched
    finally:
        for setting, before, drawn in reversed(settings):  # torch's default device first
            found = setting.read()
            if not _same(found, before):
                setting.write(before)
            if not _same(found, drawn) and setting.counts(found, drawn):
                touched.insert(0, setting.said)


def _same(found: Any, before: Any) -> bool:
    """Return whether two states are equal; some have arrays or tensors in them."""
    if isinstance(found, tuple | list):
        return len(found) == len(before) and all(map(_same, found, before))
    if isinstance(found, dict):
        return found.keys() == before.keys() and all(_same(X, before[k]) for k, X in found.items())
    if isinstance(found, np.ndarray):
        return np.array_equal(found, before)
    return bool(found.equal(before)) if hasattr(found, "equal") else bool(found == before)


class _Setting(NamedTuple):
    """A global state: ``said``, the text if it has changed, and the functions that read and restore
    it; ``counts`` : whether a change is one for the caller; ``draw`` : move a generator on.
    """

    said: str
    read: Callable[[], Any]
    write: Callable[[Any], Any]
    counts: Callable[[Any, Any], bool] = lambda found, before: True
    draw: Callable[[], Any] = lambda: None


FURTHER = 100
"""The number of generations, of 624 numbers each, in which a state of Python's generator is looked
for.
"""
ONE, SUBNORMAL = [1.0], 2.0**-1074
RANDOMNESS = "seeded or used {} global random generator: the caller's randomness changes"
SEEDED = "seeded Python's global random generator: the caller's randomness changes"
THREADS = "changed a number of threads in the environment: it belongs to the caller"
LEFT = "left {} with another {}: it belongs to the caller"


def _settings() -> list[_Setting]:
    """The generators of NumPy and Python, the numbers of threads in the environment and, if it is
    loaded, the settings of torch, the treatment of subnormal numbers among them.
    """
    settings = [
        _Setting(
            RANDOMNESS.format("NumPy's"),
            _state_of_numpy,
            _put_back_to_numpy,
            draw=np.random.random_sample,
        ),
        _Setting(SEEDED, random.getstate, random.setstate, _is_seeded, draw=_next_generation),
        _Setting(THREADS, _threads, _put_back_threads),
    ]
    torch = sys.modules.get("torch")
    if torch is None:
        return settings
    said = RANDOMNESS.format("torch's")
    states = torch.get_rng_state, torch.set_rng_state
    generators = [_Setting(said, *states, draw=lambda: torch.rand((), device="cpu"))]
    if torch.cuda.is_initialized():  # otherwise reading them would initialise every device
        states = torch.cuda.get_rng_state_all, torch.cuda.set_rng_state_all
        generators.append(_Setting(said, *states, draw=lambda: torch.rand((), device="cuda")))
    deterministic = torch.get_deterministic_debug_mode, torch.set_deterministic_debug_mode
    named: dict[str, tuple[Callable[[], Any], Callable[[Any], Any]]] = {
        "grad mode": (torch.is_grad_enabled, torch.set_grad_enabled),
        "default dtype": (torch.get_default_dtype, torch.set_default_dtype),
        "autocast": _autocast(torch),
        "choice of deterministic algorithms": deterministic,  # warn_only included
        "number of threads": (torch.get_num_threads, torch.set_num_threads),
        "precision of float32 products": _products(torch),
        "treatment of subnormal numbers": (_flushes, torch.set_flush_denormal),
        "default device": _default_device(torch),
    }
    return [
        *settings,
        *generators,
        *(_Setting(LEFT.format("torch", name), *pair) for name, pair in named.items()),
    ]


def _default_device(torch: Any) -> tuple[Callable[[], Any], Callable[[Any], Any]]:
    """The functions that read and restore the default device; none reads as CPU."""

    def write(before: Any) -> None:
        torch.set_default_device(None if before.type == "cpu" else before)

    return lambda: torch.empty(0).device, write


def _is_seeded(found: Any, before: Any) -> bool:
    """Return whether a state of Python's generator does not follow from another by drawing, which
    is allowed: run-time type checkers draw.
    """
    generator = random.Random()  # noqa: S311
    generator.setstate(before)
    for _ in range(FURTHER):
        if generator.getstate()[1][:-1] == found[1][:-1]:
            return False
        generator.getrandbits(32 * (len(before[1]) - 1))
    return True


def _next_generation() -> None:
    """Draw as many numbers as Python's generator makes at once."""
    random.getrandbits(32 * (len(random.getstate()[1]) - 1))


def _threads() -> dict[str, str]:
    """The environment variables that set numbers of threads."""
    return {name: value for name, value in os.environ.items() if name.endswith("_NUM_THREADS")}


def _put_back_threads(before: dict[str, str]) -> None:
    for name in _threads():
        del os.environ[name]
    os.environ.update(before)


def _autocast(torch: Any) -> tuple[Callable[[], Any], Callable[[Any], Any]]:
    """The functions that read and restore autocast, for the kinds of device in use."""
    kinds = ["cpu", *(["cuda"] if torch.cuda.is_initialized() else [])]

    def read() -> list[tuple[bool, Any]]:
        return [(torch.is_autocast_enabled(kind), torch.get_autocast_dtype(kind)) for kind in kinds]

    def write(before: list[tuple[bool, Any]]) -> None:
        for kind, (enabled, dtype) in zip(kinds, before, strict=True):
            torch.set_autocast_enabled(kind, enabled)
            torch.set_autocast_dtype(kind, dtype)
        torch.clear_autocast_cache()

    return read, write


def _state_of_numpy() -> tuple[Any, dict[str, Any]]:
    """The global generator's source of bits, which may be replaced, and its state."""
    return get_bit_generator(), np.random.get_state(legacy=False)  # noqa: NPY002


def _put_back_to_numpy(before: tuple[Any, dict[str, Any]]) -> None:
    """Restore the state with its cached normal number (normal numbers are drawn in pairs)."""
    bits, state = before
    if get_bit_generator() is not bits:
        set_bit_generator(bits)
    np.random.set_state(state)  # noqa: NPY002


def _products(torch: Any) -> tuple[Callable[[], Any], Callable[[Any], Any]]:
    """The functions that read and restore the precision of products: the common setting, and since
    torch 2.9 each backend's.
    """
    backends = (
        (torch.backends.cuda.matmul, torch.backends.mkldnn.matmul)
        if hasattr(torch.backends.mkldnn, "matmul")
        else ()
    )

    def read() -> tuple[str, ...]:
        try:
            common = torch.get_float32_matmul_precision()
        except RuntimeError:  # the backends do not agree
            common = ""
        return common, *(backend.fp32_precision for backend in backends)

    def write(before: tuple[str, ...]) -> None:
        if before[0]:
            torch.set_float32_matmul_precision(before[0])
        for backend, precision in zip(backends, before[1:], strict=True):
            backend.fp32_precision = "none"  # an inherited value reads like one of its own
            if backend.fp32_precision != precision:
                backend.fp32_precision = precision

    return read, write


def _flushes() -> bool:
    """Return whether this thread flushes subnormal numbers to 0."""
    return SUBNORMAL * ONE[0] == 0.0
