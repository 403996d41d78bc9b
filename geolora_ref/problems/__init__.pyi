from .allen_cahn import AllenCahn
from .curve import Curve, KochLubich, RotatingExponential
from .field import Field, Product
from .lyapunov import Lyapunov
from .problem import FactoredODE, GradientFlow, MatrixODE, StartedODE
from .quadratic import Quadratic
from .rank_preserving import RankPreservingLinear, RankPreservingRiccati
from .riccati import Riccati
from .saddle import Saddle
from .schroedinger import Schroedinger
from .sensing import MatrixCompletion, MatrixSensing
from .softmax_regression import SoftmaxRegression
from .two_layer_linear import TwoLayerLinear
from .vlasov_poisson import VlasovPoisson

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
