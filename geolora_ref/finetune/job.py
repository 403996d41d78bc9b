"""The training loop of one method, one model and one data set; a resumed run ends at the same
parameters.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch

from geolora_ref.finetune.batches import Examples, by_length, training_order
from geolora_ref.finetune.checkpoint import (
    Stored,
    check_same_job,
    load_trained_state,
    read_stored,
    trained_state,
    well_formed,
    write_stored,
)
from geolora_ref.finetune.methods import Method
from geolora_ref.finetune.metrics import evaluate_metric
from geolora_ref.finetune.model import Model
from geolora_ref.finetune.plan import Plan, Schedule
from geolora_ref.support.foreign import words

__all__ = ["Data", "DivergedError", "History", "Job", "Meaning", "Plan", "Schedule"]

CPU = torch.device("cpu")
RANK_RECORDS = 500
"""About the largest number of times that ranks are recorded in a run, evenly spaced."""


class DivergedError(ArithmeticError):
    """The training loss or a gradient is not finite any more."""


class Meaning(Protocol):
    """The meaning of a model's outputs (B, k): the loss, and the predictions that the metric
    compares with targets (B,).
    """

    def loss(self, outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """One number for a batch."""

    def predictions(self, outputs: torch.Tensor) -> torch.Tensor:
        """One number for each example of a batch."""


@dataclass(frozen=True)
class Data:
    """Training examples, evaluation sets by name (such as "dev") for the metric, and the meaning of
    the outputs.
    """

    train: Examples
    evaluation: Mapping[str, Examples]
    meaning: Meaning


@dataclass
class History:
    """The records of a run so far.

    Attributes
    ----------
    losses, seconds : training loss and duration of every step.
    rank_steps, ranks : the steps at which ranks were recorded, and the ranks then, in the order of
        ``layers``.
    metrics : for each epoch the metric on each evaluation set.
    truncations, exact : the number of truncations of all layers in all steps, and of those by
        Householder QR.
    """

    layers: list[str] = field(default_factory=list)
    losses: list[float] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    rank_steps: list[int] = field(default_factory=list)
    ranks: list[list[int]] = field(default_factory=list)
    metrics: list[dict[str, float]] = field(default_factory=list)
    truncations: int = 0
    exact: int = 0

    @property
    def steps(self) -> int:
        """How many steps were done."""
        return len(self.losses)

    @property
    def late_loss(self) -> float:
        """The mean training loss over the last tenth of the steps."""
        return float(np.mean(self.losses[-max(1, self.steps // 10) :]))

    def learned(self, baseline: float) -> bool:
        """Return whether the late loss is below that of a model that ignores its input."""
        return self.late_loss < baseline

    def state(self) -> dict[str, Any]:
        """The whole history as a checkpoint keeps it, the long lists as tensors."""
        kinds = {
            "losses": torch.float64,
            "seconds": torch.float64,
            "rank_steps": torch.int64,
            "ranks": torch.int64,
        }
        return vars(self) | {
            name: torch.tensor(getattr(self, name), dtype=kind) for name, kind in kinds.items()
        }

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> History:
        """The inverse of :meth:`state`; other entries are ignored."""
        kept: dict[str, Any] = {field.name: state[field.name] for field in fields(cls)}
        return cls(
            **kept | {name: X.tolist() for name, X in kept.items() if isinstance(X, torch.Tensor)}
        )

    def check(self, steps: int, epochs: int, per_epoch: int) -> None:
        """Raise ``ValueError`` unless a run of ``steps`` steps and ``epochs`` epochs can have such
        a history.
        """
        if not (self.steps == len(self.seconds) <= steps and len(self.metrics) <= epochs):
            found = (
                f"{self.steps} losses, {len(self.seconds)} times and {len(self.metrics)} metrics"
            )
            raise ValueError(
                f"history: expected at most {steps} steps and {epochs} epochs, found {found}"
            )
        if not len(self.metrics) * per_epoch <= self.steps <= (len(self.metrics) + 1) * per_epoch:
            raise ValueError(
                f"history: expected {per_epoch} steps an epoch, found {self.steps} and {len(self.metrics)} metrics"
            )
        if not all(isinstance(count, int) for count in (self.truncations, self.exact)):
            raise ValueError(
                f"history: expected counts of truncations, found {self.truncations!r} and {self.exact!r}"
            )


class Job:
    """A run that can be killed at any time and taken up again; ``predict`` gives one entry (N,) for
    each of N examples.

    ``identity`` : plain JSON data that, like the plan, must agree between a checkpoint and this
    job.  ``fresh`` : start from scratch, and let the first checkpoint replace an existing one.  ``on_step``
    and ``on_epoch`` are called with the number done and the total.  The global generators of torch
    are left unchanged: dropout and the like draw from private copies of the generators of the CPU
    and the model's device, seeded by the plan and kept in the checkpoint.

    A checkpoint of a run with other epochs is resumed if its steps are the first ones of this job
    (:meth:`Plan.continues`).

    Raises ``ValueError`` that names the checkpoint if it is damaged or belongs to another job, and
    the errors of ``make_model`` and of the method.
    """

    def __init__(
        self,
        make_model: Callable[[torch.Generator], Model],
        method: Method,
        data: Data,
        plan: Plan,
        *,
        identity: dict[str, Any] | None = None,
        checkpoint: Path | None = None,
        checkpoint_every: int = 50,
        fresh: bool = False,
        on_step: Callable[[int, int], None] | None = None,
        on_epoch: Callable[[int, int], None] | None = None,
    ) -> None:
        self.method, self.data, self.plan = method, data, plan
        self.identity = asdict(plan) | (identity or {})
        self.checkpoint, self.checkpoint_every = checkpoint, checkpoint_every
        self.on_step, self.on_epoch = on_step, on_epoch
        self.history = History()
        self.batches_per_epoch = math.ceil(len(data.train) / plan.batch_size)
        self.steps = plan.epochs * self.batches_per_epoch
        self.device = CPU  # until the device of the model is known
        generator = torch.Generator().manual_seed(plan.seed)
        with self._private_randomness():
            self.model = make_model(generator)
        self.device = next(self.model.parameters()).device
        with self._private_randomness():
            self.prepared = method.prepare(self.model, generator, self.steps)
            self._base_rates = [
                float(group["lr"]) for group in self.prepared.optimizer.param_groups
            ]
            self._random_state = self._get_random_state()
        self.history.layers = list(self.prepared.ranks())
        if checkpoint is not None and checkpoint.exists() and not fresh:
            self._resume(checkpoint)

    def run(self) -> History:
        """All steps that are left, with the metric after every epoch.

        Raises :class:`DivergedError` when a loss is not finite, and ``OSError`` if a checkpoint
        cannot be written.
        """
        with self._private_randomness():
            self._set_random_state(self._random_state)
            try:
                self._record_ranks()
                while len(self.history.metrics) < self.plan.epochs:
                    self._epoch(len(self.history.metrics))
            finally:
                self._random_state = self._get_random_state()
        return self.history

    def _epoch(self, epoch: int) -> None:
        order = training_order(self.data.train.lengths, self.plan.batch_size, self.plan.seed, epoch)
        for indices in order[self.history.steps - epoch * self.batches_per_epoch :]:
            self._step(indices)
            if self.history.steps % self.checkpoint_every == 0:
                self.save()
        self.history.metrics.append(self.evaluate())
        self.save()
        if self.on_epoch is not None:
            self.on_epoch(len(self.history.metrics), self.plan.epochs)

    def _step(self, indices: list[int]) -> None:
        """One batch: forward, backward, optimizer, records."""
        started = time.perf_counter()
        optimizer, done = self.prepared.optimizer, self.history.steps
        for group, rate in zip(optimizer.param_groups, self._base_rates, strict=True):
            group["lr"] = rate * self.plan.factor(done, self.steps)
        self.model.train()
        inputs, targets = self.data.train.batch(indices, self.device)
        loss = self.data.meaning.loss(self.model(**inputs), targets)
        value = float(loss.detach())
        if not math.isfinite(value):
            raise DivergedError(
                f"step {done + 1} of {self.steps}: expected a finite training loss, found {value}; try a smaller lr"
            )
        total = loss if self.prepared.penalty is None else loss + self.prepared.penalty()
        torch.autograd.backward(total)
        before = self.prepared.truncations()
        try:
            optimizer.step()
        except FloatingPointError as error:
            raise DivergedError(f"step {done + 1} of {self.steps}: {error}") from error
        if self.prepared.after_step is not None:
            self.prepared.after_step(done + 1)
        optimizer.zero_grad()
        self._count_truncations(before)
        self.history.losses.append(value)
        self.history.seconds.append(time.perf_counter() - started)
        self._record_ranks()
        if self.on_step is not None:
            self.on_step(self.history.steps, self.steps)

    def _count_truncations(self, before: tuple[int, int]) -> None:
        """Add the truncations of this step: a resumed run has a new optimizer, whose own counts
        begin at 0.
        """
        (truncations, exact), history = self.prepared.truncations(), self.history
        history.truncations += truncations - before[0]
        history.exact += exact - before[1]

    @torch.no_grad()
    def evaluate(self) -> dict[str, float]:
        """The metric on every evaluation set."""
        return {name: self._metric(examples) for name, examples in self.data.evaluation.items()}

    def _metric(self, examples: Examples) -> float:
        predictions = self.predict(examples).numpy()
        return evaluate_metric(self.plan.metric, examples.targets.numpy(), predictions)

    @torch.no_grad()
    def predict(self, examples: Examples) -> torch.Tensor:
        """One prediction per example, in the order of the examples: a class, a standardised number,
        or nats.
        """
        self.model.eval()

        def of_batch(indices: list[int]) -> torch.Tensor:
            inputs, _ = examples.batch(indices, self.device)
            return self.data.meaning.predictions(self.model(**inputs)).cpu()

        return by_length(examples.lengths, 2 * self.plan.batch_size, of_batch)

    def _record_ranks(self) -> None:
        """Record the ranks at the start, at the end, and at even intervals between."""
        history = self.history
        due = history.steps % max(1, self.steps // RANK_RECORDS) == 0 or history.steps == self.steps
        if history.layers and due and history.steps not in history.rank_steps[-1:]:
            history.rank_steps.append(history.steps)
            history.ranks.append(list(self.prepared.ranks().values()))

    def save(self) -> None:
        """Write the checkpoint, if the job keeps one."""
        if self.checkpoint is None:
            return
        state = {
            "model": trained_state(self.model),
            "optimizer": self.prepared.optimizer.state_dict(),
            "random": self._get_random_state(),
            **self.history.state(),
        }
        write_stored(self.checkpoint, Stored("checkpoint", self.identity, state))

    def _resume(self, path: Path) -> None:
        """Take over the state of a checkpoint of this job."""
        try:
            stored = read_stored(path, "checkpoint")
            length = {name: getattr(self.plan, name) for name in ("epochs", "warmup")}
            check_same_job(path, stored.job | length, self.identity)
            with well_formed(path):
                before = replace(self.plan, **{name: stored.job[name] for name in length})
        except ValueError as error:
            raise ValueError(
                f"{error}; a fresh start (--fresh) replaces it, another folder keeps it"
            ) from error
        state = stored.state
        try:
            load_trained_state(self.model, state["model"])
            self.prepared.optimizer.load_state_dict(state["optimizer"])
            with self._private_randomness():
                self._set_random_state(state["random"])
            history = History.from_state(state)
            history.check(
                before.epochs * self.batches_per_epoch, before.epochs, self.batches_per_epoch
            )
        except (RuntimeError, ValueError, LookupError, TypeError, AttributeError) as error:
            what = str(error) if isinstance(error, RuntimeError | ValueError) else words(error)
            raise ValueError(
                f"{path}: expected the state of this model and its optimizer, found another one: {what}"
            ) from error
        if not self.plan.continues(before, history.steps, self.batches_per_epoch):
            raise ValueError(
                f"{path}: {self._beginning(before, history.steps)}; a fresh start (--fresh) replaces it"
            )
        self._random_state = state["random"]
        self.history = history

    def _beginning(self, before: Plan, done: int) -> str:
        """The reason, in words, why the steps done with the plan ``before`` are not the first steps
        of this job.
        """
        if done > self.steps:
            return f"expected at most the {self.steps} steps of {self.plan.epochs} epochs, found that {done} are done"
        rise = before.warmup * before.epochs / self.plan.epochs
        cure = (
            f" or --warmup {rise!r}, which rises as long as that"
            if self.plan.schedule == "constant"
            else ""
        )
        return (
            f"expected {done} steps at the learning rates with which {self.plan.epochs} epochs begin, found those of "
            f"{before.epochs} epochs with the {before.schedule} schedule and warmup {before.warmup:g}; choose {before.epochs} "
            f"epochs{cure}"
        )

    def _random_devices(self) -> set[torch.device]:
        """The devices whose generators the run uses; more would have to exist again wherever the
        checkpoint is resumed.
        """
        return {CPU, self.device}

    @contextmanager
    def _private_randomness(self) -> Iterator[None]:
        """Within this context the global generators are seeded by the plan; afterwards their state
        is restored.
        """
        before = {device: _generator_state(device) for device in self._random_devices()}
        try:
            for device in before:
                _set_generator_state(
                    device, torch.Generator(device).manual_seed(self.plan.seed).get_state()
                )
            yield
        finally:
            for device, state in before.items():
                _set_generator_state(device, state)

    def _get_random_state(self) -> dict[str, Any]:
        return {device.type: _generator_state(device) for device in self._random_devices()}

    def _set_random_state(self, state: dict[str, Any]) -> None:
        """Set the generators; ``ValueError`` for a state that lacks the generator of the model's device."""
        for device in self._random_devices():
            found = state.get(device.type)
            if found is None:
                raise ValueError(
                    f"checkpoint: expected the random state of {device}, found those of {', '.join(sorted(state))}"
                )
            _set_generator_state(device, found)


def _generator_state(device: torch.device) -> torch.Tensor:
    """The state of the global generator of a device."""
    if device == CPU:
        return torch.get_rng_state()
    state: torch.Tensor = torch.get_device_module(device).get_rng_state(device)
    return state


def _set_generator_state(device: torch.device, state: torch.Tensor) -> None:
    if device == CPU:
        torch.set_rng_state(state)
    else:
        torch.get_device_module(device).set_rng_state(state, device)
