"""Is a posterior to be trusted: draws as a data tree, importance weights, calibration, prediction, references, repair.
Works on fitted pairs and tensors, never on run folders."""

from pp_simve.evaluation.posterior.calibration import Calibration, Quantity, calibrate
from pp_simve.evaluation.posterior.check_figures import axes_figure, predictive_figure, ranks_figure, weights_figure
from pp_simve.evaluation.posterior.contraction import AxesCheck, AxisCheck, check_axes
from pp_simve.evaluation.posterior.image_statistics import STATISTICS, Statistic
from pp_simve.evaluation.posterior.importance import Moments, WeightCheck, check_weights, weigh, weighted_moments
from pp_simve.evaluation.posterior.leave_one_out import LeaveOneOut, leave_one_view_out
from pp_simve.evaluation.posterior.predictive import PredictiveCheck, StatisticCheck, check_predictions
from pp_simve.evaluation.posterior.prototypes import PrototypeMatch, PrototypeUse, match_prototypes, prototype_use
from pp_simve.evaluation.posterior.ranks import Uniformity, rank_uniformity
from pp_simve.evaluation.posterior.reference import (
    Distance,
    GaussianClassifier,
    Reference,
    distance_to_reference,
    nuts_reference,
)
from pp_simve.evaluation.posterior.simulation import simulate
from pp_simve.inference.refinement import RefinedGuide, refine

__all__ = [
    "STATISTICS",
    "AxesCheck",
    "AxisCheck",
    "Calibration",
    "Distance",
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
    "Uniformity",
    "WeightCheck",
    "axes_figure",
    "calibrate",
    "check_axes",
    "check_predictions",
    "check_weights",
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
