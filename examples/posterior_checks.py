"""Posterior checks on digits: what each reports for two guides of one model, and a user-defined check."""

import argparse
from pathlib import Path

import torch

from pp_simve.data import load_data
from pp_simve.evaluation.posterior import CHECKS, Finding, Subject, diagnose
from pp_simve.inference import AmortizedGuide, MLPEncoder, StructuredGuide, draw, fit
from pp_simve.inference.augmentations import augmentation_policy
from pp_simve.models import Bernoulli, GaussianPrior, MLPDecoder, SimVE

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--epochs", type=int, default=100)
parser.add_argument("--images", type=int, default=100, help="how many test images to check")
parser.add_argument("--draws", type=int, default=500, help="of each image")
parser.add_argument("--figures", type=Path, help="folder to draw the checks' figures to")
arguments = parser.parse_args()

digits = load_data("digits")
policy = augmentation_policy("affine", digits.image_shape)


def agreement(subject: Subject) -> Finding:
    """How much of z's posterior mean the two views of an image share: the correlation over images and axes."""
    z = draw(subject.model, subject.guide, subject.views, 50, seed=subject.seed).z.mean(0).flatten(1)
    return Finding(
        {
            "name": "agreement",
            "title": "Agreement of views",
            "value": float(torch.corrcoef(z[:2])[0, 1]),
            "unit": "correlation of z over images and axes",
            "alarm": None,
            "how": "1 if both views give the same z; the prior expects 1 / (1 + style variance).",
            "limitations": "whether z is right.",
        },
        {},
    )


for kind in (AmortizedGuide, StructuredGuide):
    torch.manual_seed(0)
    prior = GaussianPrior(latent_dim=16)
    model = SimVE(prior, Bernoulli(MLPDecoder(16, digits.image_shape, hidden=(256,))))
    guide = kind(MLPEncoder(digits.image_shape, hidden=(256,)), prior)
    fit(model, guide, digits.train.images, policy=policy, epochs=arguments.epochs, lr=1e-3, seed=0)

    images, checks = digits.test.images[: arguments.images], {**CHECKS, "agreement": agreement}
    diagnosis = diagnose(model, guide, images, policy, views=2, draws=arguments.draws, seed=0, checks=checks)

    print(f"\n{kind.__name__}")
    for check in diagnosis.checks:
        verdict = {True: "alarm", False: "no alarm", None: ""}[check["alarm"]]
        print(f"  {check['title']:30} {check['value']:8.2f} {check['unit']}  {verdict}")
        if check["name"] == "axes":
            for latent, axes, empty, contraction, *_ in check["rows"]["rows"]:
                print(f"    {latent}: {axes} axes, {empty} empty, mean contraction {contraction:.2f}")
    for note in diagnosis.notes:
        print(f"  {note}")
    if arguments.figures:
        arguments.figures.mkdir(parents=True, exist_ok=True)
        for name, figure in diagnosis.figures().items():
            figure.savefig(arguments.figures / f"{kind.__name__}_{name}.png", dpi="figure")
