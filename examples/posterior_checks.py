"""Checks of a guide's posterior on digits: what each says, by name and number, for two guides of one program."""

import argparse
from pathlib import Path

import torch

from pp_simve.data import load
from pp_simve.evaluation.posterior import (
    axes_figure,
    calibrate,
    check_axes,
    check_predictions,
    check_weights,
    leave_one_view_out,
    predictive_figure,
    ranks_figure,
    weights_figure,
)
from pp_simve.inference import AmortizedGuide, MLPEncoder, StructuredGuide, fit
from pp_simve.inference.augmentations import augmentation_policy, draw_views
from pp_simve.models import Bernoulli, GaussianPrior, MLPDecoder, SimVE

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--epochs", type=int, default=100)
parser.add_argument("--images", type=int, default=100, help="how many test images to check")
parser.add_argument("--draws", type=int, default=500, help="of each image")
parser.add_argument("--figures", type=Path, help="folder to draw the checks' figures to")
arguments = parser.parse_args()

digits = load("digits")
policy = augmentation_policy("affine", digits.image_shape)
images = digits.test.images[: arguments.images]
views, _ = draw_views(policy, images, 2, generator=torch.Generator().manual_seed(1))

for kind in (AmortizedGuide, StructuredGuide):
    torch.manual_seed(0)
    prior = GaussianPrior(latent_dim=16)
    model = SimVE(prior, Bernoulli(MLPDecoder(16, digits.image_shape, hidden=(256,))))
    guide = kind(MLPEncoder(digits.image_shape, hidden=(256,)), prior)
    fit(model, guide, digits.train.images, policy=policy, epochs=arguments.epochs, lr=1e-3, seed=0)

    weights = check_weights(model, guide, views, draws=arguments.draws, seed=0)
    calibration = calibrate(model, guide, views, seed=0)
    predictive = check_predictions(model, guide, views, draws=1000, seed=0)
    left_out = leave_one_view_out(model, guide, views, draws=arguments.draws, seed=0)
    axes = check_axes(model, guide, views, seed=0)

    gap, error = weights.mean_gap
    score, spread = left_out.mean_score
    print(f"\n{kind.__name__}")
    print(
        f"  k-hat         median {weights.khat.median():.2f}, {weights.share_above:.0%} above {weights.threshold:.2f}"
    )
    print(f"  bound         {gap:.2f} ± {error:.2f} nats above the ELBO")
    print(f"  calibration   {len(calibration.failing)} of {sum(len(r.names) for r in calibration.ranks.values())} out")
    print(f"  predictive    unlike the views in {', '.join(predictive.failing) or 'nothing'}")
    print(f"  left-out view {score:.1f} ± {spread:.1f} nats")
    for name, check in axes.latents.items():
        print(
            f"  {name:13} {len(check.empty)} empty axes, {len(check.failing)} of {len(check.contraction)} not the prior"
        )
    for name, note in calibration.notes.items():
        print(f"  note on {name}: {note}")

    if arguments.figures:
        arguments.figures.mkdir(parents=True, exist_ok=True)
        drawn = {
            "weights": weights_figure(weights, views[0]),
            "calibration": ranks_figure(calibration.ranks),
            "left_out": ranks_figure(left_out.pit),
            "axes": axes_figure(axes),
            "predictive": predictive_figure(predictive),
        }
        for name, figure in drawn.items():
            figure.savefig(arguments.figures / f"{kind.__name__}_{name}.png", dpi="figure")
