"""Tasks: what probes predict from a representation (class, view parameters, attributes), one task a file.

The probes themselves are in `probes`.
"""

from pp_simve.evaluation.tasks.attributes import attribute_scores as attribute_scores
from pp_simve.evaluation.tasks.classes import Labelled as Labelled
from pp_simve.evaluation.tasks.classes import content_scores as content_scores
from pp_simve.evaluation.tasks.few_labels import few_label_scores as few_label_scores
from pp_simve.evaluation.tasks.fine_tuning import fine_tuned_scores as fine_tuned_scores
from pp_simve.evaluation.tasks.several_views import several_view_scores as several_view_scores
from pp_simve.evaluation.tasks.view_parameters import MEAN as MEAN
from pp_simve.evaluation.tasks.view_parameters import Parametrised as Parametrised
from pp_simve.evaluation.tasks.view_parameters import angle_scores as angle_scores
from pp_simve.evaluation.tasks.view_parameters import style_scores as style_scores
