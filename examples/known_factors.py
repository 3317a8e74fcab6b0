"""SimVE on rendered shapes with known content and style: which representation predicts what? Half a minute."""

import argparse

import torch

from pp_simve.data.shapes import LOBES, rendered_shapes
from pp_simve.evaluation import content_scores, style_scores
from pp_simve.inference import AmortizedGuide, MLPEncoder, WarmupCosine, fit
from pp_simve.inference.augmentations import augmentation_policy
from pp_simve.models import Bernoulli, GaussianPrior, MLPDecoder, SimVE

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--epochs", type=int, default=40)
parser.add_argument("--latent", type=int, default=16)
parser.add_argument("--seed", type=int, default=0)
arguments = parser.parse_args()

shape = (1, 16, 16)
train, validation, test = (rendered_shapes(count, seed=seed) for seed, count in enumerate((2000, 500, 1000)))
torch.manual_seed(arguments.seed)
prior = GaussianPrior(arguments.latent, style_variance=0.15)
model = SimVE(prior, Bernoulli(MLPDecoder(arguments.latent, shape, hidden=(256, 512))))
guide = AmortizedGuide(MLPEncoder(shape, hidden=(512, 256)), prior)
fit(
    model,
    guide,
    train.images,
    policy=augmentation_policy("affine", shape),
    epochs=arguments.epochs,
    lr=2e-3,
    schedule=WarmupCosine(),
    seed=arguments.seed,
)

# Each row is a representation of the same images: first the truth, then what was learnt, then noise.
splits = (train, validation, test)
embedded = [guide.embed_batches(split.images) for split in splits]
generator = torch.Generator().manual_seed(arguments.seed)
rows = {
    "true content": [torch.eye(len(LOBES))[split.labels] for split in splits],
    "true style": [torch.stack(list(split.factors.values()), 1) for split in splits],
    "pixels": [split.images.flatten(1).float() / 255 for split in splits],
    "backbone": [part.as_dict()["backbone"] for part in embedded],
    "z": [part.z for part in embedded],
    "noise": [torch.randn(len(split.labels), arguments.latent, generator=generator) for split in splits],
}
print(f"{'accuracy, R² on test':20} {'class':>8}" + "".join(f"{name:>10}" for name in train.factors))
for name, features in rows.items():
    labelled = [(x, split.labels) for x, split in zip(features, splits, strict=True)]
    styled = [(x, split.factors) for x, split in zip(features, splits, strict=True)]
    known = style_scores(styled[0], styled[1], styled[2])
    accuracy = content_scores(labelled[0], labelled[1], labelled[2])["linear"]
    print(f"{name:20} {accuracy:8.3f}" + "".join(f"{known[factor]:10.3f}" for factor in train.factors))
