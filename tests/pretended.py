"""A pretended device: its tensors name it as theirs, keep their numbers on the CPU, and refuse what
a GPU refuses.

Operands on two devices, NumPy's view of a tensor on the device, an index of another device where
CUDA wants its own: each is an error here as on a GPU, and copies between the devices are counted.
Nothing else of a GPU is pretended: not its kernels, its rounding, its memory, nor its work at the
same time as the host's.

``pytest -p tests.pretended`` runs the tests of ``tests.devices`` on it, and no others.  The device
takes the place that torch keeps for backends of other vendors.  There is one in a process, and for
good, so that the tests need a process of their own.
"""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, cast

import pytest
import torch
from torch import Tensor
from torch.utils import backend_registration
from torch.utils._python_dispatch import TorchDispatchMode, return_and_correct_aliasing
from torch.utils._pytree import tree_map_only

__all__ = ["NAME", "PretendedDevice", "is_registered", "missing"]

NAME = "pretended"
PLACE = "pretended:0"
aten = torch.ops.aten
CROSSING = (aten._to_copy.default, aten.copy_.default)
"""Operations that copy from one device to the other."""
INDEXED = (aten.index.Tensor, aten.index_put.default, aten.index_put_.default)
"""Operations that take indices and numbers from the host as well, and upload them."""
WAITING = {
    aten._local_scalar_dense.default: "down",
    aten.equal.default: "down",
    aten.nonzero.default: "nonzero",
    aten._linalg_eigh.default: "eigh",
    aten._linalg_svd.default: "svd",
}
"""Operations that the host waits for: a number, a size that depends on numbers, a flag of errors."""


def missing() -> str:
    """Why there is no pretended device with this torch, or an empty string."""
    if not hasattr(backend_registration, "_setup_privateuseone_for_python_backend"):
        return f"torch {torch.__version__} takes no backends that are written in Python"
    return ""


def is_registered() -> bool:
    """Return whether this process has the device."""
    return torch._C._get_privateuse1_backend_name() == NAME


