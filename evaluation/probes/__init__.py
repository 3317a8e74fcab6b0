"""Probes: supervised models of frozen features, one base class and one model a file.

Scores of a representation that combine probes (content, style, few labels, …) are in `tasks`.
"""

from pp_simve.evaluation.probes.base import ClassProbe as ClassProbe
from pp_simve.evaluation.probes.base import Probe as Probe
from pp_simve.evaluation.probes.base import RegressionProbe as RegressionProbe
from pp_simve.evaluation.probes.base import accuracy as accuracy
from pp_simve.evaluation.probes.base import balanced_accuracy as balanced_accuracy
from pp_simve.evaluation.probes.base import r_squared as r_squared
from pp_simve.evaluation.probes.base import roc_auc as roc_auc
from pp_simve.evaluation.probes.knn import KNNProbe as KNNProbe
from pp_simve.evaluation.probes.knn import WeightedKNNProbe as WeightedKNNProbe
from pp_simve.evaluation.probes.logistic import AttributeProbe as AttributeProbe
from pp_simve.evaluation.probes.logistic import LinearProbe as LinearProbe
from pp_simve.evaluation.probes.mlp import MLPProbe as MLPProbe
from pp_simve.evaluation.probes.mlp import MLPRegressionProbe as MLPRegressionProbe
from pp_simve.evaluation.probes.mlp import MLPTraining as MLPTraining
from pp_simve.evaluation.probes.ridge import RidgeProbe as RidgeProbe
