"""Detect what a backend must not do to its caller: change global state, or keep arrays that it has
returned.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import random
import sys
from collections.abc import Callable, Iterable, Iterator
from functools import cache
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
        with contextlib.suppress(
            ValueError, TypeError, RuntimeError, AttributeError
        ):  # read-only, JAX, inference tensors
            if isinstance(X, np.ndarray):
                X[...] = np.nan
            elif hasattr(X, "detach"):
                X.detach().fill_(np.nan)
            else:
                X.fill(np.nan)


@contextlib.contextmanager
def watched() -> Iterator[list[str]]:
    """Restore all global state after this context; the list then names the state that was changed inside."""
    settings = _settings()
    kept = [setting.read() for setting in settings]
    for setting in settings:
        setting.probed()
    marked = [setting.probed() for setting in settings]
    touched: list[str] = []
    try:
        yield touched
    finally:
        found = [setting.probed() for setting in settings]
        for setting, before, after in reversed(
            [*zip(settings, kept, found, strict=True)]
        ):  # torch's device above all
            if setting.probe or not setting.same(after, before):
                setting.write(before)
    touched += [
        s.said
        for s, before, after in zip(settings, marked, found, strict=True)
        if not s.same(after, before)
    ]


class _Setting(NamedTuple):
    """A global state: ``said``, the text if it has changed, and the functions that read and restore it.

    ``probe`` : for a random generator, a part of the state that is quicker to read.  Reading it
    moves the generator to a state that no backend reaches by chance; from the second reading on it
    stays the same until other code has used or seeded the generator.
    ``same`` : whether a later state and an earlier one are the same for the caller.
    """

    said: str
    read: Callable[[], Any]
    write: Callable[[Any], Any]
    probe: Callable[[], Any] | None = None
    same: Callable[[Any, Any], bool] = lambda after, before: _same(after, before)

    def probed(self) -> Any:
        """The probe, or the whole state if there is no probe: comparing two of them shows a change."""
        return (self.probe or self.read)()


MARK = 1729
FURTHER = 100
"""The number of generations, of 624 numbers each, in which a state of Python's generator is looked for."""
ONES = (1.0, -1.0)
HALF, NORMAL, SUBNORMAL = 2.0**-53, 2.0**-1022, 2.0**-1074
"""Half of eps, and the smallest normal and subnormal numbers."""
ENVIRONMENT = 512
"""More bytes than the floating-point environment of any processor has."""
PROCESSOR = "left the processor with another {}: it belongs to the caller"
SEEDED = "seeded Python's global random generator: the caller's randomness changes"
RANDOMNESS = "seeded or used {} global random generator: the caller's randomness changes"


def _settings() -> list[_Setting]:
    """The generators of NumPy and Python, the numbers of threads in the environment and, if it is
    loaded, torch's settings.
    """
    settings = [
        _Setting(RANDOMNESS.format("NumPy's"), _state_of_numpy, _put_back_to_numpy, _next_of_numpy),
        _Setting(SEEDED, random.getstate, random.setstate, same=_drawn_from),
        _Setting(
            "changed a number of threads in the environment: it belongs to the caller",
            _threads,
            _put_back_threads,
        ),
        _Setting(PROCESSOR.format("rounding mode"), _mode, _put_back_mode, _rounding),
        _Setting(
            PROCESSOR.format("treatment of subnormal numbers"), _mode, _put_back_mode, _flushes
        ),
    ]
    if "torch" in sys.modules:
        torch, said = sys.modules["torch"], "left torch with another {}: it belongs to the caller"
        begun = torch.Generator().manual_seed(MARK).get_state()
        deterministic = (
            torch.get_deterministic_debug_mode,
            torch.set_deterministic_debug_mode,
        )  # warn_only included
        settings += [
            _generator_of_torch(
                torch.get_rng_state, torch.set_rng_state, lambda: torch.set_rng_state(begun)
            ),
            *_on_cuda(torch),
            _Setting(said.format("grad mode"), torch.is_grad_enabled, torch.set_grad_enabled),
            _Setting(
                said.format("default dtype"), torch.get_default_dtype, torch.set_default_dtype
            ),
            _Setting(said.format("autocast"), *_autocast(torch)),
            _Setting(said.format("choice of deterministic algorithms"), *deterministic),
            _Setting(
                said.format("number of threads"), torch.get_num_threads, torch.set_num_threads
            ),
            _Setting(said.format("precision of float32 products"), *_products(torch)),
            _Setting(said.format("default device"), *_default_device(torch)),
        ]
    return settings


