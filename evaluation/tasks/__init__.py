"""Tasks: what probes predict from a representation (class, view parameters, attributes), one task a file.

The probes themselves are in `probes`.
"""

from pp_simve.evaluation.tasks.attributes import attribute_scores
from pp_simve.evaluation.tasks.classes import Labelled, content_scores
from pp_simve.evaluation.tasks.few_labels import few_label_scores
from pp_simve.evaluation.tasks.fine_tuning import fine_tuned_scores
from pp_simve.evaluation.tasks.several_views import several_view_scores
from pp_simve.evaluation.tasks.view_parameters import MEAN, Parametrised, angle_scores, style_scores

__all__ = [
    "MEAN",
    "Labelled",
    "Parametrised",
    "angle_scores",
    "attribute_scores",
    "content_scores",
    "few_label_scores",
    "fine_tuned_scores",
    "several_view_scores",
    "style_scores",
]
