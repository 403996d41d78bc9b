"""The base class of optimizers of adapted models: parameter groups, refusal of bad gradients,
memory, rollback.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from copy import copy
from typing import Any, Literal, TypeVar

import torch
from torch import Tensor, nn

from geolora_ref import checks
from geolora_ref.fast.precision import own_precision
from geolora_ref.lowrank import LowRank
from geolora_ref.nn.layers.adapted import AdaptedLayer
from geolora_ref.nn.layers.adapter import LowRankAdapter
from geolora_ref.nn.layers.last_step import LastStep
from geolora_ref.nn.layers.watch import stamp
from geolora_ref.nn.optim.groups import (
    RULES,
    Rules,
    check_common,
    own_rate,
    rate,
    threshold_of,
    warn,
)
from geolora_ref.nn.optim.heads import HeadStep, finite, head_steps
from geolora_ref.nn.optim.parts import members_of, parts_of
from geolora_ref.optimizers import Moments, Triple

__all__ = ["ONE_OPTIMIZER", "AdapterOptimizer", "check_ranks", "named", "uncompiled"]

FORMAT = 4
ONE_OPTIMIZER = (
    "another optimizer has stepped since, and an adapter has only one: drop one of the two"
)
T = TypeVar("T")
StepMethod = TypeVar("StepMethod", bound=Callable[..., Any])


def uncompiled(step: StepMethod) -> StepMethod:
    """Mark a step so that ``torch.compile`` calls it untraced: ranks, checks and rollback do not
    fit into a graph.
    """
    called: StepMethod = torch.compiler.disable(step)  # type: ignore[no-untyped-call, unused-ignore]
    return called


def check_ranks(
    name: str, adapter: LowRankAdapter, min_rank: int, max_rank: int | None, capacity: int
) -> None:
    """Raise ``ValueError`` that names the adapter unless the limits are valid for its shape and
    min_rank ≤ ``capacity``.
    """
    with checks.naming(name):
        checks.ranks(min_rank, max_rank, adapter.shape)
    if min_rank > capacity:
        raise ValueError(
            f"{name}: min_rank: expected at most {capacity}, what the adapter's storage allows, found {min_rank}"
        )


def named(name: str, ask: Callable[[], T]) -> T:
    """The result of ``ask()``; its ``ValueError`` gets the adapter's name as a prefix."""
    try:
        return ask()
    except ValueError as problem:
        cure = "bases from a lower precision: adapter.orthonormalise(); written by another optimizer: load them again"
        raise ValueError(
            f"{name}: {problem}" + f" ({cure})" * ("orthonormal columns" in str(problem))
        ) from problem