def _drawn_from(after: Any, before: Any) -> bool:
    """Return whether a state of Python's generator follows from another by drawing, which is
    allowed: run-time type checkers draw.
    """
    if after[1][:-1] == before[1][:-1]:
        return True
    generator = random.Random()  # noqa: S311
    generator.setstate(before)
    for _ in range(FURTHER):
        generator.getrandbits(32 * (len(before[1]) - 1))
        if generator.getstate()[1][:-1] == after[1][:-1]:
            return True
    return False


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


def _default_device(torch: Any) -> tuple[Callable[[], Any], Callable[[Any], Any]]:
    """The functions that read and restore the default device; without a default device torch reads
    as CPU.
    """

    def read() -> Any:
        try:
            return torch.get_default_device()
        except AttributeError:  # torch up to 2.9 raises it after set_default_device(None)
            return torch.device("cpu")

    def restore(before: Any) -> None:
        torch.set_default_device(None if before.type == "cpu" else before)
        try:
            torch.get_default_device()
        except AttributeError:  # the CPU by name is all that such a torch can tell the caller
            torch.set_default_device("cpu")

    return read, restore


def _state_of_numpy() -> tuple[Any, dict[str, Any]]:
    """The global generator's source of bits, which may be replaced, and its state."""
    return get_bit_generator(), np.random.get_state(legacy=False)  # noqa: NPY002


def _put_back_to_numpy(before: tuple[Any, dict[str, Any]]) -> None:
    """Restore the state with its cached normal number (normal numbers are drawn in pairs)."""
    bits, state = before
    if get_bit_generator() is not bits:
        set_bit_generator(bits)
    np.random.set_state(state)  # noqa: NPY002


def _next_of_numpy() -> int:
    """The next number of the Mersenne twister; reading the whole state would take a hundred times as long.

    Another source of bits cannot be seeded, and is replaced by a Mersenne twister.  A cached normal
    number is restored later, but not compared.
    """
    bits = get_bit_generator()
    number = int(bits.random_raw()) if isinstance(bits, np.random.MT19937) else -1
    if number < 0:
        set_bit_generator(np.random.MT19937())
    np.random.seed(MARK)  # noqa: NPY002
    return number


def _generator_of_torch(
    read: Callable[[], Any], write: Callable[[Any], Any], begin: Callable[[], Any]
) -> _Setting:
    """The setting of a generator of torch; its whole state is quick to read and serves as the probe."""

    def probe() -> Any:
        state = read()
        begin()
        return state

    return _Setting(RANDOMNESS.format("torch's"), read, write, probe)


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


def _rounding() -> tuple[float, ...]:
    """Sums by which the four rounding modes of this thread differ."""
    return tuple(
        one + small for one in ONES for small in (0.5 * HALF, 1.5 * HALF, -0.5 * HALF, -1.5 * HALF)
    )


def _flushes() -> tuple[bool, bool]:
    """Return whether this thread flushes subnormal arguments to 0, and subnormal results."""
    return SUBNORMAL * ONES[0] == 0.0, NORMAL * (0.5 * ONES[0]) == 0.0


@cache
def _libm() -> Any:
    """The C library with fegetenv and fesetenv, or None if there is none, as on Windows."""
    try:
        library = ctypes.CDLL(None)
        return library if library.fegetenv and library.fesetenv else None
    except (TypeError, AttributeError, OSError):
        return None


def _mode() -> bytes:
    """The floating-point environment of this thread: its rounding mode and treatment of subnormal numbers."""
    environment = ctypes.create_string_buffer(ENVIRONMENT)
    if _libm() is not None:
        _libm().fegetenv(environment)
    return environment.raw


def _put_back_mode(before: bytes) -> None:
    if _libm() is not None:
        _libm().fesetenv(ctypes.create_string_buffer(before, ENVIRONMENT))


def _on_cuda(torch: Any) -> list[_Setting]:
    """The generators of all CUDA devices, if CUDA is in use; otherwise reading them would
    initialise every device.
    """
    if not torch.cuda.is_initialized():
        return []
    cuda = torch.cuda
    return [
        _generator_of_torch(
            cuda.get_rng_state_all, cuda.set_rng_state_all, lambda: cuda.manual_seed_all(MARK)
        )
    ]


def _same(found: Any, before: Any) -> bool:
    """Return whether two states are equal; those of torch's generators are tensors, or lists of them."""
    if isinstance(found, tuple | list):
        return len(found) == len(before) and all(map(_same, found, before))
    return bool(found.equal(before)) if hasattr(found, "equal") else bool(found == before)
