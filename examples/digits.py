"""SimVE on scikit-learn's digits through the Python API: fit, embed, evaluate. About twenty seconds on two cores."""

import argparse

# --8<-- [start:imports]
import torch

from pp_simve import (
    AmortizedGuide,
    Bernoulli,
    GaussianPrior,
    MLPDecoder,
    MLPEncoder,
    SimVE,
    WarmupCosine,
    augmentation_policy,
    evaluate_representations,
    load_data,
)
from pp_simve.evaluation import score
from pp_simve.inference import fit

# --8<-- [end:imports]

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--epochs", type=int, default=150)
parser.add_argument("--latent", type=int, default=32)
parser.add_argument("--seed", type=int, default=0)
arguments = parser.parse_args()

# --8<-- [start:data]
digits = load_data("digits")  # 1,797 images of 16x16 pixels, split 70/10/20
torch.manual_seed(arguments.seed)
# --8<-- [end:data]

# --8<-- [start:model]
# p: content, shared by the views of an image, has variance 1 in each axis; the style of a view has variance 0.15
prior = GaussianPrior(arguments.latent, style_variance=0.15)
model = SimVE(prior, Bernoulli(MLPDecoder(arguments.latent, digits.image_shape, hidden=(256, 512))))
# --8<-- [end:model]

# --8<-- [start:guide]
# q: a Gaussian over the z of each view; given z, content is drawn from its exact conditional
guide = AmortizedGuide(MLPEncoder(digits.image_shape, hidden=(512, 256)), prior)
# --8<-- [end:guide]

# --8<-- [start:fit]
policy = augmentation_policy("affine", digits.image_shape)
run = fit(
    model,
    guide,
    digits.train.images,
    policy=policy,
    epochs=arguments.epochs,
    lr=2e-3,
    schedule=WarmupCosine(),
    seed=arguments.seed,
    monitor=lambda progress: print(f"epoch {progress.epoch:5.1f}  loss {progress.rows[-1]['loss']:.1f}"),
)
# --8<-- [end:fit]

# --8<-- [start:embed]
embedding = guide.embed_batches(digits.test.images)
print("content", tuple(embedding.content.shape), " z", tuple(embedding.z.shape))
# --8<-- [end:embed]

# --8<-- [start:scores]
records = evaluate_representations(guide, policy, digits.train, digits.validation, digits.test, seed=0)
linear, knn = (score(records, task="class", probe=name, representation="content") for name in ("linear", "knn"))
print(f"class from content: linear {linear:.3f}, k-NN {knn:.3f}")
r2 = score(records, task="view", target="mean", representation="style")
print(f"view parameters from style: mean R² {r2:.3f}")
# --8<-- [end:scores]
