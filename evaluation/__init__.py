"""What a representation knows: probes, content, style, figures.
Works on arrays and fitted pairs, never on run folders."""

from pp_simve.evaluation.clustering import GaussianMixtureClusters, cluster_scores, hungarian_accuracy
from pp_simve.evaluation.content import content_scores
from pp_simve.evaluation.figures import columns_figure, loss_figure, reconstruction_figure, samples_figure, swap_figure
from pp_simve.evaluation.information import (
    CanonicalCritic,
    GaussianCritic,
    active_units,
    alignment,
    effective_rank,
    gaussian_information,
    infonce_bound,
    kl_by_axis,
    mutual_information,
    uniformity,
)
from pp_simve.evaluation.judgement import LabelledImages, judge
from pp_simve.evaluation.kinds import judge_kinds
from pp_simve.evaluation.linear import LinearProbe
from pp_simve.evaluation.neighbours import KNNProbe
from pp_simve.evaluation.retrieval import retrieval_scores
from pp_simve.evaluation.ridge import RidgeProbe
from pp_simve.evaluation.style import style_scores
from pp_simve.evaluation.zero_shot import zero_shot_predictions, zero_shot_scores

__all__ = [
    "CanonicalCritic",
    "GaussianCritic",
    "GaussianMixtureClusters",
    "KNNProbe",
    "LabelledImages",
    "LinearProbe",
    "RidgeProbe",
    "active_units",
    "alignment",
    "cluster_scores",
    "columns_figure",
    "content_scores",
    "effective_rank",
    "gaussian_information",
    "hungarian_accuracy",
    "infonce_bound",
    "judge",
    "judge_kinds",
    "kl_by_axis",
    "loss_figure",
    "mutual_information",
    "reconstruction_figure",
    "retrieval_scores",
    "samples_figure",
    "style_scores",
    "swap_figure",
    "uniformity",
    "zero_shot_predictions",
    "zero_shot_scores",
]