class There(Tensor):
    """A tensor on the pretended device: ``held`` are its numbers."""

    held: Tensor
    __torch_function__ = torch._C._disabled_torch_function_impl  # type: ignore[assignment]

    @staticmethod
    def __new__(cls, held: Tensor) -> There:
        """The wrapper of a tensor, with its shape, strides and dtype."""
        X: There = Tensor._make_wrapper_subclass(
            cls,
            held.shape,
            strides=held.stride(),
            storage_offset=held.storage_offset(),
            dtype=held.dtype,
            device=torch.device(PLACE),
        )
        X.held = held
        return X

    @classmethod
    def __torch_dispatch__(  # type: ignore[override]
        cls,
        func: Any,
        types: Any,
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Outside of the mode, in threads that do not have it."""
        return PretendedDevice().__torch_dispatch__(func, types, args, kwargs)

    @property
    def data(self) -> Tensor:
        """The tensor without its history."""
        return self.detach()

    @data.setter
    def data(self, other: Tensor) -> None:
        """Other numbers in the same Python object."""
        Tensor.data.__set__(self, other)  # type: ignore[attr-defined]
        self.held = cast(There, other).held

    def data_ptr(self) -> int:
        """Where the numbers are."""
        return self.held.data_ptr()

    def untyped_storage(self) -> torch.UntypedStorage:
        """The memory of the numbers."""
        return self.held.untyped_storage()

    def tolist(self) -> Any:
        """The numbers, downloaded."""
        return self.cpu().tolist()

    def numpy(self, *, force: bool = False) -> Any:
        """Refused, as by CUDA."""
        if not force:
            raise TypeError(
                f"can't convert {PLACE} device type tensor to numpy. Use Tensor.cpu() to copy the tensor to host memory"
            )
        return self.cpu().numpy()

    def __deepcopy__(self, memo: dict[int, Any]) -> Tensor:
        """A copy that shares memory with the copies of what this one shares it with."""
        if id(self) in memo:
            return memo[id(self)]  # type: ignore[no-any-return]
        new = There(copy.deepcopy(self.held, memo)).requires_grad_(self.requires_grad)
        new.__dict__ |= copy.deepcopy(
            {name: X for name, X in self.__dict__.items() if name != "held"}, memo
        )
        new.grad = copy.deepcopy(self.grad, memo)
        memo[id(self)] = new
        return new

    def __repr__(self, *, tensor_contents: Any = None) -> str:  # type: ignore[override]
        """The numbers, and where."""
        return f"There({self.held!r})"


class PretendedDevice(TorchDispatchMode):
    """While it is entered, tensors can be made on the device and copied to and from it;
    ``crossings`` counts what crosses.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.crossings: Counter[str] = Counter()

    def __torch_dispatch__(
        self,
        func: Any,
        types: Any,
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """The operation on the numbers; the result is there if the operands are, or if it was requested
        for there.
        """
        given = kwargs or {}
        tensors = _tensors([*args, *given.values()])
        there, here = (
            any(isinstance(X, There) for X in tensors),
            [X for X in tensors if not isinstance(X, There)],
        )
        wanted = given.get("device")
        goes_there = there if wanted is None else torch.device(wanted).type == NAME
        if func is aten.copy_.default:
            goes_there = isinstance(args[0], There)
        if not there and not goes_there:
            return func(*args, **given)
        self._look(func, there=there, here=here, goes_there=goes_there)
        on_cpu = {"device": torch.device("cpu")} if wanted is not None else {}
        numbers = func(
            *map(_numbers, args), **{name: _numbers(X) for name, X in given.items()} | on_cpu
        )
        if not goes_there:
            return numbers
        result = tree_map_only(Tensor, There, numbers)
        changes = there and (func.is_view or func._schema.is_mutable)
        return return_and_correct_aliasing(func, tuple(args), given, result) if changes else result

    def _look(self, func: Any, *, there: bool, here: Sequence[Tensor], goes_there: bool) -> None:
        """Count what crosses; ``RuntimeError`` for operands from the host: CUDA takes single
        numbers and indices only.
        """
        if func in CROSSING:
            if here or not goes_there:
                self.crossings["up" if goes_there else "down"] += 1
        elif func in INDEXED:
            self.crossings["up"] += len(here)
        elif there and any(X.dim() for X in here):
            shapes = [tuple(X.shape) for X in here if X.dim()]
            raise RuntimeError(
                f"Expected all tensors to be on the same device, {PLACE}; {func} has {shapes} on the cpu"
            )
        elif func in WAITING:
            self.crossings[WAITING[func]] += 1


class Stream:
    """Every operation of the device is done at once."""

    def synchronize(self) -> None:
        """Nothing to wait for."""


_DUMMY: Any = getattr(backend_registration, "_DummyBackendModule", object)


class _Module(_DUMMY):  # type: ignore[misc]
    """The functions that torch calls of the module of a kind of device; its random numbers are
    those of the CPU.
    """

    def get_amp_supported_dtype(self) -> list[torch.dtype]:
        """The dtypes of autocast."""
        return [torch.bfloat16, torch.float16]

    def current_stream(self, device: object = None) -> Stream:
        """Its only stream."""
        return Stream()

    def get_rng_state(self, device: object = None) -> Tensor:
        """The state of its generator."""
        return torch.get_rng_state()

    def set_rng_state(self, state: Tensor, device: object = None) -> None:
        """Another state of its generator."""
        torch.set_rng_state(state)


class _Generator(torch.Generator):
    """A generator of the CPU where one of the device is requested."""

    def __new__(cls, device: torch.device | str = "cpu") -> _Generator:
        """Make one like ``torch.Generator``."""
        return super().__new__(cls, "cpu" if torch.device(device).type == NAME else device)  # type: ignore[call-arg]


def _tensors(values: Sequence[Any]) -> list[Tensor]:
    """The tensors among the arguments of an operation, those in lists too."""
    found: list[Tensor] = []
    for X in values:
        if isinstance(X, Tensor):
            found.append(X)
        elif isinstance(X, list | tuple):
            found += _tensors(X)
    return found


def _numbers(X: Any) -> Any:
    """An argument of an operation, as the CPU takes it."""
    if isinstance(X, There):
        return X.held
    return [_numbers(Y) for Y in X] if isinstance(X, list | tuple) else X


def pytest_configure() -> None:
    """The device, for the life of the process."""
    backend_registration._setup_privateuseone_for_python_backend(NAME, _Module())
    torch.Generator = _Generator  # type: ignore[assignment, misc]  # torch makes none for a backend that is written in Python
    torch._C._set_only_lift_cpu_tensors(
        True
    )  # torch.tensor(..., device=NAME) is made here and copied
    torch.__future__.set_swap_module_params_on_conversion(
        True
    )  # module.to(NAME) keeps its parameters, as it does for CUDA


def pytest_collection_finish() -> None:
    """Weights there are no quantised ones, though their class is another."""
    from geolora_ref.nn.layers import adapted as layers

    layers.PLAIN_WEIGHTS += (There,)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call() -> Iterator[None]:
    """Every test on it."""
    with PretendedDevice():
        yield
