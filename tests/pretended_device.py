"""Tests for the pretended device (``tests.pretended``) alone: its refusals, and the transfers in a
step of the fast path.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor

from geolora_ref.fast import LayerBank, batched_step, step
from geolora_ref.fast.update import storage
from geolora_ref.fast.update.bank import LayerFactors
from geolora_ref.nn import GeoLoRA, adapters
from geolora_ref.oracle import check_step
from tests.fast.layers import random_layer, random_update
from tests.nightly import NIGHTLY
from tests.nn.test_peft import wrapped
from tests.pretended import NAME, PretendedDevice, Stream
from verification.network_defects.models import network, regression
from verification.parity.functions import function_difference
from verification.parity.measure import ALIKE, BOUNDS, DTYPES, training_difference

pytestmark = pytest.mark.usefixtures("module_unchecked")

SAME, SHAPES = ((16, 16),) * 3, ((24, 16), (16, 24), (24, 24))


def there(*shape: int) -> Tensor:
    """Random numbers on the device."""
    return torch.randn(shape).to(NAME)


REFUSED: dict[str, Callable[[], Any]] = {
    "a sum": lambda: there(3) + torch.ones(3),
    "a product": lambda: torch.ones(3, 3) @ there(3, 3),
    "one tensor of both": lambda: torch.cat([there(3), torch.ones(3)]),
    "a mask": lambda: there(3).masked_fill(torch.tensor([True, False, True]), 0.0),
    "an index of another operation": lambda: there(3).index_select(0, torch.tensor([0])),
    "NumPy's view": lambda: there(3).numpy(),
}


@pytest.mark.parametrize("name", REFUSED)
def test_operands_on_two_devices_are_refused(name: str) -> None:
    with pytest.raises(
        (RuntimeError, TypeError), match=r"on the same device|can't convert pretended:0"
    ):
        REFUSED[name]()


def test_single_numbers_and_indices_are_not() -> None:
    X = there(3)
    assert torch.equal((X * torch.tensor(2.0)).cpu(), 2.0 * X.cpu())
    assert torch.equal(X[torch.tensor([2, 0])].cpu(), X.cpu()[[2, 0]])


def crossings(
    shapes: Any, ranks: Any, dtype: torch.dtype, **limits: Any
) -> tuple[Counter[str], LayerBank, Any]:
    """The transfers in one step, the bank after it and its report."""
    generator = torch.Generator().manual_seed(0)
    layers = [
        random_layer(m, n, r, generator, dtype) for (m, n), r in zip(shapes, ranks, strict=True)
    ]
    updates = [random_update(layer, generator) for layer in layers]
    bank = LayerBank.of([on_device(layer) for layer in layers], capacity=8)
    arguments = [list(X) for X in zip(*map(on_device, updates), strict=True)]
    bank.update_(
        *([0.0 * X for X in Xs] for Xs in arguments), theta=0.0, max_rank=ranks
    )  # what ranks want is there
    with PretendedDevice() as device:
        report = bank.update_(*arguments, **limits)
    return device.crossings, bank, report


def on_device(factors: LayerFactors) -> LayerFactors:
    """Copies there, laid out as they were."""
    U, S, V = (X.to(NAME) for X in factors)
    return U, S, V


@pytest.mark.parametrize(
    ("shapes", "ranks", "classes"),
    [(SAME, (4, 4, 4), 1), (SHAPES, (3, 3, 3), 1), (SHAPES, (2, 8, 2), 2)],
)
def test_a_step_at_fixed_ranks_has_one_download_and_one_upload(
    shapes: Any, ranks: Any, classes: int
) -> None:
    found, bank, _ = crossings(shapes, ranks, torch.float32, tau=0.0, max_rank=ranks)
    assert bank.ranks == ranks
    assert +found == {"down": 1, "up": 1, "eigh": classes}


@pytest.mark.parametrize(("shapes", "different"), [(SAME, 1), (SHAPES, 3)])
def test_householders_route_costs_a_download_for_each_shape(shapes: Any, different: int) -> None:
    """In double precision, with one more for what is finite."""
    found, bank, report = crossings(shapes, (3, 3, 3), torch.float64, tau=0.0, max_rank=3)
    assert (bank.ranks, report.exact) == ((3, 3, 3), (0, 1, 2))
    assert +found == {"down": different + 1, "up": 1, "svd": different}


@pytest.mark.parametrize(
    ("dtype", "waits"),
    [
        (torch.float32, {"down": 1, "up": 1, "eigh": 2}),
        (torch.float64, {"down": 4, "up": 1, "svd": 3}),
    ],
)
def test_taking_the_core_from_K_waits_for_nothing_more(
    dtype: torch.dtype, waits: dict[str, int]
) -> None:
    """Layers have two classes and three shapes; the numbers are those of the processor."""
    generator = torch.Generator().manual_seed(0)
    layers = [
        random_layer(m, n, r, generator, dtype) for (m, n), r in zip(SHAPES, (2, 8, 2), strict=True)
    ]
    dK, dL, _ = (
        list(X) for X in zip(*(random_update(layer, generator) for layer in layers), strict=True)
    )
    here, bank = (
        LayerBank.of(layers, capacity=8),
        LayerBank.of([on_device(layer) for layer in layers], capacity=8),
    )
    there_K, there_L = ([X.to(NAME) for X in Xs] for Xs in (dK, dL))
    limits: dict[str, Any] = {"tau": 0.0, "max_rank": (2, 8, 2)}
    with PretendedDevice() as device:
        bank.update_(there_K, there_L, **limits)
    assert +device.crossings == waits
    here.update_(dK, dL, **limits)
    for (U, S, V), (U1, S1, V1) in zip(
        map(bank.factors, range(3)), map(here.factors, range(3)), strict=True
    ):
        unit = (
            4.0 * (len(U) + len(V)) ** 0.5 * torch.finfo(dtype).eps * float(S1.norm())
        )  # of the oracle's criteria
        close = partial(torch.testing.assert_close, rtol=0.0, atol=2.0 * unit)  # two results
        close((U @ S @ V.mT).cpu(), U1 @ S1 @ V1.mT)


def test_other_ranks_cost_one_upload_more() -> None:
    found, bank, _ = crossings(SAME, (2, 5, 3), torch.float32, theta=0.2)
    assert bank.ranks != (2, 5, 3)
    assert len(set(bank.ranks)) > 1
    assert +found == {"down": 1, "up": 2, "eigh": 3}


def test_indices_that_stay_on_the_host_are_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """The control: each use of them is an upload of its own."""
    monkeypatch.setattr(storage, "uploaded", lambda lists, device: map(torch.tensor, lists))
    found, _, _ = crossings(SAME, (2, 5, 3), torch.float32, theta=0.2)
    assert found["up"] > 2


@pytest.mark.parametrize(
    ("update", "heads", "downloads"), [("sgd", False, 3), ("sgd", True, 4), ("adam", True, 5)]
)
def test_a_step_of_the_optimizer_asks_what_is_finite(
    update: Any, heads: bool, downloads: int
) -> None:
    """The gradients, which of them are 0, the heads' new values, Adam's moments; and the spectra."""
    model = network().float().to(NAME)
    model[4].requires_grad_(heads)
    x, target = (X.float() for X in regression(device=NAME))
    optimizer = GeoLoRA(model, lr=0.02, tau=0.0, max_rank=3, method="fast", update=update)
    for _ in range(2):  # the first one gathers the factors
        optimizer.zero_grad()
        (model(x) - target).square().mean().backward()
        with PretendedDevice() as device:
            optimizer.step()
    assert {layer.adapter.rank for layer in adapters(model).values()} == {3}
    assert +device.crossings == {"down": downloads, "up": 1, "eigh": 1}


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_fused_function_is_within_its_bound(dtype: str) -> None:
    assert function_difference(NAME, getattr(torch, dtype))["passed"]


@pytest.mark.parametrize("dtype", BOUNDS)
def test_a_training_agrees_with_the_cpu(dtype: torch.dtype) -> None:
    found = training_difference(NAME, dtype, steps=10)
    assert found["passed"]
    assert found["different_ranks"] > 3


def test_a_large_batch_agrees_with_the_cpu() -> None:
    assert training_difference(NAME, torch.float32, ALIKE[8], steps=2)["passed"]


def test_the_kit_waits_for_the_device(monkeypatch: pytest.MonkeyPatch) -> None:
    """On the stream that is current there, once a call."""
    waited = []

    def current_stream(device: torch.device) -> Stream:
        waited.append(device)
        return Stream()

    monkeypatch.setattr(torch.get_device_module(NAME), "current_stream", current_stream)
    report = check_step(step, array="torch", device=NAME, select={"id": "shape-square"})
    assert waited == [torch.device(NAME)] * len(report.rows)


COMBINATIONS = (
    [(batched, dtype) for batched in (False, True) for dtype in DTYPES]
    if NIGHTLY
    else [(False, "float64"), (True, "float32")]
)


@pytest.mark.parametrize("group", ["trap", "layout", "directions"] if NIGHTLY else ["layout"])
@pytest.mark.parametrize(("batched", "dtype"), COMBINATIONS)
def test_the_fast_step_conforms(batched: bool, dtype: str, group: str) -> None:
    backend = batched_step if batched else step
    options: Any = {"batched": batched, "directions": True}
    report = check_step(
        backend, array="torch", dtype=dtype, device=NAME, select={"group": group}, **options
    )
    assert report.passed


def test_peft_trains_there_as_here(monkeypatch: pytest.MonkeyPatch) -> None:
    """And what it stores is read here; to the last bit, where a processor merges no weights for itself."""
    monkeypatch.setattr("geolora_ref.fast.layer.linear.merging_pays", lambda *_: False)
    there, here = wrapped(fused=True).to(NAME), wrapped(fused=True)
    here.load_state_dict({name: X.cpu() for name, X in there.state_dict().items()})
    for model, device in ((there, NAME), (here, "cpu")):
        x, target = regression(device=device)
        optimizer = GeoLoRA(model, lr=0.05, tau=0.2, method="fast")
        for _ in range(5):
            optimizer.zero_grad()
            (model(x) - target).square().mean().backward()
            optimizer.step()
    assert {X.device.type for X in there.state_dict().values()} == {NAME}
    assert all(
        torch.equal(X.cpu(), Y)
        for X, Y in zip(there.state_dict().values(), here.state_dict().values(), strict=True)
    )
