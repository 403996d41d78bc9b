"""The precision ladder: one step with 8 to 113 significant bits against 200, and what the two
routes to the gradients lose.

``python -m verification.certificates.ladder`` writes ladder.json.

The step is written once, for numbers of any precision (mpmath).  Its significands are those of
bfloat16, float16, float32, float64 and binary128; the range of exponents is not limited.  Every
error is relative to the natural scale of what is compared, and independent of the gauge.
Prediction: the error is a modest multiple of the unit round-off u, slope 1 on log-log axes.

The steps that this package delivers are points next to that line
(:mod:`verification.certificates.real_steps`): each must lie within what storage and one unit of the
acceptance criteria allow, and the same step of a gradient that lacks a few bits must not.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import mpmath
import numpy as np
from numpy.typing import NDArray

from geolora_ref import FactorGradients, LowRank, ProjectedGradients
from geolora_ref.algorithm import basis_augmentation, optimizer_step
from geolora_ref.support.files import write_json
from verification.certificates.real_steps import (
    RANK,
    RATE,
    REAL_STEPS,
    RealStep,
    allowed,
    lossy,
    missing_bits,
    question,
)
from verification.instruments.slopes import slope
from verification.support.command_line import writable_folder
from verification.support.machine import provenance

__all__ = ["BITS", "augmentation_errors", "control", "ladder", "main", "real_step", "route_errors"]

Matrix = NDArray[np.float64]
BITS = {"bfloat16": 8, "float16": 11, "float32": 24, "float64": 53, "binary128": 113}
EXACT = 200
GUARD = 53
"""Additional bits for the QR iteration of line 6, which does not converge with 8; its results are
rounded.
"""
TOLERANCE = 0.1
"""How far a slope may be from the prediction."""
STAGES = ("K_new", "L_new", "S_new", "W_hat", "singular values", "W_1")


def _instance(seed: int) -> tuple[Any, ...]:
    """U, S, V, G of sizes 9, 7, 3: exact in every precision of the ladder once U and V are made
    orthonormal in it.
    """
    rng = np.random.default_rng([seed, 11])
    Y = LowRank.random((9, 7), [1.0, 0.5, 0.25], rng)
    return Y.U, Y.S, Y.V, rng.standard_normal((9, 7))


def _step(
    arrays: Sequence[Matrix], bits: int, coarse: int | None = None, rate: float = 0.25
) -> dict[str, Any]:
    """Algorithm 1 with ``bits`` significant bits, truncated to RANK; ``coarse`` bits in line 3 (for
    a control).
    """
    U, S, V, G = (mpmath.matrix(X.tolist()) for X in arrays)
    r = S.rows
    with mpmath.mp.workprec(coarse or bits):
        U, V, G = +U, +V, +G
        dK, dL = G * V, G.T * U
        K_new, L_new, S_new = U * S - rate * dK, V * S.T - rate * dL, S - rate * (U.T * dK)
    with mpmath.mp.workprec(bits):
        U_hat, V_hat = (_orthonormal(_beside(B, X)) for B, X in ((U, K_new), (V, L_new)))
        for B, B_hat in ((U, U_hat), (V, V_hat)):  # keep the caller's basis
            B_hat[:, :r] = B
        S_hat = mpmath.zeros(U_hat.cols, V_hat.cols)
        S_hat[:r, :r], S_hat[r:, :r], S_hat[:r, r:] = (
            S_new,
            U_hat[:, r:].T * K_new,
            L_new.T * V_hat[:, r:],
        )
        with mpmath.mp.workprec(bits + GUARD):
            factors = mpmath.mp.svd_r(S_hat)
        P, sigma, Qt = (+X for X in factors)
        W_1 = (U_hat * P[:, :RANK]) * mpmath.diag(sigma[:RANK]) * (Qt[:RANK, :] * V_hat.T)
        values = mpmath.matrix(sigma)
        return dict(
            zip(STAGES, (K_new, L_new, S_new, U_hat * S_hat * V_hat.T, values, W_1), strict=True)
        )


def _beside(A: Any, B: Any) -> Any:
    both = mpmath.zeros(A.rows, A.cols + B.cols)
    both[:, : A.cols], both[:, A.cols :] = A, B
    return both


def _orthonormal(X: Any) -> Any:
    Q, _ = mpmath.mp.qr(X, mode="skinny")
    return Q


def ladder(seeds: int = 3, coarse: int | None = None) -> dict[str, list[float]]:
    """The largest relative errors over the seeds, for every stage one error for each rung of
    :data:`BITS`.
    """
    errors: dict[str, list[float]] = {stage: [] for stage in STAGES}
    for bits in BITS.values():
        found = dict.fromkeys(STAGES, 0.0)
        for seed in range(seeds):
            arrays = _instance(seed)
            exact, rounded = _step(arrays, EXACT), _step(arrays, bits, coarse)
            with mpmath.mp.workprec(EXACT):
                for stage in STAGES:
                    size = max(
                        mpmath.norm(exact[stage], 2)
                        if exact[stage].cols == 1
                        else mpmath.mnorm(exact[stage], "f"),
                        1,
                    )
                    error = mpmath.mnorm(rounded[stage] - exact[stage], "f") / size
                    found[stage] = max(found[stage], float(error))
        for stage in STAGES:
            errors[stage].append(found[stage])
    return errors


def real_step(real: RealStep, seeds: int = 3) -> dict[str, Any]:
    """The relative error of W₁ of a real step, and the error that is allowed, for the worst of the
    seeds.
    """
    u, eps = 2.0 ** -BITS[real.dtype], 2.0 ** (1 - BITS[real.arithmetic])
    found = []
    for seed in range(seeds):
        arrays = question(seed)
        exact = _step(arrays, EXACT, rate=RATE)
        with mpmath.mp.workprec(EXACT):
            U, S, V = (mpmath.matrix(X.tolist()) for X in real.take(arrays, real.dtype))
            error = float(
                mpmath.mnorm(U * S * V.T - exact["W_1"], "f") / mpmath.mnorm(exact["W_1"], "f")
            )
        found.append(
            {
                "u": u,
                "error": error,
                "allowed": allowed(arrays, [float(x) for x in exact["singular values"]], u, eps),
            }
        )
    worst = max(found, key=lambda one: one["error"] / one["allowed"])
    return worst | {"within": worst["error"] <= worst["allowed"]}


def control(real: RealStep, more: int = 0) -> dict[str, Any]:
    """The step with a gradient of so few bits that the loss must be noticed; ``more`` bits are
    added to these.
    """
    bits = BITS[real.dtype] - missing_bits(real) + more
    return real_step(lossy(real, bits)) | {"bits": bits}


def route_errors(conditions: Sequence[float]) -> dict[str, list[float]]:
    """Relative error of ∇_K by the published route (dense S of this condition) and by the
    division-free one, in float64.
    """
    rng = np.random.default_rng([0, 12])
    errors: dict[str, list[float]] = {"published": [], "division-free": []}
    for condition in conditions:
        Q1, Q2 = (np.linalg.qr(rng.standard_normal((4, 4))).Q for _ in range(2))
        Y = LowRank.random((20, 16), np.geomspace(1.0, 1.0 / condition, 4), rng).change_gauge(
            Q1, Q2
        )
        G = rng.standard_normal((20, 16))
        exact = G.astype(np.longdouble) @ Y.V.astype(np.longdouble)
        routes = {
            "published": FactorGradients.from_dense(Y, G).projected(Y),
            "division-free": ProjectedGradients.from_dense(Y, G),
        }
        for name, gradients in routes.items():
            errors[name].append(
                float(
                    np.linalg.norm((gradients.dK - exact).astype(float))
                    / np.linalg.norm(exact.astype(float))
                )
            )
    return errors


def augmentation_errors(sizes: Sequence[float]) -> dict[str, list[float]]:
    """Relative distances of (I − UUᵀ)∇_K from the range of Ũ, made from K_new or from ∇_K, for
    these sizes of λ‖∇_K‖/‖S‖.
    """
    rng = np.random.default_rng([0, 13])
    errors: dict[str, list[float]] = {"augmented with K_new": [], "augmented with the gradient": []}
    for size in sizes:
        Y = LowRank.random((20, 16), [1.0, 0.9, 0.8], rng)
        G = rng.standard_normal((20, 16))
        dK = G @ Y.V
        rate = size * float(np.linalg.norm(Y.S) / np.linalg.norm(dK))
        wanted = dK - Y.U @ (Y.U.T @ dK)
        updates = {
            "augmented with K_new": optimizer_step(Y.U @ Y.S, dK, rate),
            "augmented with the gradient": dK,
        }
        for name, X in updates.items():
            U_tilde = basis_augmentation(Y.U, X)
            missed = wanted - U_tilde @ (U_tilde.T @ wanted)
            errors[name].append(float(np.linalg.norm(missed) / np.linalg.norm(wanted)))
    return errors


CONDITIONS = [10.0**k for k in range(13)]
SIZES = [10.0**-k for k in range(13)]


def main(argv: Sequence[str] | None = None) -> int:
    """Exit status 0: every slope is as predicted, every real step is within its allowed error, and
    no lossy step is.
    """
    parser = argparse.ArgumentParser(
        prog="python -m verification.certificates.ladder",
        description="Error against unit round-off.",
    )
    parser.add_argument("--output", type=writable_folder, default="build/rigor", metavar="FOLDER")
    options = parser.parse_args(argv)
    found = measure()
    write_json(options.output / "ladder.json", found)
    for name, value in found["slopes"].items():
        print(f"{name:<32} slope {value:6.3f}, predicted {found['predicted'][name]:g}")
    for name, one in found["real steps"].items():
        coarse = found["lossy steps"][name]
        coarser = (
            f"with {coarse['bits']} bits {coarse['error']:.1e}, allowed {coarse['allowed']:.1e}"
        )
        print(f"{name:<32} error {one['error']:.1e}, allowed {one['allowed']:.1e}, {coarser}")
    return 0 if found["passed"] else 1


def measure() -> dict[str, Any]:
    """Measure all errors and slopes, and compare them with the predictions."""
    about = provenance()
    rungs, routes, augmented = ladder(), route_errors(CONDITIONS), augmentation_errors(SIZES)
    u = [2.0**-bits for bits in BITS.values()]
    slopes = {stage: slope(u, errors) for stage, errors in rungs.items()}
    predicted = dict.fromkeys(rungs, 1.0)
    for x, errors in ((CONDITIONS, routes), (SIZES, augmented)):
        slopes |= {name: slope(x[2:], values[2:]) for name, values in errors.items()}
    predicted |= {
        "published": 1.0,
        "division-free": 0.0,
        "augmented with K_new": -1.0,
        "augmented with the gradient": 0.0,
    }
    within = as_predicted(slopes, predicted)
    points = {name: real_step(real) for name, real in REAL_STEPS.items()}
    controls = {name: control(real) for name, real in REAL_STEPS.items()}
    return {
        "format": 1,
        **about,
        "bits": BITS,
        "errors": rungs,
        "conditions": CONDITIONS,
        "routes": routes,
        "sizes": SIZES,
        "augmentation": augmented,
        "slopes": slopes,
        "predicted": predicted,
        "tolerance": TOLERANCE,
        "as predicted": within,
        "real steps": points,
        "lossy steps": controls,
        "passed": all(within.values()) and beside_the_line(points, controls),
    }


def as_predicted(slopes: Mapping[str, float], predicted: Mapping[str, float]) -> dict[str, bool]:
    """Which slopes are within :data:`TOLERANCE` of the prediction."""
    return {name: abs(slopes[name] - value) <= TOLERANCE for name, value in predicted.items()}


def beside_the_line(points: Mapping[str, Any], controls: Mapping[str, Any]) -> bool:
    """Return whether all points are within their allowed errors and no control is."""
    return all(one["within"] for one in points.values()) and not any(
        one["within"] for one in controls.values()
    )


if __name__ == "__main__":
    sys.exit(main())
