"""AdamW for the parameters outside the adapters, computed on copies: nothing changes before every
result is known to be finite.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.optim.adamw import adamw

from geolora_ref.nn.optim.groups import rate

__all__ = ["HeadStep", "finite", "flags", "head_steps"]


def finite(tensors: Sequence[Tensor]) -> bool:
    """Return whether every entry of all tensors is finite; one synchronisation with the device, a
    second one if squares overflow.

    The Euclidean norm comes first, because the CPU forms it several times as fast as the maximum
    norm, which cannot overflow.
    """
    entries = [X for X in tensors if X.numel()]  # an empty tensor has no maximum
    return any(
        bool(torch.isfinite(torch.nn.utils.get_total_norm(entries, order)))
        for order in (2.0, math.inf)
    )


def flags(found: Sequence[Tensor]) -> list[bool]:
    """The values of bools, each a tensor; one synchronisation if they are on one device."""
    if len({X.device for X in found}) == 1:
        return torch.stack(list(found)).tolist()
    return [bool(X) for X in found]


class HeadStep(NamedTuple):
    """A parameter outside of the adapters, with its new value and its new memory after a step of
    AdamW: tensors of its shape.
    """

    name: str
    parameter: Tensor
    value: Tensor
    memory: dict[str, Tensor]

    @property
    def fragile(self) -> list[Tensor]:
        """Tensors that can overflow though gradients are finite: squares; in half precision values
        too, since √v + ε may be 0.
        """
        return [self.value, self.memory["exp_avg_sq"]]


def head_steps(
    groups: Sequence[Mapping[str, Any]],
    state: Mapping[Tensor, dict[str, Any]],
    names: Mapping[Tensor, str],
) -> list[HeadStep]:
    """The steps of AdamW for the parameters of these groups that have gradients; ``state`` holds
    AdamW's tensors, ``names`` the names for errors.

    Raises ``ValueError`` if AdamW cannot compute a step, ``RuntimeError`` if its memory has another
    dtype or device than the parameter, ``FloatingPointError`` if a result is not finite.
    """
    steps = [step for group in groups for step in _adamw(group, state, names)]
    if steps and not finite([X for step in steps for X in step.fragile]):
        bad = [step for step in steps if not finite(step.fragile)]
        named = "; ".join(f"{step.name}, {step.value.dtype}" for step in bad[:4])
        halves = any(step.value.dtype in (torch.float16, torch.bfloat16) for step in bad)
        cure = (
            " (half precision needs a larger eps; better, train these parameters in float32)"
            if halves
            else ""
        )
        raise FloatingPointError(
            f"optimizer: the step of AdamW is not finite for {named} ({len(bad)} in all){cure}; nothing was changed"
        )
    return steps


def _adamw(
    group: Mapping[str, Any], state: Mapping[Tensor, dict[str, Any]], names: Mapping[Tensor, str]
) -> list[HeadStep]:
    """AdamW on copies of a group's parameters that have gradients, and on copies of their memory."""
    trained = [parameter for parameter in group["params"] if parameter.grad is not None]
    steps = [
        _before_adamw(names[parameter], parameter, state.get(parameter, {}))
        for parameter in trained
    ]
    try:
        adamw(
            [step.value for step in steps],
            [step.parameter.grad for step in steps if step.parameter.grad is not None],
            [step.memory["exp_avg"] for step in steps],
            [step.memory["exp_avg_sq"] for step in steps],
            [],
            [step.memory["step"] for step in steps],
            amsgrad=False,
            beta1=group["betas"][0],
            beta2=group["betas"][1],
            lr=rate(group),
            weight_decay=group["weight_decay"],
            eps=group["eps"],
            maximize=False,
        )
    except torch.OutOfMemoryError:
        raise
    except RuntimeError as problem:  # lr/(1 − β₁ᵗ) beyond the range of the dtype, say
        options = {name: group[name] for name in ("lr", "betas", "eps", "weight_decay")}
        raise ValueError(
            f"parameters outside the adapters: expected ones that AdamW can step, found {options}: {problem}; nothing was changed"
        ) from problem
    return steps


def _before_adamw(name: str, parameter: Tensor, known: Mapping[str, Tensor]) -> HeadStep:
    """Copies of a parameter and of its memory, zeros at first; ``RuntimeError`` for memory of
    another dtype or device.
    """
    known = known or {
        "step": torch.tensor(0.0),
        "exp_avg": torch.zeros_like(parameter),
        "exp_avg_sq": torch.zeros_like(parameter),
    }
    found, expected = known["exp_avg"], (parameter.dtype, parameter.device)
    if (found.dtype, found.device) != expected:
        raise RuntimeError(
            f"{name}: the optimizer remembers {found.dtype} on {found.device}, the "
            f"parameter has {parameter.dtype} on {parameter.device}; optimizer.load_state_dict(optimizer.state_dict()) "
            "converts what it remembers"
        )
    return HeadStep(
        name, parameter, parameter.detach().clone(), {key: X.clone() for key, X in known.items()}
    )
