"""Test problems with exact solutions and closed-form constants; each tests itself (``self_test``)."""

from geolora_ref.problems.problem import GradientFlow, MatrixODE
from geolora_ref.problems.quadratic import Quadratic
from geolora_ref.problems.rank_preserving import RankPreservingLinear, RankPreservingRiccati
from geolora_ref.problems.sensing import MatrixCompletion, MatrixSensing
from geolora_ref.problems.softmax_regression import SoftmaxRegression
from geolora_ref.problems.two_layer_linear import TwoLayerLinear

__all__ = [
    "GradientFlow",
    "MatrixCompletion",
    "MatrixODE",
    "MatrixSensing",
    "Quadratic",
    "RankPreservingLinear",
    "RankPreservingRiccati",
    "SoftmaxRegression",
    "TwoLayerLinear",
]
