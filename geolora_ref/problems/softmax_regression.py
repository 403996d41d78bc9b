"""Problem 3: softmax regression, on real data: scikit-learn's handwritten digits."""

from __future__ import annotations

from functools import cached_property

import numpy as np
import scipy.optimize
import scipy.special

from geolora_ref import checks
from geolora_ref.problems.problem import GradientFlow, Matrix

__all__ = ["SoftmaxRegression"]


class SoftmaxRegression(GradientFlow):
    """L(W) = mean cross-entropy of softmax(W x_i) against the label y_i, plus ρ/2 ‖W‖²; W is
    classes x features.

    The softmax Hessian diag(p) − ppᵀ is at most ½ I, therefore β ≤ ½ λmax(XᵀX)/N + ρ; convex,
    strong convexity ρ. ``minimum`` is a proven lower bound of L*: 0 without ridge, and with it
    L(W) − ‖∇L(W)‖²/(2ρ) at W = ``minimiser``.

    Raises ``ValueError`` for X that is not finite and real, labels that do not fit it or are
    negative, and a ridge ρ that is not a finite number ≥ 0.
    """

    def __init__(self, X: Matrix, labels: Matrix, ridge: float = 0.0) -> None:
        X, labels = np.array(X), np.array(labels)
        if (
            X.ndim != 2
            or labels.shape != X.shape[:1]
            or not np.issubdtype(labels.dtype, np.integer)
        ):
            raise ValueError(
                f"X, labels: expected (N, features) and N integer labels, found {X.shape} and {labels.dtype} {labels.shape}"
            )
        checks.real_matrices(X=X)
        if len(labels) == 0 or labels.min() < 0:
            raise ValueError(
                f"labels: expected at least one, of classes from 0, found {labels.min() if len(labels) else 'none'}"
            )
        ridge = checks.nonnegative_number("ridge", ridge)
        self.X, self.labels, self.ridge = X, labels, ridge
        self.count, classes = len(X), int(labels.max()) + 1
        self.shape = (classes, X.shape[1])
        self._targets = np.eye(classes)[labels]
        self.lipschitz = 0.5 * float(np.linalg.norm(X, 2)) ** 2 / self.count + ridge
        self.strong_convexity = ridge
        self.one_sided_lipschitz = -ridge

    @classmethod
    def digits(cls, ridge: float = 0.0) -> SoftmaxRegression:
        """1797 images of handwritten digits, 64 pixels in [0, 1], 10 classes;
        ``ModuleNotFoundError`` without scikit-learn.
        """
        try:
            from sklearn.datasets import load_digits
        except ModuleNotFoundError as error:
            raise ModuleNotFoundError(
                "the digits ship inside scikit-learn: pip install 'geolora-ref[verify]'"
            ) from error
        data = load_digits()
        return cls(data.data / 16.0, data.target, ridge)

    @cached_property
    def minimum(self) -> float:  # type: ignore[override]
        """A proven lower bound of the minimal loss."""
        if self.ridge == 0.0:
            return 0.0
        W = self.minimiser
        return self.loss(W) - float(np.sum(self.gradient(W) ** 2)) / (2.0 * self.ridge)

    @cached_property
    def minimiser(self) -> Matrix:
        """The minimiser of L by L-BFGS, up to ‖∇L‖/ρ.  Raises ``ValueError`` without ridge, where a
        minimiser may not exist.
        """
        if self.ridge == 0.0:
            raise ValueError("minimiser: expected a problem with a ridge ρ > 0, found ρ = 0")
        run = scipy.optimize.minimize(
            lambda w: (
                self.loss(w.reshape(self.shape)),
                self.gradient(w.reshape(self.shape)).ravel(),
            ),
            np.zeros(self.shape).ravel(),
            jac=True,
            method="L-BFGS-B",
            options={"maxiter": 5000, "maxfun": 10000, "gtol": 1e-9, "ftol": 0.0},
        )
        return np.asarray(run.x.reshape(self.shape))

    def loss(self, W: Matrix) -> float:
        """Mean cross-entropy plus ρ/2 ‖W‖²."""
        scores = self.X @ W.T
        correct = scores[np.arange(self.count), self.labels]
        return float(
            np.mean(scipy.special.logsumexp(scores, axis=1) - correct)
        ) + 0.5 * self.ridge * float(np.sum(W**2))

    def gradient(self, W: Matrix) -> Matrix:
        """(softmax(XWᵀ) − Y)ᵀ X / N + ρW."""
        return np.asarray(self._errors(W).T @ self.X / self.count + self.ridge * W)

    def sharpest_point(self) -> Matrix:
        """A W at which two classes share every sample evenly: there the softmax Hessian attains its
        bound ½ (for X ≥ 0).
        """
        W = np.full(self.shape, -100.0)
        W[:2] = 0.0
        return W

    def batch_gradient(self, W: Matrix, batch: Matrix) -> Matrix:
        """The gradient over the samples in ``batch`` (indices): an unbiased estimate of
        :meth:`gradient` for random batches.
        """
        errors = scipy.special.softmax(self.X[batch] @ W.T, axis=1) - self._targets[batch]
        return np.asarray(errors.T @ self.X[batch] / len(batch) + self.ridge * W)

    def batch_variance(self, W: Matrix, U: Matrix, V: Matrix, size: int) -> float:
        """ς² = E‖P(g − ∇L)‖² exactly, P the tangent projector of range(U), range(V), g over
        ``size`` draws with replacement.

        A sample's gradient is the rank-one matrix e xᵀ, and ‖P(e
        xᵀ)‖² = ‖e‖²‖x‖² − ‖(I − UUᵀ)e‖²‖(I − VVᵀ)x‖².
        """
        errors, X = self._errors(W), self.X
        squares = np.sum(errors**2, axis=1) * np.sum(X**2, axis=1)
        outside = np.sum((errors - errors @ U @ U.T) ** 2, axis=1) * np.sum(
            (X - X @ V @ V.T) ** 2, axis=1
        )
        mean = errors.T @ X / self.count
        UtM, MV = U.T @ mean, mean @ V
        mean_square = np.sum(UtM**2) + np.sum(MV**2) - np.sum((UtM @ V) ** 2)
        return float(np.mean(squares - outside) - mean_square) / size

    def _errors(self, W: Matrix) -> Matrix:
        """softmax(XWᵀ) − Y, samples x classes."""
        return np.asarray(scipy.special.softmax(self.X @ W.T, axis=1) - self._targets)
