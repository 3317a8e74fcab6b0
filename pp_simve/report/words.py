"""What the numbers and figures of a run are, and how to read them: a short line each."""

from __future__ import annotations

import ast
import inspect
import re
from typing import Any

from pp_simve.run.config import FitConfig

TASKS = {
    "class": (
        "Class",
        "Probes fitted on frozen representations of train, chosen on validation, evaluated once on test. The linear "
        "probe and the MLP measure what can be decoded; k-NN and clusters, whether classes are compact (NMI and ARI "
        "need no matching of clusters to classes; ARI is 0 by chance). Limitations: a probe of another kind may find "
        "more, and clusters are single Gaussians.",
    ),
    "few_labels": (
        "Class from few labels",
        "The linear probe with few labeled images of each class, mean ± standard deviation over draws of the labels. "
        "Limitation: no use is made of the unlabeled images.",
    ),
    "view": (
        "View parameters",
        "How well the parameters of a view of an unseen image are predicted. R²: 1 is exact, 0 or below is no better "
        "than the mean. AUC: 0.5 is chance. Angles: R² of the point on the circle. Limitation: ridge regression finds "
        "linear relations only; the gap to the MLP is what is encoded nonlinearly.",
    ),
    "relative_view": (
        "Relative view parameters",
        "How well an MLP predicts the difference of two views' parameters from the representations of both. R²: 1 is "
        "exact, 0 or below is no better than the mean; crop, color and flip are means over their parameters. "
        "Limitation: published values are of other ranges of the parameters and larger MLPs.",
    ),
    "attributes": (
        "Attributes",
        "Logistic regression of each binary attribute. Chance is 50 % balanced accuracy and an AUC of 0.5; attributes "
        "that are constant in a split have no score. Limitation: the mean hides differences between attributes.",
    ),
    "handwriting": (
        "Handwriting style",
        "R² of slant, size, thickness and position of the ink, measured on the image itself, by ridge regression. "
        "Limitation: moments of the ink describe only part of a style.",
    ),
    "several_views": (
        "Class from several views",
        "A linear probe on content inferred from several views of an image jointly. Limitation: a gain may be better "
        "content or only a less noisy mean.",
    ),
    "disentanglement": (
        "Separation of content and style",
        "Shares of what z predicts: 1 is best, 0 worst. If content and style are both copies of z, or both empty, the "
        "mean is ½. Limitation: information that neither task measures.",
    ),
    "information": (
        "Information and collapse",
        "How the representation fills its space, and the mutual information of two views of an image in nats. "
        "Limitation: none of these numbers shows whether the information is useful.",
    ),
    "generation": (
        "Reconstruction and generation",
        "Errors of reconstructions of test images, and the distance of samples to test images. Limitations: pixel "
        "errors are not perceptual; FID falls with the number of images and ignores copies of training images.",
    ),
    "fine_tuning": (
        "Fine-tuning",
        "Accuracy of the encoder after training with all labels: a reference for the probes, not a score of the "
        "representation. Limitation: one training run.",
    ),
    "retrieval": (
        "Retrieval across modalities",
        "Contents inferred from two modalities are compared by cosine. Recall@k: share of test images whose "
        "counterpart is among the k nearest. Median rank: 1 is best. Limitation: several images may be equally right.",
    ),
    "zero_shot": (
        "Zero-shot classification",
        "Classes by the nearest class mean of another modality, compared with chance. Balanced: mean over the classes. "
        "Limitation: class means of few images are noisy.",
    ),
    "together": (
        "Class from all modalities",
        "Probes on content inferred from all modalities jointly. Limitation: which modality contributes is not shown.",
    ),
}
"""Tasks of score records: a heading, how to read the scores, and their limitations."""

TARGETS = {"few_labels": "labels per class: {}", "several_views": "views: {}"}
"""Rows of tasks whose targets are numbers."""

PROBES = {
    "linear": "linear probe",
    "mlp": "MLP",
    "knn": "k-NN",
    "knn_20_cosine": "k-NN, k = 20, weighted by cosine",
    "knn_200_cosine": "k-NN, k = 200, weighted by cosine",
    "ridge": "ridge regression",
    "logistic": "logistic regression",
    "circular": "regression on the circle",
    "clusters_diag": "clusters, diagonal covariance",
    "clusters_full": "clusters, full covariance",
}

