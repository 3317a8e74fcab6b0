"""Posterior checks: draws as a data tree, importance weights, calibration, prediction, references, refinement.
They take fitted pairs and tensors, never run folders; `diagnose` runs them all."""

from pp_simve.evaluation.posterior.calibration import Calibration, Quantity, calibrate
from pp_simve.evaluation.posterior.check_figures import axes_figure, predictive_figure, ranks_figure, weights_figure
from pp_simve.evaluation.posterior.contraction import AxesCheck, AxisCheck, check_axes
from pp_simve.evaluation.posterior.importance import Moments, WeightCheck, check_weights, weigh, weighted_moments
from pp_simve.evaluation.posterior.leave_one_out import LeaveOneOut, leave_one_view_out
from pp_simve.evaluation.posterior.predictive import (
    STATISTICS,
    PredictiveCheck,
    Statistic,
    StatisticCheck,
    check_predictions,
)
from pp_simve.evaluation.posterior.prototypes import PrototypeMatch, PrototypeUse, match_prototypes, prototype_use
from pp_simve.evaluation.posterior.ranks import Uniformity, rank_uniformity
from pp_simve.evaluation.posterior.reference import (
    Distance,
    GaussianClassifier,
    Reference,
    distance_to_reference,
    nuts_reference,
)
from pp_simve.evaluation.posterior.suite import CHECKS, Diagnosis, Finding, Subject, diagnose
from pp_simve.inference.refinement import RefinedGuide, refine
from pp_simve.inference.sampling import simulate

__all__ = [
    "CHECKS",
    "STATISTICS",
    "AxesCheck",
    "AxisCheck",
    "Calibration",
    "Diagnosis",
    "Distance",
    "Finding",
    "GaussianClassifier",
    "LeaveOneOut",
    "Moments",
    "PredictiveCheck",
    "PrototypeMatch",
    "PrototypeUse",
    "Quantity",
    "Reference",
    "RefinedGuide",
    "Statistic",
    "StatisticCheck",
    "Subject",
    "Uniformity",
    "WeightCheck",
    "axes_figure",
    "calibrate",
    "check_axes",
    "check_predictions",
    "check_weights",
    "diagnose",
    "distance_to_reference",
    "leave_one_view_out",
    "match_prototypes",
    "nuts_reference",
    "predictive_figure",
    "prototype_use",
    "rank_uniformity",
    "ranks_figure",
    "refine",
    "simulate",
    "weigh",
    "weighted_moments",
    "weights_figure",
]
