"""Arrays of a backend's library and back: values, dtypes and devices; whose memory they use."""

from __future__ import annotations

import sys
from types import SimpleNamespace
from typing import Any

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


def test_the_options_name_every_dtype() -> None:
    assert set(DTYPES) == set(EPS)


@pytest.mark.parametrize(("array", "dtype"), PAIRS)
def test_values_are_rounded_to_the_dtype_and_come_back_as_they_are(array: str, dtype: str) -> None:
    """The library's own array of that dtype, and back a NumPy array of the same values, each within
    eps/2 of what was given.
    """
    load(array)
    conversion = Conversion(array, dtype)
    Y = X * (1.0 + 2.0j) if conversion.is_complex else X
    there = conversion.to(Y)
    assert type(there).__module__.split(".")[0].removesuffix("lib") == array
    assert str(there.dtype).removeprefix("torch.") == dtype
    back = conversion.back(there)
    assert isinstance(back, np.ndarray)
    assert back.dtype.type.__module__ == "numpy"
    assert np.iscomplexobj(back) == conversion.is_complex == dtype.startswith("complex")
    assert np.max(np.abs(back - Y) / np.maximum(np.abs(Y), 1.0)) <= EPS[dtype] / 2
    assert np.array_equal(back, conversion.rounded(Y))
    assert np.array_equal(back, conversion.rounded(back))
    assert np.array_equal(back, Y) == (EPS[dtype] == 2.0**-52)


@pytest.mark.parametrize("array", ["numpy", "torch", "jax"])
def test_what_comes_and_goes_is_a_copy(array: str) -> None:
    load(array)
    given, conversion = X.copy(), Conversion(array)
    there = conversion.to(given)
    given[:] = 7.0
    back = conversion.back(there)
    assert np.array_equal(back, X)
    back[:] = 8.0
    assert np.array_equal(conversion.back(there), X)


def test_a_transposed_array_is_converted_as_it_looks() -> None:
    load("torch")
    conversion = Conversion("torch")
    assert np.array_equal(conversion.back(conversion.to(X.T)), X.T)
    assert conversion.to(X.T).is_contiguous()