METRICS = {
    "r2": ("R²", ""),
    "mean_r2": ("mean R²", "over the parameters of augmented views; 1 is exact, 0 is no better than the mean"),
    "linear": ("linear probe", "accuracy on clean test images"),
    "knn": ("k-NN", "accuracy of the nearest training images, all clean"),
    "accuracy@5": ("top-5 accuracy", "the class is among the five with most votes"),
    "auc": ("AUC", ""),
    "nmi": ("NMI", ""),
    "ari": ("ARI", ""),
    "kl": ("KL divergence from the prior, nats", "near 0 an axis has collapsed to the prior"),
    "short_classes": ("short classes", "classes with fewer labels than that"),
    "median_error": ("median error", "in the units of the angle"),
    "converged": ("converged", "1 if the fit of the clusters did"),
    "mse": ("mean squared error", "of pixels between 0 and 1"),
    "psnr": ("PSNR, dB", "higher is better"),
    "bits_per_dim": ("bits per dimension", "an upper bound; comparable between models of the same images only"),
    "fid": ("FID", "lower is better; compare equal numbers of images"),
    "fid_images": ("images for FID", "test images, and as many samples"),
    "width": ("width", "number of axes"),
    "multiple_of_z": ("multiple of z", "1 if it is, for single views"),
    "active_units": ("active axes", "whose posterior mean differs between images"),
    "effective_rank": ("effective rank", "entropy of the singular values (RankMe)"),
    "alignment": ("alignment of two views", "mean squared distance on the sphere: 0 if equal, 2 if unrelated"),
    "uniformity": ("uniformity", "more negative is more even on the sphere"),
    "infonce_bound": ("mutual information by InfoNCE", "a lower bound, at most its ceiling"),
    "infonce_ceiling": ("ceiling of InfoNCE", "log of the number of pairs"),
    "infonce_pairs": ("pairs of views for InfoNCE", ""),
    "prior_information": ("mutual information under the fitted prior", "a property of the program, not of the data"),
    "content_keeps_class": ("class kept by content", "above chance, relative to z"),
    "content_lacks_views": ("view absent from content", "1 − mean R² relative to z"),
    "style_keeps_views": ("view kept by style", "mean R² relative to z"),
    "style_lacks_class": ("class absent from style", "1 − share of the class relative to z"),
}
"""Metrics of score records and of results.json: a name and how to read it."""

TERMS = {
    "loss": "what is minimized; lower is better",
    "reconstruction": "log p(views | z): how well z explains the pixels; higher is better",
    "content": "log p(content) − log q(content): minus the KL cost of content",
    "style": "log p(style | content), minus log q(style) where style is sampled: agreement of the views of an image",
    "entropy": "entropy of q(z): keeps z from collapsing",
    "group": "log p(group | z): which image a view belongs to; 0 is certain",
    "backbone_group": "log p(group | features of the backbone); 0 is certain",
    "alpha": "weight of the group's terms that balances the two gradients at the backbone",
    "cosine": "between these two gradients: negative means that they conflict",
    "consistency": "agreement of the posteriors of an image and its view; higher is better",
    "agreement": "agreement of the views of an image; higher is better",
    "assignment": "log probability of the prototype that another view is assigned to; 0 is certain",
    "instance": "log probability of the right image among all; 0 is certain",
    "invariance": "disagreement of each axis across views; lower is better",
    "redundancy": "correlation of different axes; lower is better",
    "gain": "what several samples add to the bound of one",
}
"""Terms of objectives."""

COSTS = {
    "seconds_per_epoch": ("time per epoch", "s", "one pass over the training images"),
    "peak_memory_mb": ("peak memory", "MB", "of the GPU, or of the process on a CPU"),
    "epochs": ("epochs", "", "passes over the training images"),
    "steps": ("steps", "", "parameter updates"),
    "batch_size": ("batch", "images", "per step, over all devices"),
    "views": ("views", "", "of each image, and of each modality where there are several"),
    "parameters": ("parameters", "", "numbers in model, guide and objective"),
    "seconds_evaluating": ("evaluation", "s", "probes, scores and the bound"),
    "scored": ("scored on", "", "the first images of each split: as many as the fit saw, and some where it saw few"),
    "seed": ("seed", "", "decides initial parameters, batches, views and samples"),
    "device": ("device", "", "of the fit"),
}
"""Costs in results.json: a name, a unit and what it is."""

