"""The integrator family of dynamical low-rank approximation for Ẏ = P(Y) F(t, Y): one interface,
one file per integrator.
"""

from geolora_ref.integrators.augmented_bug import AugmentedBUG
from geolora_ref.integrators.augmented_splitting import AugmentedSplitting
from geolora_ref.integrators.bug import BUG
from geolora_ref.integrators.exponential import ProjectedExponential
from geolora_ref.integrators.integrate import (
    Adaptive,
    Progress,
    Record,
    Run,
    Stopped,
    distance,
    integrate,
)
from geolora_ref.integrators.integrator import (
    Evaluations,
    Integrator,
    Step,
    StepError,
    TruncationRule,
)
from geolora_ref.integrators.midpoint_bug import MidpointBUG
from geolora_ref.integrators.naive import NaiveFactorEuler
from geolora_ref.integrators.nystroem import GeneralisedNystroem
from geolora_ref.integrators.oblique_rk import ObliqueRK
from geolora_ref.integrators.parallel_bug import ParallelBUG
from geolora_ref.integrators.projected_rk import ProjectedRK
from geolora_ref.integrators.projector_splitting import ProjectorSplitting, StrangSplitting
from geolora_ref.integrators.runge_kutta_bug import RungeKuttaBUG
from geolora_ref.integrators.second_order_parallel import SecondOrderParallel
from geolora_ref.integrators.soft_threshold import SoftThreshold
from geolora_ref.integrators.sub_solvers import (
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