class AdapterOptimizer(torch.optim.Optimizer):
    """Parameter groups of adapters, for a subclass to step, and of other parameters, which AdamW steps.

    A group of adapters has their names under "adapters", a group of other parameters an empty list;
    both count their steps with lr > 0 under "iteration", and keep their largest lr under "peak".
    ``skipped`` counts the steps that were skipped because of non-finite gradients.
    ``kind`` : the name by which states know their optimizer, that of a subclass too; ``reported`` :
    attributes in which a subclass reports on its steps; ``rules`` : the rules that a group can name
    by "update".
    """

    kind = ""
    reported: tuple[str, ...] = ()
    rules: Rules = RULES

    def __init__(
        self,
        model: nn.Module | Iterable[Mapping[str, Any] | Tensor],
        defaults: dict[str, Any],
        on_nonfinite: Literal["raise", "skip"],
    ) -> None:
        checks.one_of("on_nonfinite", on_nonfinite, ("raise", "skip"))
        self.on_nonfinite = on_nonfinite
        self.skipped = 0
        self._adapters: dict[str, LowRankAdapter] = {}
        self._layers: dict[str, AdaptedLayer] = {}
        self._others: dict[Tensor, str] = {}
        self._left: dict[
            LowRankAdapter, tuple[int, ...]
        ] = {}  # where each basis was after the last step, how often written
        groups = [group for part in parts_of(model) for group in self._groups(part, defaults)]
        if not self._adapters:
            raise ValueError(
                "model: expected one with trainable adapters, found none; geolora_ref.nn.adapt puts them in, "
                "and so does get_peft_model with a GeoLoraConfig in place of a LoraConfig"
            )
        super().__init__(groups, defaults)

    def check(self, group: Mapping[str, Any], members: Mapping[str, LowRankAdapter]) -> None:
        """Raise ``ValueError`` unless the options of a group are in range for each of its adapters."""
        raise NotImplementedError

    def _groups(self, part: dict[str, Any], defaults: dict[str, Any]) -> Iterator[dict[str, Any]]:
        """One part of the model as parameter groups: its adapters, and the rest of what is trainable."""
        layers, rest = members_of(part, defaults)
        found = {name: layer.adapter for name, layer in layers.items()}
        for name, adapter in found.items():
            named(name, adapter.refuse_shards)
        names = [
            name if name not in self._adapters else f"{name} ({len(self._adapters)})"
            for name in found
        ]
        self._adapters |= dict(zip(names, found.values(), strict=True))
        self._layers |= dict(zip(names, layers.values(), strict=True))
        part |= threshold_of(defaults, part)
        options = defaults | part
        check_common(options, self.rules)
        kept = {"iteration": 0, "peak": 0.0, "format": f"{self.kind} {FORMAT}"}
        owned = [
            factor for adapter in found.values() for factor in (adapter.Ut, adapter.S, adapter.Vt)
        ]
        if owned:
            self.check(options, dict(zip(names, found.values(), strict=True)))
            yield {
                "params": owned,
                "adapters": names,
                **kept,
                **part,
                "lr": own_rate(options["lr"]),
            }
        self._others |= rest
        if rest:
            own = not owned and "lr" in part and "head_lr" not in part
            lr = options["lr"] if own or options["head_lr"] is None else options["head_lr"]
            yield {"params": list(rest), "adapters": [], **kept, **part, "lr": own_rate(lr)}

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """For the constructor alone, which finds the adapters; ``ValueError`` for a group that is
        added later.
        """
        if "adapters" not in param_group:
            raise ValueError(
                "add_param_group: expected all groups in the constructor, {'module': a part of the model, …}, "
                f"found {sorted(param_group)} later; make a new optimizer and load the state of this one where they agree"
            )
        super().add_param_group(param_group)

    def check_groups(self) -> None:
        """Raise ``ValueError`` unless the options of every group, which may have changed, are in range,
        and for adapters that were sharded since.
        """
        for name, adapter in self._adapters.items():
            named(name, adapter.refuse_shards)
        for group in self.param_groups:
            check_common(group, self.rules)
            if group["adapters"]:
                self.check(group, {name: self._adapters[name] for name in group["adapters"]})

    def evaluated(self, closure: Callable[[], float] | None) -> float | None:
        """The loss of a closure, which leaves new gradients; None without a closure.

        Raises ``RuntimeError`` before the closure is called while an adapter is merged, because a
        merged adapter gets no gradients and would ignore the step.
        """
        merged = [name for name, layer in self._layers.items() if layer.base_is_merged]
        if merged:
            raise RuntimeError(
                f"step: expected adapters that are not merged, found that {', '.join(merged[:4])} is, or another of its base; "
                "unmerge first"
            )
        if closure is None:
            return None
        with torch.enable_grad():
            return closure()

    @contextmanager
    def own_precision(self) -> Iterator[None]:
        """Within this context products have the full precision of the parameters' dtype: no
        autocast, no TF32.
        """
        devices = {parameter.device for group in self.param_groups for parameter in group["params"]}
        with ExitStack() as stack:
            for device in devices:
                stack.enter_context(own_precision(device))
            yield

    def refused(self) -> bool:
        """Decide whether this step is skipped because gradients are not finite; a skipped step is
        counted.

        With on_nonfinite="raise" it raises ``FloatingPointError`` instead; the message says whose
        gradients they are.  Warns of gradients that an earlier step has used, and of a step without any
        for adapters that are frozen by now.
        """
        _warn_of_nothing_to_step(self.param_groups, list(self._adapters))
        _warn_of_used_gradients(self._adapters, self)
        bad = self._nonfinite()
        if bad and self.on_nonfinite == "raise":
            raise FloatingPointError(
                f"gradients are not finite: {', '.join(bad[:4])} ({len(bad)} in all); nothing was changed"
            )
        self.skipped += bool(bad)
        return bool(bad)

    def _nonfinite(self) -> list[str]:
        """Names of the adapters and parameters with non-finite gradients; one synchronisation if
        all are finite.
        """
        trained = [
            parameter
            for group in self.param_groups
            for parameter in group["params"]
            if parameter.grad is not None
        ]
        for parameter in trained:
            if parameter.grad is not None and parameter.grad.layout != torch.strided:
                found = f"{parameter.grad.layout} of {self._owner(parameter)}"
                raise ValueError(
                    f"gradients: expected dense ones, found {found}; nothing was changed"
                )
        if not trained or finite(
            [parameter.grad for parameter in trained if parameter.grad is not None]
        ):
            return []
        bad = [
            parameter
            for parameter in trained
            if parameter.grad is not None and not finite([parameter.grad])
        ]
        return list(dict.fromkeys(map(self._owner, bad)))

    def _owner(self, parameter: Tensor) -> str:
        """The adapter that has this factor, or the name of another parameter."""
        having = (
            name
            for name, a in self._adapters.items()
            if any(parameter is factor for factor in (a.Ut, a.S, a.Vt))
        )
        return self._others.get(parameter) or next(having)

    def heads(self) -> list[HeadStep]:
        """AdamW's steps for the other parameters, computed but not applied: :meth:`finish` applies
        them at the end.

        Raises like :func:`head_steps`.
        """
        return head_steps(
            [group for group in self.param_groups if not group["adapters"]],
            self.state,
            self._others,
        )

    @contextmanager
    def all_or_none(self, names: Iterable[str], heads: Sequence[HeadStep]) -> Iterator[None]:
        """Roll back on any exception within, also on lack of memory or an interrupt: these
        adapters, the other parameters, the optimizer's memory and the counts.
        """
        adapters = [self._adapters[name] for name in names]
        factors = [
            (adapter, [X.detach().clone() for X in adapter.active()], adapter.watch.allowed)
            for adapter in adapters
        ]
        others = [(head.parameter, head.parameter.detach().clone()) for head in heads]
        owners = [X for adapter in adapters for X in (adapter.Ut, adapter.S, adapter.Vt)] + [
            parameter for parameter, _ in others
        ]
        memory = [(owner, self.state.get(owner)) for owner in owners]
        counts = [(group, group["iteration"], group["peak"]) for group in self.param_groups]
        reported = {name: copy(getattr(self, name)) for name in self.reported}
        try:
            yield
        except BaseException:
            for adapter, copies, allowed in factors:
                adapter.put_back(*copies)
                adapter.watch.allowed = allowed
            for parameter, value in others:
                parameter.copy_(value)
            for owner, known in memory:
                self.state.pop(owner, None)
                if known is not None:
                    self.state[owner] = known
            for group, iteration, peak in counts:
                group["iteration"], group["peak"] = iteration, peak
            self.__dict__.update(reported)
            raise

    def finish(self, heads: Sequence[HeadStep]) -> None:
        """Apply the steps of :meth:`heads` to the other parameters and their memory, and count the
        iteration of the groups that have a rate.
        """
        for head in heads:
            head.parameter.copy_(head.value)
            self.state[head.parameter] = head.memory
        for group in self.param_groups:
            for adapter in (
                self._adapters[name] for name in group["adapters"] if rate(group) != 0.0
            ):
                adapter.last_step = (
                    adapter.last_step if adapter.S.grad is None else LastStep(self, adapter.S.grad)
                )
            group["iteration"] += rate(group) != 0.0
            group["peak"] = max(group["peak"], rate(group))

    def factors(self, name: str) -> LowRank:
        """The factors of an adapter; ``ValueError`` that names the adapter if they are not valid."""
        return named(name, self._adapters[name].factors)

    def remember(self, adapter: LowRankAdapter, moments: Moments) -> None:
        """Keep the memory of an adapter as the state of its three parameters, which ``state_dict``
        knows how to save.
        """
        for factor, letter in ((adapter.Ut, "K"), (adapter.S, "S"), (adapter.Vt, "L")):
            kept = {"first": moments.first, "second": moments.second}
            triples = {
                kind: getattr(triple, letter) for kind, triple in kept.items() if triple is not None
            }
            self.state[factor] = {"step": moments.step, **triples}
        self._left[adapter] = stamp(adapter.Ut, adapter.Vt)

    def as_it_left(self, adapter: LowRankAdapter) -> bool:
        """Return whether no other code has written the bases or loaded a memory since the last step."""
        return self._left.get(adapter) == stamp(adapter.Ut, adapter.Vt)

    def moments(self, name: str, adapter: LowRankAdapter) -> Moments:
        """The memory of an adapter; ``RuntimeError`` if it has another rank, dtype or device than
        the adapter.
        """
        of_K, of_L, of_S = (
            self.state.get(factor, {}) for factor in (adapter.Ut, adapter.Vt, adapter.S)
        )
        first, second = (
            Triple(of_K[kind], of_L[kind], of_S[kind]) if kind in of_S else None
            for kind in ("first", "second")
        )
        if first is not None and first.S.shape[0] != adapter.rank:
            why = (
                ONE_OPTIMIZER
                if adapter.last_step.by_another(self)
                else "load the states of model and optimizer together"
            )
            raise RuntimeError(
                f"{name}: the optimizer remembers rank {first.S.shape[0]}, the adapter has rank {adapter.rank}; {why}"
            )
        if first is not None and (first.S.dtype, first.S.device) != (
            adapter.S.dtype,
            adapter.S.device,
        ):
            raise RuntimeError(
                f"{name}: the optimizer remembers {first.S.dtype} on {first.S.device}, the adapter has {adapter.S.dtype} on "
                f"{adapter.S.device}; optimizer.load_state_dict(optimizer.state_dict()) converts what it remembers"
            )
        return Moments(of_S.get("step", 0), first, second)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take over a state, after the hooks, with the ranks at which it was saved; load the
        model's state as well.  Options such as lr, tau and update are then those of the state.

        Raises ``ValueError`` for a state of other groups, other adapters or another format, for one
        without the options of this optimizer, and for an invalid memory; nothing is changed then.
        """
        checks.instance("state_dict", state_dict, dict, "what state_dict() returned")
        last = self.register_load_state_dict_pre_hook(
            _refuse_foreign
        )  # runs after the users' hooks
        try:
            super().load_state_dict(state_dict)
            self._left.clear()
        finally:
            last.remove()

    def __getstate__(self) -> dict[str, Any]:
        own = ("on_nonfinite", "skipped", "_adapters", "_layers", "_others")
        return super().__getstate__() | {name: self.__dict__[name] for name in own} | {"_left": {}}


def _refuse_foreign(optimizer: torch.optim.Optimizer, state_dict: dict[str, Any]) -> None:
    """Raise ``ValueError`` unless the state is one of this optimizer and its adapters."""
    for name, kind in (("state", dict), ("param_groups", list)):
        checks.instance(
            f"state_dict[{name!r}]",
            state_dict.get(name),
            kind,
            f"a {kind.__name__}, as state_dict() returns it",
        )
    for group in state_dict["param_groups"]:
        checks.instance(
            "state_dict['param_groups']", group, dict, "groups as state_dict() returns them"
        )
    own, found = (
        [(group.get("format"), group.get("adapters")) for group in groups]
        for groups in (optimizer.param_groups, state_dict["param_groups"])
    )
    if found and all(form is None for form, _ in found):
        raise ValueError(
            "state_dict: expected that of an optimizer of adapters, found that of another optimizer"
        )
    if own != found:
        raise ValueError(
            f"state_dict: expected (format, adapters) of each group to be {own}, found {found}"
        )
    own_options = {*optimizer.defaults, "iteration", "peak"}  # a scheduler may add keys of its own
    pairs = zip(optimizer.param_groups, state_dict["param_groups"], strict=True)
    lacking = sorted(
        {option for group, other in pairs for option in (group.keys() & own_options) - other.keys()}
    )
    if lacking:
        raise ValueError(
            f"state_dict: expected that of a {type(optimizer).__name__}, found one without {', '.join(lacking)}"
        )
    for group, other in zip(optimizer.param_groups, state_dict["param_groups"], strict=True):
        _refuse_other_memory(group, other, state_dict["state"])


def _refuse_other_memory(
    group: Mapping[str, Any], other: Mapping[str, Any], state: Mapping[Any, Any]
) -> None:
    """Raise ``ValueError`` unless the memory of a group has the form that the steps of the group read."""
    numbers = other.get("params")
    if not isinstance(numbers, list) or len(numbers) != len(group["params"]):
        raise ValueError(
            f"state_dict: expected {len(group['params'])} parameters in a group, found {numbers!r}"
        )
    known = [state.get(number, {}) for number in numbers]
    for parameter, memory in zip(group["params"], known, strict=True):
        checks.instance("state_dict['state']", memory, dict, "a dict for each parameter")
        step = memory.get("step", 0)
        if (
            not (checks.is_integer(step) or (isinstance(step, Tensor) and step.numel() == 1))
            or step < 0
        ):
            raise ValueError(f"state_dict: expected a number of steps, found {step!r}")
        wanted = {"first", "second"} if group["adapters"] else {"exp_avg", "exp_avg_sq"}
        for kind, X in memory.items():
            if kind == "step":
                continue
            if (
                kind not in wanted
                or not isinstance(X, Tensor)
                or X.layout != torch.strided
                or not (X.is_floating_point() or (X.is_complex() and parameter.is_complex()))
                or X.is_meta
            ):
                shown = (
                    f"{X.dtype}, {X.layout}, on {X.device}"
                    if isinstance(X, Tensor)
                    else type(X).__name__
                )
                raise ValueError(
                    f"state_dict: expected dense real tensors {sorted(wanted)}, found {shown} as {kind!r}"
                )
            if not group["adapters"] and X.shape != parameter.shape:
                raise ValueError(
                    f"state_dict: expected {kind} of the shape {tuple(parameter.shape)}, found {tuple(X.shape)}"
                )
        if memory and not group["adapters"] and memory.keys() != wanted | {"step"}:
            raise ValueError(
                f"state_dict: expected {sorted(wanted)} and 'step', found {sorted(memory)}"
            )
    if group["adapters"]:
        for K, S, L in zip(known[0::3], known[1::3], known[2::3], strict=True):
            _refuse_torn(K, S, L)


def _warn_of_nothing_to_step(groups: Iterable[Mapping[str, Any]], names: Sequence[str]) -> None:
    """Warn if every parameter is frozen by now and has no gradient: training continues elsewhere."""
    if not any(
        parameter.requires_grad or parameter.grad is not None
        for group in groups
        for parameter in group["params"]
    ):
        warn(
            f"step: nothing is stepped, every adapter of this optimizer is frozen ({checks.first_few(names)}): another adapter "
            "is active since set_adapter, or requires_grad was changed; make an optimizer for what is trained now",
        )


def _warn_of_used_gradients(
    adapters: Mapping[str, LowRankAdapter], optimizer: AdapterOptimizer
) -> None:
    """Warn of gradients from which a step has been taken: they are those at bases that the step has changed."""
    used = {
        name: adapter
        for name, adapter in adapters.items()
        if adapter.last_step.used(adapter.S.grad)
    }
    if used:
        others = any(adapter.last_step.by_another(optimizer) for adapter in used.values())
        who, cure = (
            ("another optimizer", "; one optimizer steps an adapter")
            if others
            else ("an earlier step", "")
        )
        warn(
            f"step: {who} has used these gradients and changed the bases that they belong to "
            f"({checks.first_few(list(used))}); a backward pass belongs before every step{cure}",
        )


def _refuse_torn(K: Mapping[str, Any], S: Mapping[str, Any], L: Mapping[str, Any]) -> None:
    """Raise ``ValueError`` unless the memories of an adapter's three factors have one rank and one
    step count.
    """
    if not (K.keys() == S.keys() == L.keys() and K.get("step") == S.get("step") == L.get("step")):
        raise ValueError(
            "state_dict: expected the memory of U, S and V of each adapter alike, found parts missing or of another age"
        )
    if "first" in S:
        shapes = [tuple(memory["first"].shape) for memory in (K, S, L)]
        if any(len(shape) != 2 for shape in shapes) or {shape[1] for shape in shapes} != {
            shapes[1][0]
        }:
            raise ValueError(
                f"state_dict: expected first moments of one rank for U, S and V, found the shapes {shapes}"
            )
