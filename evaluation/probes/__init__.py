"""Probes: supervised models of frozen features, one base class and one model a file.

Scores of a representation that combine probes (content, style, few labels, …) are in `tasks`.
"""

from pp_simve.evaluation.probes.base import ClassProbe, Probe, RegressionProbe
from pp_simve.evaluation.probes.knn import KNNProbe
from pp_simve.evaluation.probes.logistic import AttributeProbe, LinearProbe
from pp_simve.evaluation.probes.mlp import MLPProbe, MLPRegressionProbe, MLPTraining
from pp_simve.evaluation.probes.ridge import RidgeProbe
from pp_simve.evaluation.probes.scores import accuracy, balanced_accuracy, r_squared, roc_auc

__all__ = [
    "AttributeProbe",
    "ClassProbe",
    "KNNProbe",
    "LinearProbe",
    "MLPProbe",
    "MLPRegressionProbe",
    "MLPTraining",
    "Probe",
    "RegressionProbe",
    "RidgeProbe",
    "accuracy",
    "balanced_accuracy",
    "r_squared",
    "roc_auc",
]
