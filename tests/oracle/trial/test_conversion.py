"""Arrays of a backend's library and back: values, dtypes, devices and layouts; shared memory."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from geolora_ref.oracle.cases.catalogue import LAYOUTS
from geolora_ref.oracle.trial.conversion import EPS, Conversion, share_memory, taken_away
from geolora_ref.support.memory import misread
from geolora_ref.support.options import DTYPES, LIBRARIES
from tests.libraries import load

pytestmark = pytest.mark.usefixtures("module_unchecked")

X = np.array([[1.0, 1.0 + 2.0**-9, 1.0 + 2.0**-20], [-2.0, 0.0, 2.0**-52 + 1.0]])
PAIRS = [
    (array, dtype)
    for array in LIBRARIES
    for dtype in EPS
    if array != "cupy" and (array, dtype) != ("numpy", "bfloat16")
]


@pytest.mark.parametrize(("array", "dtype"), PAIRS)
def test_values(array: str, dtype: str) -> None:
    """A copy in the library's own array of that dtype, each value within eps/2; back as it is."""
    load(array)
    assert {*DTYPES} == {*EPS}
    conversion = Conversion(array, dtype)
    Y = X * (1.0 + 2.0j) if conversion.is_complex else X
    given = Y.copy()
    there = conversion.to(given)
    given[:] = 7.0
    assert type(there).__module__.split(".")[0].removesuffix("lib") == array
    assert str(there.dtype).removeprefix("torch.") == dtype
    back = conversion.back(there)
    assert back.dtype.type.__module__ == "numpy"
    assert np.iscomplexobj(back) == conversion.is_complex == dtype.startswith("complex")
    assert np.max(np.abs(back - Y) / np.maximum(np.abs(Y), 1.0)) <= EPS[dtype] / 2
    assert np.array_equal(back, conversion.rounded(Y))
    assert np.array_equal(back, conversion.rounded(back))
    assert np.array_equal(back, Y) == (EPS[dtype] == 2.0**-52)
    before = back.copy()
    back[:] = 8.0
    assert np.array_equal(conversion.back(there), before)
    assert np.array_equal(conversion.back(conversion.to(Y.T)), before.T)


STRIDES = {
    "rows": (3, 1),
    "columns": (1, 2),
    "spaced": (6, 2),
    "padded": (6, 1),
    "long": (1, 5),
    "flat": (3, 1),
    "reversed": (-3, 1),
    "backwards": (6, -1),
    "turned": (-3, -1),
}


@pytest.mark.parametrize("array", ["numpy", "torch"])
@pytest.mark.parametrize("layout", STRIDES)
def test_layout(array: str, layout: str) -> None:
    load(array)
    conversion = Conversion(array)
    assert conversion.has_layout(layout) == (array == "numpy" or min(STRIDES[layout]) > 0)
    if not conversion.has_layout(layout):
        return
    for given in (X, X.T.copy().T, np.stack([X, -X])):
        there = conversion.laid_out(given, layout)
        of_numpy = [step // X.itemsize for step in getattr(there, "strides", ())]
        found = there.stride() if array == "torch" else of_numpy
        assert tuple(found[-2:]) == STRIDES[layout]
        assert np.array_equal(conversion.back(there), given)
        assert conversion.alone(there)


def test_nan_around() -> None:
    """What lies between, before and after the numbers is NaN, also for a wrong stride."""
    assert np.all(np.isnan(Conversion().laid_out(X, "spaced").base[:, ::2]))
    stack = Conversion().laid_out(np.stack([X, -X]), "padded")
    assert stack.strides[0] == 2 * len(X) * stack.strides[1]
    forwards = misread(Conversion().laid_out(X, "reversed"), (X.shape[1], 1))
    assert np.array_equal(forwards[0], X[0])
    assert np.all(np.isnan(forwards[1:]))


@pytest.mark.parametrize("array", ["numpy", "torch"])
def test_written_next_to_it(array: str) -> None:
    """A change of the own numbers is not what is looked for."""
    load(array)
    for layout in filter(Conversion(array).has_layout, LAYOUTS):
        for given in (X, 1.0j * X, np.stack([X, -X])):
            conversion = Conversion(array, given.dtype.name)
            there = conversion.laid_out(given, layout)
            there[...] = there + 1.0
            assert conversion.alone(there)
            own = conversion.back(there)
            if array == "torch":
                around = there.new_empty(0).set_(there.untyped_storage())
            else:
                around = there if there.base is None else there.base.reshape(-1)
            whole = int(np.prod(around.shape)) == own.size
            around[...] = 7.0
            there[...] = conversion.to(own)
            assert conversion.alone(there) == whole


@pytest.mark.parametrize("array", ["numpy", "torch", "jax"])
def test_overwritten(array: str) -> None:
    load(array)
    conversion = Conversion(array)
    there = conversion.to(X)
    assert conversion.overwritten(there, -X) == (array != "jax")
    assert np.array_equal(conversion.back(there), X if array == "jax" else -X)
    assert not Conversion().overwritten(np.broadcast_to(X[0], X.shape), X)


def test_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    """On the current stream of the device."""
    torch = load("torch").module
    waited: list[str] = []
    stream = SimpleNamespace(synchronize=lambda: waited.append("stream"))
    device = SimpleNamespace(current_stream=lambda where: waited.append(str(where)) or stream)  # type: ignore[func-returns-value]
    monkeypatch.setattr(torch, "get_device_module", lambda where: device)
    Conversion("torch", device="cpu").wait()
    assert not waited
    Conversion("torch", device="cuda:0").wait()
    assert waited == ["cuda:0", "stream"]


@pytest.mark.parametrize("dtype", ["float64", "complex128", "float32"])
def test_jax_scope(dtype: str) -> None:
    """64-bit arrays exist inside of it alone."""
    jax = load("jax").module
    with Conversion("jax", dtype).scope():
        found = jax.numpy.ones(1, dtype=float).dtype
    assert found == ("float32" if dtype == "float32" else "float64")
    assert jax.numpy.ones(1, dtype=float).dtype == "float32"


# --- memory ---------------------------------------------------------------------------------------


class Immutable:
    """An array like JAX's: it can be deleted, by donation, but not changed."""

    def __init__(self, deleted: bool) -> None:
        self.deleted = deleted

    def is_deleted(self) -> bool:
        return self.deleted


@pytest.mark.parametrize("array", ["numpy", "torch"])
def test_shared_memory(array: str) -> None:
    load(array)
    A, B = Conversion(array).to(X), Conversion(array).to(X)
    for one, two in ((A, A), (A, A[:, 1:]), (A[:1].T, A), (A[:, :2], A[:, 1:])):
        assert share_memory(one, two)
    for one, two in ((A, B), (A[:, :1], A[:, 1:]), (A[:, ::2], A[:, 1::2]), (A[:0], A[:0])):
        assert not share_memory(one, two)


def test_memory_of_others() -> None:
    """Unknown arrays are compared by identity; what cannot change may be returned."""
    load("torch")
    unknown, taken, left = object(), Immutable(deleted=True), Immutable(deleted=False)
    assert share_memory(unknown, unknown)
    assert not share_memory(unknown, X)
    assert not share_memory(X, Conversion("torch").to(X))
    assert not share_memory(left, left)
    assert (taken_away(taken), taken_away(left), taken_away(X)) == (True, False, False)