SHOWN = (
    "warnings",
    "content",
    "style",
    "knows",
    "kinds",
    "retrieval",
    "zero_shot",
    "together",
    "bound",
    "is_bound",
    "modalities",
    "records",
)
"""Entries of results.json that are shown elsewhere, or were scores of earlier versions."""

FIGURES = {
    "reconstructions": (
        "Reconstructions",
        "Test images, views of them, and the decoded z of each view. Good: the view is recovered with its position "
        "and shape.",
    ),
    "swaps": (
        "Swaps",
        "Content of the row's image with the style of the column's view. Good: one class along a row, one pose down "
        "a column.",
    ),
    "interpolation": (
        "Interpolation",
        "Straight lines in latent space between two test images, decoded: of all of z, and of content alone with the "
        "style of the first. Good: every step looks like an image of the data, and with content alone the pose stays.",
    ),
    "traversals": (
        "Traversals",
        "One axis of z varied over its range in the data, the others fixed at those of the image on top; axes whose "
        "means vary most come first. Good: a row changes one property, the same in every image.",
    ),
    "samples": ("Samples", "Images decoded from draws of the prior. Good: varied, and like the data."),
    "diagnose-khat": (
        "k̂ and the gap of the bound",
        "Left, images by k̂, red above the threshold; right, each image's gap between the ELBO and a bound by all its "
        "draws; below, the images with the largest k̂. Good: k̂ left of the line, gaps near 0.",
    ),
    "diagnose-calibration": (
        "Ranks of the true latents, by axis",
        "Above, each curve's departure from uniform ranks; red ones leave the band that contains all curves of a "
        "calibrated posterior. Below, histograms of the ranks. Good: gray curves in the band, flat histograms.",
    ),
    "diagnose-calibration-pooled": (
        "Ranks of the true latents, axes pooled",
        "The same with the axes of a latent taken in turn, which shows a fault that all of them share.",
    ),
    "diagnose-predictions": (
        "Statistics of views and of their replicates",
        "A point per view: the statistic of the view, and its mean over views decoded from the guide's latents. Good: "
        "along the dashed line.",
    ),
    "diagnose-left-out": (
        "Ranks of a view among its predictions",
        "A view's statistic, ranked among views predicted from the content of the image's others. Good: in the band.",
    ),
    "diagnose-axes": (
        "Axes",
        "Above, how much narrower than the prior the posterior of each axis is; below, mean and spread of all images' "
        "posteriors together, in the prior's standard deviations. Good: below, mean 0 and spread 1; above there is no "
        "good or bad.",
    ),
    "diagnose-refined": (
        "k̂ and the gap of the bound after refinement",
        "As above, with the variational parameters of each image optimized separately.",
    ),
    "loss": ("Loss", "The terms of the loss over the steps."),
}
"""Figures by file name: a title and how to read it."""


def figure(name: str) -> tuple[str, str]:
    """Title of a figure and how to read it."""
    if found := re.fullmatch(r"(.+)-from-each-(?:kind|modality)", name):
        return f"{found[1]}, by modality", "The first column is real; the others decode it from one modality."
    return FIGURES.get(name, (name, "A figure of this run."))


def metric(name: str) -> tuple[str, str]:
    """Name of a metric and how to read it."""
    return METRICS.get(name, (name.replace("_", " "), ""))


def settings() -> dict[str, str]:
    """What each setting of a fit is, from the classes that define it; empty where their source is not available."""
    try:
        groups: list[Any] = [ast.parse(inspect.getsource(group)).body[0] for group in FitConfig.__bases__]
    except OSError:
        return {}
    return {
        ast.unparse(entry.target): inspect.cleandoc(str(text.value.value))
        for group in groups
        for entry, text in zip(group.body, group.body[1:], strict=False)
        if isinstance(entry, ast.AnnAssign) and isinstance(text, ast.Expr) and isinstance(text.value, ast.Constant)
    }
