"""Class-level content: the views of a group are different images of one class, so content is what a class shares."""

import argparse
from collections.abc import Iterator

import torch
from torch import Tensor

from pp_simve import (
    AmortizedGuide,
    Bernoulli,
    GaussianPrior,
    MLPDecoder,
    MLPEncoder,
    SimVE,
    WarmupCosine,
    evaluate_representations,
    load_data,
)
from pp_simve.evaluation import score
from pp_simve.inference import fit
from pp_simve.inference.augmentations import augmentation_policy

LATENT = 32


# --8<-- [start:stream]
def groups(images: Tensor, labels: Tensor, n_groups: int, n_views: int) -> Iterator[Tensor]:
    """Endless batches ``(view, image, channel, height, width)``: each group's class, then its images, are drawn."""
    members = [images[labels == label] for label in labels.unique()]
    while True:
        classes = torch.randint(len(members), (n_groups,)).tolist()
        drawn = [members[label][torch.randint(len(members[label]), (n_views,))] for label in classes]
        yield torch.stack(drawn, 1)


# --8<-- [end:stream]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--views", type=int, default=4)
    arguments = parser.parse_args()
    digits = load_data("digits")
    policy = augmentation_policy("affine", digits.image_shape)
    labelled = groups(digits.train.images, digits.train.labels, 128, arguments.views)
    for name, images in {"views of an image": digits.train.images, "images of a class": labelled}.items():
        torch.manual_seed(0)
        prior = GaussianPrior(LATENT)
        model = SimVE(prior, Bernoulli(MLPDecoder(LATENT, digits.image_shape, hidden=(256, 512))))
        guide = AmortizedGuide(MLPEncoder(digits.image_shape, hidden=(512, 256)), prior)
        augmented = {"policy": policy, "views": arguments.views} if images is digits.train.images else {}
        fit(model, guide, images, steps=arguments.steps, lr=2e-3, schedule=WarmupCosine(), **augmented)
        records = evaluate_representations(guide, policy, digits.train, digits.validation, digits.test, seed=0)
        linear, knn = (score(records, task="class", probe=of, representation="content") for of in ("linear", "knn"))
        print(f"{name}: class from content: linear {linear:.3f}, k-NN {knn:.3f}")