@pytest.mark.parametrize("array", ["numpy", "torch"])
def test_an_array_has_the_requested_layout_in_memory(array: str) -> None:
    load(array)
    conversion = Conversion(array)
    strides = {
        "rows": (3, 1),
        "columns": (1, 2),
        "spaced": (6, 2),
        "padded": (6, 1),
        "long": (1, 5),
        "reversed": (-3, 1),
    }
    assert conversion.has_layout("reversed") == (array == "numpy")
    for given in (X, X.T.copy().T, np.stack([X, -X])):
        for layout, expected in strides.items():
            if not conversion.has_layout(layout):
                continue
            there = conversion.laid_out(given, layout)
            found = (
                there.stride()
                if array == "torch"
                else tuple(step // X.itemsize for step in there.strides)
            )
            assert found[-2:] == expected
            assert np.array_equal(conversion.back(there), given)


def test_a_conjugate_of_torch_may_still_have_to_be_taken() -> None:
    load("torch")
    conversion = Conversion("torch", "complex128")
    there = conversion.laid_out(X + 1j * X[::-1], "lazy")
    assert there.is_conj()
    assert np.array_equal(conversion.back(there), X + 1j * X[::-1])
    assert conversion.alone(there)
    assert not any(
        Conversion(*other).has_layout("lazy")
        for other in (("torch", "float64"), ("numpy", "complex128"))
    )


def test_between_the_columns_of_a_slice_there_is_nothing_to_compute_with() -> None:
    assert np.all(np.isnan(Conversion().laid_out(X, "spaced").base[:, ::2]))


def test_a_stack_may_be_every_second_problem_of_a_longer_one() -> None:
    stack = Conversion().laid_out(np.stack([X, -X]), "padded")
    assert stack.strides[0] == 2 * len(X) * stack.strides[1]


def test_who_reads_forwards_what_is_reversed_stays_in_its_memory() -> None:
    there = Conversion().laid_out(X, "reversed")
    forwards = misread(there, (X.shape[1], 1))
    assert np.array_equal(forwards[0], X[0])
    assert np.all(np.isnan(forwards[1:]))


def test_a_wrong_stride_finds_the_numbers_in_memory_and_nan_where_their_owner_ends() -> None:
    whole = np.arange(12.0).reshape(3, 4)
    inner = whole[1:, 1:3]
    assert np.array_equal(misread(inner, (4, 1)), inner)
    assert np.array_equal(misread(inner, (2, 1)), [[5.0, 6.0], [7.0, 8.0]])
    assert np.array_equal(misread(inner, (-4, 1)), [[5.0, 6.0], [1.0, 2.0]])
    assert np.array_equal(misread(inner, (7, -6)), [[5.0, np.nan], [np.nan, 6.0]], equal_nan=True)
    assert np.array_equal(misread(inner.T, (2, 1)), [[5.0, 6.0], [7.0, 8.0]])
    one = np.lib.stride_tricks.as_strided(whole[2], (2, 4), (0, 8))
    assert np.array_equal(misread(one, (4, 1)), [whole[2], [np.nan] * 4], equal_nan=True)


@pytest.mark.parametrize("array", ["numpy", "torch", "jax"])
def test_an_array_is_overwritten_where_its_library_can(array: str) -> None:
    load(array)
    conversion = Conversion(array)
    there = conversion.to(X)
    assert conversion.overwritten(there, -X) == (array != "jax")
    assert np.array_equal(conversion.back(there), X if array == "jax" else -X)


def test_what_cannot_be_written_to_is_not_overwritten() -> None:
    """A read-only array, and one whose rows are one row."""
    load("torch")
    fixed, repeated = np.broadcast_to(X[0], X.shape), Conversion("torch").to(X)[:1].expand(2, -1)
    assert not Conversion().overwritten(fixed, X)
    assert not Conversion("torch").overwritten(repeated, X)


@pytest.mark.parametrize("array", ["numpy", "torch"])
def test_what_is_written_next_to_an_array_is_noticed(array: str) -> None:
    """The array that it is a part of, all but its own numbers; a change of these is not what is
    looked for.
    """
    load(array)
    conversion = Conversion(array)
    for layout in filter(conversion.has_layout, LAYOUTS):
        for given in (X, 1.0j * X, np.stack([X, -X])):
            conversion = Conversion(array, given.dtype.name)
            there = conversion.laid_out(given, layout)
            assert conversion.alone(there)
            there[...] = there + 1.0
            assert conversion.alone(there)
            if array == "torch":
                around = there.new_empty(0).set_(there.untyped_storage())
            else:
                around = there if there.base is None else there.base.reshape(-1)
            own = conversion.back(there)
            around[...] = 7.0
            there[...] = conversion.to(own)
            assert conversion.alone(there) == (
                around.size == there.size if array == "numpy" else len(around) == there.numel()
            )


def test_torch_tensors_are_made_on_the_device_that_is_named() -> None:
    load("torch")
    assert Conversion("torch", device="meta").to(X).device.type == "meta"
    assert Conversion("torch").to(X).device.type == "cpu"


@pytest.mark.parametrize("device", ["meta", "cuda:99", "bogus"])
def test_a_device_that_is_not_there_is_refused(device: str) -> None:
    load("torch")
    Conversion("torch", device="cpu").try_out()
    with pytest.raises(
        ValueError,
        match=rf"^device: expected torch to make and read arrays on the device '{device}', found \w+: ",
    ):
        Conversion("torch", device=device).try_out()


def test_a_library_that_is_not_there_is_missed_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cupy", None)
    with pytest.raises(ModuleNotFoundError):
        Conversion("cupy").try_out()


def test_cupy_is_called_by_its_own_names(monkeypatch: pytest.MonkeyPatch) -> None:
    """There is no such device here: what stands for CuPy has what the kit uses of it."""

    class OnDevice(SimpleNamespace):
        def get(self) -> Any:
            return self.values

    cupy = SimpleNamespace(
        float32="cupy's float32",
        ndarray=OnDevice,
        array=lambda values, dtype: OnDevice(values=values, dtype=dtype),
    )
    monkeypatch.setitem(sys.modules, "cupy", cupy)
    assert Conversion("cupy", "float32").to(X.T).values.flags.c_contiguous, (
        "CuPy keeps the order of what it is given"
    )
    there = Conversion("cupy", "float32").to(X)
    assert there.dtype == "cupy's float32"
    back = Conversion("cupy", "float32").back(there)
    assert np.array_equal(back, X)
    assert back is not X


@pytest.mark.parametrize("dtype", ["float64", "complex128", "float32"])
def test_64_bits_of_jax_exist_inside_the_scope_only(dtype: str) -> None:
    jax = load("jax").module
    with Conversion("jax", dtype).scope():
        assert jax.numpy.ones(1, dtype=float).dtype == (
            "float32" if dtype == "float32" else "float64"
        )
    assert jax.numpy.ones(1, dtype=float).dtype == "float32"
    with Conversion("numpy", dtype).scope():
        assert jax.numpy.ones(1, dtype=float).dtype == "float32"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"array": "nympy"}, r"^array: expected one of numpy, torch, jax, cupy, found 'nympy'$"),
        ({"dtype": "float8"}, r"^dtype: expected one of float64, float32, .*, found 'float8'$"),
        (
            {"array": "cupy", "dtype": "bfloat16"},
            r"^dtype: cupy has no bfloat16, found 'bfloat16'; use --array torch or jax$",
        ),
        (
            {"array": "torch", "device": ""},
            r"^device: expected the name of a device, or None for the CPU, found ''$",
        ),
        (
            {"array": "jax", "device": ""},
            r"^device: expected none for jax, found ''; only torch takes one$",
        ),
        (
            {"array": "jax", "device": "cpu"},
            r"^device: expected none for jax, found 'cpu'; only torch takes one$",
        ),
    ],
)
def test_what_does_not_exist_is_refused(options: dict[str, str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Conversion(**options)


# --- memory ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("array", ["numpy", "torch"])
def test_a_view_shares_memory_and_a_copy_does_not(array: str) -> None:
    load(array)
    A, B = Conversion(array).to(X), Conversion(array).to(X)
    assert share_memory(A, A)
    assert share_memory(A, A[:, 1:])
    assert share_memory(A[:1].T, A)
    assert not share_memory(A, B)
    assert share_memory(A[:, :2], A[:, 1:])
    assert not share_memory(A[:, :1], A[:, 1:]), "columns side by side"
    assert not share_memory(A[:, ::2], A[:, 1::2]), "one between the others"


def test_an_empty_tensor_shares_nothing() -> None:
    """All of them may start at address 0."""
    A = Conversion("torch").to(X)
    for empty in (A[:0], A[:, :0]):
        assert not share_memory(empty, empty)
        assert not share_memory(empty, A[:0])


class Immutable:
    """An array like JAX's: it can be deleted, by donation, but not changed."""

    def __init__(self, deleted: bool) -> None:
        self.deleted = deleted

    def is_deleted(self) -> bool:
        return self.deleted


def test_what_cannot_change_may_be_returned() -> None:
    first, second = Immutable(deleted=False), Immutable(deleted=False)
    assert not share_memory(first, first)
    assert not share_memory(first, second)


@pytest.mark.parametrize("mixed", [(object(), np.ones((1, 1))), (np.ones((1, 1)), object())])
def test_arrays_of_which_nothing_is_known_are_compared_by_identity(mixed: Any) -> None:
    first, second = mixed
    assert share_memory(first, first)
    assert not share_memory(first, second)


def test_arrays_of_different_libraries_share_nothing_that_can_be_seen() -> None:
    load("torch")
    tensor = Conversion("torch").to(X)
    assert not share_memory(tensor, X)
    assert not share_memory(X, tensor)


def test_donated_memory_is_noticed() -> None:
    assert taken_away(Immutable(deleted=True))
    assert not taken_away(Immutable(deleted=False))
    assert not taken_away(X)


def test_a_device_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """On the stream that is current there; the CPU has done what was requested."""
    torch = pytest.importorskip("torch", reason="torch is not installed")
    waited: list[str] = []
    stream = SimpleNamespace(synchronize=lambda: waited.append("stream"))

    def current_stream(where: Any) -> Any:
        waited.append(str(where))
        return stream

    device = SimpleNamespace(current_stream=current_stream)
    monkeypatch.setattr(torch, "get_device_module", lambda where: device)
    for name in ("cpu", None):
        Conversion("torch", device=name).wait()
    assert not waited
    Conversion("torch", device="cuda:0").wait()
    assert waited == ["cuda:0", "stream"]
