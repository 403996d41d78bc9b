"""Long sequences of everything that can happen to a state, against the dense model."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    rule,
    run_state_machine_as_test,
)

from geolora_ref import LowRank, ProjectedGradients, augmented_step, geolora_step
from geolora_ref.arrays import norm
from geolora_ref.budget import truncate_to_budget
from geolora_ref.oracle.cases.spectra import SPECTRA
from geolora_ref.oracle.judges.criteria import FAIL
from geolora_ref.oracle.judges.dense import dense_oracle
from tests.nightly import NIGHTLY

pytestmark = pytest.mark.usefixtures("module_unchecked")

LENGTH = 50
EXAMPLES, FLOOR = (4000, 100_000) if NIGHTLY else (10, 100)
"""How many sequences are drawn, and the least number of steps in them."""
SEEDS = st.integers(0, 2**32 - 1)
RATES = st.sampled_from((0.1, 1e-3, 0.0, 1e-8, 1.0, 5.0))
SMALL, LARGER = 1e-12, 2.0**40
"""Steps to the target 0 lose all digits each; below SMALL the state is multiplied by a power of
two, which is exact.
"""


class Trajectory(RuleBasedStateMachine):
    """A state, and the dense matrix W that it must stand for, to rounding."""

    counts: dict[str, int] = {}  # noqa: RUF012  (one count over all runs; the test clears it)

    def count(self, what: str) -> None:
        self.counts[what] = self.counts.get(what, 0) + 1
        self.operations += 1

    @initialize(
        m=st.integers(1, 9),
        n=st.integers(1, 9),
        spectrum=st.sampled_from(sorted(SPECTRA)),
        seed=SEEDS,
    )
    def start(self, m: int, n: int, spectrum: str, seed: int) -> None:
        rng = np.random.default_rng(seed)
        self.operations = 1
        self.Y = LowRank.random((m, n), SPECTRA[spectrum](int(rng.integers(1, min(m, n) + 1))), rng)
        self.W = self.Y.full()

    @property
    def unit(self) -> float:
        """c·eps with c = 4√(m + n)."""
        return 4.0 * float(np.sqrt(sum(self.Y.shape)) * np.finfo(self.Y.S.dtype).eps)

    def gradient(self, seed: int, magnitude: float) -> Any:
        Z = magnitude * np.random.default_rng(seed).standard_normal(self.Y.shape)
        return (self.Y.full() - Z).astype(self.Y.S.dtype)

    def accept(self, Y: LowRank, G: Any, rate: float, **options: Any) -> None:
        """The dense oracle judges the new state; the dense model continues from there."""
        U, S, V = self.Y
        ratio = dense_oracle(U, S, V, G, learning_rate=rate, **options).ratio(
            Y.full().astype(np.float64), Y.rank
        )
        assert ratio <= FAIL, f"ratio {ratio:.3g} with {options}"
        while 0.0 < norm(Y.S) < SMALL:
            Y = LowRank(Y.U, Y.S * LARGER, Y.V)
        self.Y, self.W = Y, Y.full()

    @rule(
        seeds=st.lists(SEEDS, min_size=4, max_size=16),
        rate=RATES,
        tau=st.sampled_from((0.0, 0.01, 0.3, 1.0)),
        least=st.integers(1, 3),
        magnitude=RATES,
    )
    def steps(
        self, seeds: list[int], rate: float, tau: float, least: int, magnitude: float
    ) -> None:
        """A gradient a step; one step where it overshoots, or many would leave the range of single
        precision.
        """
        least = min(least, *self.Y.shape)
        options: dict[str, Any] = {"tau": tau, "min_rank": least, "max_rank": max(least, 6)}
        for seed in seeds[: 1 if rate > 1.0 else None]:
            self.count("step")
            G = self.gradient(seed, magnitude)
            step = geolora_step(
                self.Y, ProjectedGradients.from_dense(self.Y, G), learning_rate=rate, **options
            )
            self.accept(step.Y, G, rate, **options)
            self.stands_for_the_dense_matrix()

    @rule(theta=st.sampled_from((0.0, 1e-6, 0.1, 1.0)))
    def truncate(self, theta: float) -> None:
        """A step of length 0."""
        self.count("truncate")
        G = np.zeros(self.Y.shape, self.Y.S.dtype)
        step = geolora_step(
            self.Y, ProjectedGradients.from_dense(self.Y, G), learning_rate=0.0, theta=theta
        )
        self.accept(step.Y, G, 0.0, theta=theta)

    @rule(seed=SEEDS, budget=st.integers(1, 8))
    def budget(self, seed: int, budget: int) -> None:
        """One layer with a budget of its own is a step with this cap."""
        self.count("budget")
        G = self.gradient(seed, 1.0)
        step = augmented_step(self.Y, ProjectedGradients.from_dense(self.Y, G), learning_rate=0.1)
        (cut,) = truncate_to_budget([step], budget)
        columns = min(2 * self.Y.rank, *self.Y.shape)
        assert cut.Y.rank == min(budget, columns)
        self.accept(cut.Y, G, 0.1, theta=0.0, min_rank=cut.Y.rank, max_rank=cut.Y.rank)

    @rule(seed=SEEDS)
    def gauge(self, seed: int) -> None:
        self.count("gauge change")
        rng, r = np.random.default_rng(seed), self.Y.rank
        Q1, Q2 = (
            np.linalg.qr(rng.standard_normal((r, r))).Q.astype(self.Y.S.dtype) for _ in range(2)
        )
        self.Y = self.Y.change_gauge(Q1, Q2)

    @rule(dtype=st.sampled_from((np.float32, np.float64)))
    def cast(self, dtype: Any) -> None:
        """The model follows to what single precision can hold.

        Bases of single precision are not orthonormal in double precision (and refused as such): QR
        makes them so.
        """
        self.count("cast")
        before, coarse = self.Y, max(float(np.finfo(t).eps) for t in (dtype, self.Y.S.dtype))
        U, S, V = (X.astype(dtype) for X in before)
        (QU, RU), (QV, RV) = np.linalg.qr(U), np.linalg.qr(V)
        self.Y = LowRank(QU, RU @ S @ RV.T, QV)
        error = norm(self.Y.full() - before.full())
        assert error <= FAIL * 4.0 * np.sqrt(sum(self.Y.shape)) * coarse * norm(before.S)
        self.W = self.Y.full()

    @rule()
    def save_and_load(self) -> None:
        """Bit for bit."""
        self.count("save and load")
        file = io.BytesIO()
        np.savez(file, U=self.Y.U, S=self.Y.S, V=self.Y.V)
        file.seek(0)
        with np.load(file, allow_pickle=False) as stored:
            loaded = LowRank(stored["U"], stored["S"], stored["V"])
        assert all(
            a.tobytes() == b.tobytes() and a.dtype == b.dtype
            for a, b in zip(loaded, self.Y, strict=True)
        )
        self.Y = loaded

    @invariant()
    def stands_for_the_dense_matrix(self) -> None:
        if hasattr(self, "Y"):  # every operation adds a rounding error, none takes it away
            allowed = self.operations * FAIL * self.unit
            assert norm(self.Y.full() - self.W) <= allowed * norm(self.W)
            for B in (self.Y.U, self.Y.V):
                assert np.linalg.norm(B.T @ B - np.eye(self.Y.rank)) <= allowed


class BrokenTrajectory(Trajectory):
    """The core is kept and the bases change their gauge: not the same matrix."""

    @rule(seed=SEEDS)
    def gauge(self, seed: int) -> None:
        r = self.Y.rank
        Q = np.linalg.qr(np.random.default_rng(seed).standard_normal((r, r))).Q.astype(
            self.Y.S.dtype
        )
        self.Y = LowRank(self.Y.U @ Q, self.Y.S, self.Y.V)


def campaign(examples: int) -> settings:
    checks = [HealthCheck.too_slow, HealthCheck.filter_too_much]
    return settings(
        max_examples=examples,
        stateful_step_count=LENGTH,
        deadline=None,
        suppress_health_check=checks,
    )


def test_no_sequence_leaves_the_model(record_property: Callable[[str, object], None]) -> None:
    """At least FLOOR steps without a violation, and every operation."""
    Trajectory.counts.clear()
    run_state_machine_as_test(Trajectory, settings=campaign(EXAMPLES))
    counts = dict(Trajectory.counts)
    record_property("table", f"fuzzing: no violation in {sum(counts.values())} operations")
    assert counts["step"] >= FLOOR
    assert len(counts) == 6


def test_wrong_gauge_is_found() -> None:
    with pytest.raises(AssertionError, match="full"):
        run_state_machine_as_test(
            BrokenTrajectory,
            settings=settings(campaign(50), phases=[Phase.generate], database=None),
        )
