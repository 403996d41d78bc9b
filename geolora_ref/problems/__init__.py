"""Test problems with exact solutions and closed-form constants, all checked by ``self_test``."""

from geolora_ref.problems.allen_cahn import AllenCahn
from geolora_ref.problems.curve import Curve, KochLubich, RotatingExponential
from geolora_ref.problems.field import Field, Product
from geolora_ref.problems.lyapunov import Lyapunov
from geolora_ref.problems.problem import FactoredODE, GradientFlow, MatrixODE, StartedODE
from geolora_ref.problems.quadratic import Quadratic
from geolora_ref.problems.rank_preserving import RankPreservingLinear, RankPreservingRiccati
from geolora_ref.problems.riccati import Riccati
from geolora_ref.problems.saddle import Saddle
from geolora_ref.problems.schroedinger import Schroedinger
from geolora_ref.problems.sensing import MatrixCompletion, MatrixSensing
from geolora_ref.problems.softmax_regression import SoftmaxRegression
from geolora_ref.problems.two_layer_linear import TwoLayerLinear
from geolora_ref.problems.vlasov_poisson import VlasovPoisson

__all__ = [
    "AllenCahn",
    "Curve",
    "FactoredODE",
    "Field",
    "GradientFlow",
    "KochLubich",
    "Lyapunov",
    "MatrixCompletion",
    "MatrixODE",
    "MatrixSensing",
    "Product",
    "Quadratic",
    "RankPreservingLinear",
    "RankPreservingRiccati",
    "Riccati",
    "RotatingExponential",
    "Saddle",
    "Schroedinger",
    "SoftmaxRegression",
    "StartedODE",
    "TwoLayerLinear",
    "VlasovPoisson",
]
