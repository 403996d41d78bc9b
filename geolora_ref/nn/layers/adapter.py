"""The factors of one layer as torch parameters, in storage of fixed size."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from geolora_ref import checks
from geolora_ref.budget import factor_entries
from geolora_ref.fast.precision import own_precision
from geolora_ref.gradients import FactorGradients, ProjectedGradients
from geolora_ref.lowrank import LowRank
from geolora_ref.nn.layers.last_step import LastStep
from geolora_ref.nn.layers.owner import own
from geolora_ref.nn.layers.watch import Watch, defect, has_values, tolerated
from geolora_ref.optimizers import Triple

__all__ = ["GradientRoute", "LowRankAdapter"]

GradientRoute = Literal["projected", "published"]
NO_STATE = (
    "give torch.func.functional_call the named_parameters() of a model, not its state_dict(); load adapters by "
    "PeftModel.from_pretrained, not by load_adapter of transformers"
)
NO_SHARDS = (
    "leave what is trainable out of sharding, by fully_shard(…, ignored_params=…) or "
    "FullyShardedDataParallel(…, ignored_states=…), and average its gradients (docs/howto/distributed.md)"
)
STORAGE, FOR_HALF = (torch.float32, torch.float64), "for products in half precision use autocast"


class LowRankAdapter(nn.Module):
    """W = U S Vᵀ (m x n) of rank r ≤ max_rank; U and V orthonormal and random, S = 0 at the start.

    Attributes
    ----------
    Ut, Vt : (max_rank, m) and (max_rank, n), the transposed bases; rows beyond the rank are zero.
        Parameters stay the same when the rank changes.
    S : (max_rank, max_rank), zero outside the leading r x r block.
    rank : r.
    gradients : the contents of ``.grad``: "projected", ∇_K, ∇_S, ∇_L in the places of U, S, V;
        "published", G_U, ∇_S, G_V of Algorithm 1, line 2.
    watch : detects changes of the bases by other optimizers (``watch.py``).
    last_step : the optimizer and gradient of the last step (``last_step.py``).

    A ``state_dict`` has U (m, r), S (r, r) and V (n, r), whose shapes store the rank.

    Raises ``ValueError`` for ranks out of range and for a precision below single, in which bases do
    not stay orthonormal.
    """

    def __init__(
        self,
        shape: tuple[int, int],
        rank: int,
        max_rank: int,
        *,
        gradients: GradientRoute = "projected",
        dtype: torch.dtype = torch.float32,
        device: torch.device | None = None,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        m, n = shape
        if not 1 <= rank <= max_rank <= min(m, n):
            raise ValueError(
                f"rank: expected 1 <= rank <= max_rank <= min(m, n) = {min(m, n)}, found {rank}, max_rank {max_rank}"
            )
        if dtype not in STORAGE:
            raise ValueError(
                f"dtype: expected torch.float32 or torch.float64, found {dtype}; {FOR_HALF}"
            )
        checks.one_of("gradients", gradients, get_args(GradientRoute))
        self.rank, self.gradients, self.watch, self.last_step = rank, gradients, Watch(), LastStep()
        self.Ut = nn.Parameter(torch.zeros(max_rank, m, dtype=dtype, device=device))
        self.S = nn.Parameter(torch.zeros(max_rank, max_rank, dtype=dtype, device=device))
        self.Vt = nn.Parameter(torch.zeros(max_rank, n, dtype=dtype, device=device))
        own(self, self.parameters())
        self.reset(rank, generator)

    @torch.no_grad()
    def reset(self, rank: int, generator: torch.Generator | None = None) -> None:
        """Random bases of this rank and S = 0."""
        if generator is not None:
            checks.instance("generator", generator, torch.Generator, "a torch.Generator")
        where = "cpu" if generator is None else generator.device
        bases = (
            torch.randn(size, rank, dtype=self.S.dtype, generator=generator, device=where)
            for size in self.shape
        )
        U, V = (torch.linalg.qr(basis).Q for basis in bases)
        self.assign_factors(U, self.S.new_zeros(rank, rank), V)
        self.written_orthonormal()

    @property
    def U(self) -> Tensor:
        """(m, r), detached.  A ``state_dict`` has the names U, S, V, and torch's distributed
        checkpoints read such attributes.
        """
        return self.Ut.detach()[: self.rank].mT

    @U.setter
    def U(self, X: Tensor) -> None:
        raise ValueError(
            f"U: expected the storage Ut in its place, found {tuple(X.shape)}; {NO_STATE}"
        )

    @property
    def V(self) -> Tensor:
        """(n, r), detached."""
        return self.Vt.detach()[: self.rank].mT

    @V.setter
    def V(self, X: Tensor) -> None:
        raise ValueError(
            f"V: expected the storage Vt in its place, found {tuple(X.shape)}; {NO_STATE}"
        )

    def register_parameter(self, name: str, param: nn.Parameter | None) -> None:
        """Torch's method; ``ValueError`` for U and V: loading a state parameter by parameter would
        lose the rank.
        """
        if name in ("U", "V"):
            raise ValueError(
                f"{name}: expected the storage {name}t in its place, found a parameter; {NO_STATE}"
            )
        super().register_parameter(name, param)

    @property
    def shape(self) -> tuple[int, int]:
        """(m, n)."""
        return self.Ut.shape[1], self.Vt.shape[1]

    @property
    def max_rank(self) -> int:
        """The largest rank that the storage holds."""
        return self.S.shape[0]

    @property
    def parameter_count(self) -> int:
        """The numbers in use: r(m + n + r)."""
        return factor_entries(self.rank, self.shape)

    def active(self) -> tuple[Tensor, Tensor, Tensor]:
        """(Ut, S, Vt) of the current rank: (r, m), (r, r), (r, n), views that gradients flow through.

        Raises ``ValueError`` for flat pieces of FSDP1, and for an S that is not the storage
        (``functional_call`` with a ``state_dict`` puts such an S there).
        """
        if _is_flat(self.Ut):
            self.refuse_shards()
        return self._first(self.rank)

    def in_forward(self) -> tuple[Tensor, Tensor, Tensor]:
        """(Ut, S, Vt) for a forward pass: views, or the parameters themselves at full rank, since
        gradients of views cost copies.

        Compiled code gets the whole storage, whose other rows are zero and change nothing: views
        would make torch recompile for every rank.  In uncompiled training it raises
        ``RuntimeError`` like :meth:`refuse_foreign_bases`.
        """
        compiled = torch.compiler.is_compiling()
        if not compiled and self.training and torch.is_grad_enabled():
            Ut, Vt = self.Ut, self.Vt
            copies = "_is_replica" in self.__dict__  # by nn.DataParallel
            if Ut.requires_grad and (
                copies or type(Ut) is nn.Parameter
            ):  # functional_call puts plain tensors there
                self.watch.passing(Ut, Vt, self.rank, copies=copies)
        return self._first(None if compiled or self.rank == self.max_rank else self.rank)

    def _first(self, r: int | None) -> tuple[Tensor, Tensor, Tensor]:
        """Views of the first r rows; the parameters themselves for None."""
        if self.S.shape[0] != self.Ut.shape[0]:
            raise ValueError(
                f"S: expected the storage, {len(self.Ut)} x {len(self.Ut)}, found {tuple(self.S.shape)}; {NO_STATE}"
            )
        return (
            (self.Ut, self.S, self.Vt) if r is None else (self.Ut[:r], self.S[:r, :r], self.Vt[:r])
        )

    def factors(self) -> LowRank:
        """(U, S, V) as the algorithm takes them: detached views (a step reads them, :meth:`assign` writes).

        Raises ``ValueError`` for bases that are not orthonormal (see :meth:`orthonormalise`), for
        entries that are not finite, and like :meth:`refuse_more_than_the_rank`.
        """
        self.refuse_more_than_the_rank()
        Ut, S, Vt = (X.detach() for X in self.active())
        with own_precision(S.device):
            return LowRank(Ut.mT, S, Vt.mT)

    def refuse_more_than_the_rank(self) -> None:
        """Raise ``ValueError`` if rows beyond the rank are not zero: parameters were copied or
        broadcast without their rank.
        """
        if any(bool(X.detach()[self.rank :].any()) for X in (self.Ut, self.Vt)):
            raise ValueError(
                f"expected zeros beyond rank {self.rank}, found others: parameters were copied or broadcast without their ranks "
                "(load a state_dict, in every process), or another optimizer wrote into them"
            )

    def refuse_shards(self) -> None:
        """Raise ``ValueError`` if this process holds only a part of the factors, as under FSDP."""
        X = self.Ut
        if _is_flat(X) or hasattr(X, "to_local"):  # a DTensor
            raise ValueError(
                f"expected whole factors in every process, found {type(X).__name__} {tuple(X.shape)}; {NO_SHARDS}"
            )

    def refuse_foreign_bases(self) -> None:
        """Raise ``RuntimeError`` with the cure if an optimizer of single tensors, or an average,
        has changed the bases.
        """
        self.watch.look(self.Ut, self.Vt, self.rank)

    def written_orthonormal(self, *, to: float = 0.0) -> None:
        """Tell the watch that the owner wrote the bases, with a defect of at most ``to``, or of
        rounding if that is more.
        """
        self.watch.written(self.Ut, self.Vt, max(to, tolerated(self.Ut)))

    def _written_as_they_are(self) -> None:
        """Tell the watch that the bases came from a file or another precision: twice their present
        defect is allowed.
        """
        if has_values(self.Ut):
            self.written_orthonormal(
                to=2.0 * max(defect(X[: self.rank]) for X in (self.Ut, self.Vt))
            )

    def full(self) -> Tensor:
        """The dense W = U S Vᵀ, detached."""
        Ut, S, Vt = (X.detach() for X in self.active())
        with own_precision(S.device):
            return Ut.mT @ S @ Vt

    def assign(self, Y: LowRank) -> None:
        """Take over new factors, and their rank.

        Raises ``ValueError`` if they do not fit into the storage; nothing is changed then.
        """
        self.assign_factors(*Y)
        self.written_orthonormal(
            to=math.sqrt(torch.finfo(self.S.dtype).eps)
        )  # the defect that LowRank accepts

    @torch.no_grad()
    def assign_factors(self, U: Tensor, S: Tensor, V: Tensor) -> None:
        """Like :meth:`assign` for bare factors, whose columns need not be orthonormal
        (``baselines.py``).
        """
        r = S.shape[0]
        expected = ((self.shape[0], r), (r, r), (self.shape[1], r))
        found = tuple(tuple(X.shape) for X in (U, S, V))
        if found != expected or not 1 <= r <= self.max_rank:
            raise ValueError(
                f"expected factors of a {self.shape} matrix of rank 1 to {self.max_rank}, found shapes {found}"
            )
        new = [
            torch.zeros_like(storage) for storage in (self.Ut, self.S, self.Vt)
        ]  # all of them before any is changed
        for storage, X in zip(new, (U.mT, S, V.mT), strict=True):
            storage[: X.shape[0], : X.shape[1]] = X
        for storage, X in zip((self.Ut, self.S, self.Vt), new, strict=True):
            storage.copy_(X)
        self.rank = r
        self.watch.written(self.Ut, self.Vt, math.inf)

    @torch.no_grad()
    def put_back(self, Ut: Tensor, S: Tensor, Vt: Tensor) -> None:
        """Take over copies made of :meth:`active`, and their rank, without an allocation: memory
        may have run out.
        """
        for storage, X in zip((self.Ut, self.S, self.Vt), (Ut, S, Vt), strict=True):
            storage.zero_()
            storage[: X.shape[0], : X.shape[1]] = X
        self.rank = len(S)

    @torch.no_grad()
    def orthonormalise(self) -> None:
        """The same W with bases that are orthonormal to the rounding of their dtype.

        For factors that come from a lower precision: a float32 state in a float64 model,
        ``model.double()`` between two steps.  The new basis is Q of U = Q R with a positive
        diagonal of R.  It differs from U by no more than U's defect, so the memory of an optimizer
        stays valid.
        """
        Ut, S, Vt = (X.detach() for X in self.active())
        (U, R), (V, Q) = (_positive_qr(X.mT) for X in (Ut, Vt))
        with own_precision(S.device):
            self.assign_factors(U, R @ S @ Q.mT, V)
        self.written_orthonormal()

    def collected_gradients(self) -> ProjectedGradients | FactorGradients | None:
        """The gradients that backward passes have left in ``.grad``; None if there was no backward pass.

        Raises ``ValueError`` for factors below single precision, if only some factors have a
        gradient, and like the class of the gradients.
        """
        found = self._own_gradients()
        if found is None:
            return None
        if self.gradients == "published":
            return FactorGradients(dU=found.K, dS=found.S, dV=found.L)
        return ProjectedGradients(dK=found.K, dL=found.L, dS=found.S)

    def bare_gradients(self) -> Triple | None:
        """(∇_K, ∇_L, ∇_S) unchecked, for the fast path; None if there are none.

        Raises ``ValueError`` for the published route, whose division the fast path does not have,
        and if only some factors have a gradient.
        """
        if self.gradients != "projected":
            raise ValueError(
                f"gradients: the fast path expects 'projected', found {self.gradients!r}"
            )
        return self._own_gradients()

    def _own_gradients(self) -> Triple | None:
        """``.grad`` of U, V and S at the present rank, in the places of K, L and S."""
        if self.S.dtype not in STORAGE:
            raise ValueError(
                f"factors: expected torch.float32 or torch.float64, found {self.S.dtype}; {FOR_HALF}"
            )
        U, S, V = self.Ut.grad, self.S.grad, self.Vt.grad
        if U is None and S is None and V is None:
            return None
        if U is None or S is None or V is None:
            missing = ", ".join(name for name, X in (("U", U), ("S", S), ("V", V)) if X is None)
            raise ValueError(
                f"gradients: expected those of U, S and V or none, found none of {missing}"
            )
        r = self.rank
        return Triple(
            *(X.detach() for X in (U[:r].mT, V[:r].mT, S[:r, :r]))
        )  # create_graph=True gives them a graph

    def extra_repr(self) -> str:
        """The line of ``print(model)``."""
        m, n = self.shape
        return f"{m} x {n}, rank {self.rank} of at most {self.max_rank}"

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> LowRankAdapter:
        """Another device or precision: rounding to fewer bits makes the bases less orthonormal,
        which is no misuse.
        """
        before, allowed = self.Ut.dtype, self.watch.allowed
        fine = (
            not has_values(self.Ut)
            or max(defect(X[: self.rank]) for X in (self.Ut, self.Vt)) <= allowed
        )
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        own(self, self.parameters())
        if fine and self.Ut.dtype != before and allowed < math.inf:
            self._written_as_they_are()
        return self

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)  # type: ignore[no-untyped-call]
        own(self, self.parameters())

    def _save_to_state_dict(
        self, destination: dict[str, Any], prefix: str, keep_vars: bool
    ) -> None:
        with checks.naming(prefix.rstrip("."), RuntimeError):
            self.refuse_foreign_bases()
            Ut, S, Vt = (X.detach() for X in self.active())
        for name, X in (("U", Ut.mT), ("S", S), ("V", Vt.mT)):
            destination[prefix + name] = X.clone(memory_format=torch.contiguous_format)

    def _load_from_state_dict(
        self,
        state_dict: Mapping[str, Tensor],
        prefix: str,
        local_metadata: Mapping[str, Any],
        strict: bool,
        missing_keys: list[str],
        unexpected_keys: list[str],
        error_msgs: list[str],
    ) -> None:
        for hook in (
            self._load_state_dict_pre_hooks.values()
        ):  # torch calls them in the method that this one overrides
            hook(
                state_dict,
                prefix,
                local_metadata,
                strict,
                missing_keys,
                unexpected_keys,
                error_msgs,
            )
        found = {name: state_dict[prefix + name] for name in "USV" if prefix + name in state_dict}
        missing = [prefix + name for name in "USV" if name not in found]
        if strict:
            known = {prefix + name for name in "USV"}
            unexpected_keys.extend(
                key for key in state_dict if key.startswith(prefix) and key not in known
            )
        if missing:
            missing_keys.extend(missing)
            if found:  # nothing is loaded then
                error_msgs.append(
                    f"{prefix.rstrip('.')}: expected U, S and V together, found {', '.join(found)} alone"
                )
            return
        try:
            _refuse_unfit(found, meta=self.S.is_meta)
        except ValueError as problem:
            error_msgs.append(f"{prefix.rstrip('.')}: {problem}")
            return
        if self.S.is_meta and local_metadata.get("assign_to_params_buffers", False):
            self.to_empty(device=found["S"].device)
        try:
            if self.S.is_meta and not found["S"].is_meta:
                raise ValueError(
                    "expected storage for the factors, found them on the meta device; load with assign=True"
                )
            self.assign_factors(**found)
            self._written_as_they_are()
        except ValueError as problem:
            error_msgs.append(f"{prefix.rstrip('.')}: {problem}")


def _refuse_unfit(found: Mapping[str, object], *, meta: bool) -> None:
    """Raise ``ValueError`` unless a state holds dense real matrices for the factors; meta tensors
    only if ``meta``.
    """
    for name, X in found.items():
        checks.instance(name, X, Tensor, "a tensor")
        assert isinstance(X, Tensor)
        if X.layout != torch.strided or X.ndim != 2 or not X.is_floating_point():
            raise ValueError(
                f"{name}: expected a dense matrix of real numbers, found {X.dtype}, {X.layout}, {tuple(X.shape)}"
            )
        if X.is_meta and not meta:
            raise ValueError(
                f"{name}: expected a matrix with entries, found one on the meta device"
            )


def _is_flat(X: Tensor) -> bool:
    """Return whether FSDP1 has made a parameter part of a flat one, of which this process may hold
    only a piece.
    """
    return X.ndim != 2 or hasattr(X, "_fsdp_flattened")


def _positive_qr(X: Tensor) -> tuple[Tensor, Tensor]:
    """The factors Q and R of X = Q R with a nonnegative diagonal of R."""
    Q, R = torch.linalg.qr(X)
    signs = torch.where(R.diagonal() < 0.0, -1.0, 1.0).to(R.dtype)
    return Q * signs, signs[:, None] * R
