from .augmented_bug import AugmentedBUG
from .augmented_splitting import AugmentedSplitting
from .bug import BUG
from .exponential import ProjectedExponential
from .integrate import (
    Adaptive,
    Progress,
    Record,
    Run,
    Stopped,
    distance,
    integrate,
)
from .integrator import (
    Evaluations,
    Integrator,
    Step,
    StepError,
    TruncationRule,
)
from .midpoint_bug import MidpointBUG
from .naive import NaiveFactorEuler
from .nystroem import GeneralisedNystroem
from .oblique_rk import ObliqueRK
from .parallel_bug import ParallelBUG
from .projected_rk import ProjectedRK
from .projector_splitting import ProjectorSplitting, StrangSplitting
from .runge_kutta_bug import RungeKuttaBUG
from .second_order_parallel import SecondOrderParallel
from .soft_threshold import SoftThreshold
from .sub_solvers import (
    EXPLICIT_EULER,
    HEUN,
    RK4,
    RungeKutta,
    SolveIVP,
    Tableau,
)

__all__ = [
    "BUG",
    "EXPLICIT_EULER",
    "HEUN",
    "RK4",
    "Adaptive",
    "AugmentedBUG",
    "AugmentedSplitting",
    "Evaluations",
    "GeneralisedNystroem",
    "Integrator",
    "MidpointBUG",
    "NaiveFactorEuler",
    "ObliqueRK",
    "ParallelBUG",
    "Progress",
    "ProjectedExponential",
    "ProjectedRK",
    "ProjectorSplitting",
    "Record",
    "Run",
    "RungeKutta",
    "RungeKuttaBUG",
    "SecondOrderParallel",
    "SoftThreshold",
    "SolveIVP",
    "Step",
    "StepError",
    "Stopped",
    "StrangSplitting",
    "Tableau",
    "TruncationRule",
    "distance",
    "integrate",
]
