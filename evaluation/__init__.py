"""Evaluation of representations: probes, tasks, the suite of evaluators and its score records, posterior checks.

Works on tensors and fitted model/guide pairs, never on run folders.
"""

from pp_simve.evaluation.bound import importance_weighted_bound
from pp_simve.evaluation.clustering import GaussianMixtureClusters, cluster_scores, hungarian_accuracy
from pp_simve.evaluation.disentanglement import disentanglement_scores
from pp_simve.evaluation.embedding import Embedding
from pp_simve.evaluation.figures import (
    columns_figure,
    interpolation_figure,
    loss_figure,
    reconstruction_figure,
    samples_figure,
    swap_figure,
    traversal_figure,
)
from pp_simve.evaluation.frechet import frechet_distance, inception_features
from pp_simve.evaluation.handwriting import handwriting_style
from pp_simve.evaluation.information import (
    CanonicalCritic,
    GaussianCritic,
    alignment,
    effective_rank,
    gaussian_information,
    infonce_bound,
    mutual_information,
    uniformity,
)
from pp_simve.evaluation.latent_axes import active_units, kl_by_axis
from pp_simve.evaluation.online import OnlineProbe
from pp_simve.evaluation.posterior.arviz_versions import for_arviz, psis, summary
from pp_simve.evaluation.posterior.chains import stack_chains
from pp_simve.evaluation.posterior.storage import PosteriorFileError, open_posterior
from pp_simve.evaluation.posterior.tree import posterior
from pp_simve.evaluation.probes import (
    AttributeProbe,
    KNNProbe,
    LinearProbe,
    MLPProbe,
    MLPRegressionProbe,
    MLPTraining,
    RidgeProbe,
    roc_auc,
)
from pp_simve.evaluation.reconstruction import reconstruction_scores
from pp_simve.evaluation.records import Record, score, select, to_frame
from pp_simve.evaluation.retrieval import retrieval_scores
from pp_simve.evaluation.subject import EVALUATION_SEED, Effort, LabelledImages
from pp_simve.evaluation.suite import evaluate_modalities, evaluate_representations
from pp_simve.evaluation.tasks import (
    angle_scores,
    attribute_scores,
    content_scores,
    few_label_scores,
    fine_tuned_scores,
    several_view_scores,
    style_scores,
)
from pp_simve.evaluation.zero_shot import zero_shot_predictions, zero_shot_scores

__all__ = [
    "EVALUATION_SEED",
    "AttributeProbe",
    "CanonicalCritic",
    "Effort",
    "Embedding",
    "GaussianCritic",
    "GaussianMixtureClusters",
    "KNNProbe",
    "LabelledImages",
    "LinearProbe",
    "MLPProbe",
    "MLPRegressionProbe",
    "MLPTraining",
    "OnlineProbe",
    "PosteriorFileError",
    "Record",
    "RidgeProbe",
    "active_units",
    "alignment",
    "angle_scores",
    "attribute_scores",
    "cluster_scores",
    "columns_figure",
    "content_scores",
    "disentanglement_scores",
    "effective_rank",
    "evaluate_modalities",
    "evaluate_representations",
    "few_label_scores",
    "fine_tuned_scores",
    "for_arviz",
    "frechet_distance",
    "gaussian_information",
    "handwriting_style",
    "hungarian_accuracy",
    "importance_weighted_bound",
    "inception_features",
    "infonce_bound",
    "interpolation_figure",
    "kl_by_axis",
    "loss_figure",
    "mutual_information",
    "open_posterior",
    "posterior",
    "psis",
    "reconstruction_figure",
    "reconstruction_scores",
    "retrieval_scores",
    "roc_auc",
    "samples_figure",
    "score",
    "select",
    "several_view_scores",
    "stack_chains",
    "style_scores",
    "summary",
    "swap_figure",
    "to_frame",
    "traversal_figure",
    "uniformity",
    "zero_shot_predictions",
    "zero_shot_scores",
]
