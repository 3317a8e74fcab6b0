"""A fitted run as a data tree that ArviZ takes: summaries, plots, k-hat, and whether two fits agree."""

import argparse

import matplotlib
import torch

from pp_simve.data import load_data
from pp_simve.evaluation import for_arviz, posterior, psis, stack_chains, summary
from pp_simve.evaluation.posterior.arviz_versions import arviz
from pp_simve.inference import AmortizedGuide, MLPEncoder, fit
from pp_simve.inference.augmentations import augmentation_policy
from pp_simve.models import Bernoulli, GaussianPrior, MLPDecoder, SimVE

IMAGES = 32

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--epochs", type=int, default=10)
parser.add_argument("--to", help="keep the first tree in this netCDF file; xarray.open_datatree reads it, anywhere")
parser.add_argument("--figure", help="draw the contents of an image to this file")
arguments = parser.parse_args()

digits = load_data("digits")
runs = []
for seed in range(2):
    torch.manual_seed(seed)
    prior = GaussianPrior(latent_dim=8)
    model = SimVE(prior, Bernoulli(MLPDecoder(8, digits.image_shape, hidden=(256,))))
    guide = AmortizedGuide(MLPEncoder(digits.image_shape, hidden=(256,)), prior)
    policy = augmentation_policy("affine", digits.image_shape)
    runs.append(fit(model, guide, digits.train.images, policy=policy, epochs=arguments.epochs, lr=2e-3, seed=seed))

images, labels = digits.test.images[:IMAGES], digits.test.labels[:IMAGES]
tree = posterior(runs[0], images, draws=400, labels=labels, to=arguments.to)
for name, group in tree.children.items():
    print(f"{name:21}", ", ".join(f"{key} {tuple(values.sizes)}" for key, values in group.data_vars.items()))

print("\nThe content of one image:")
print(summary(tree.isel(image=slice(1)), ["content"]).round(2))

log_weight = tree["sample_stats"]["log_weight"].isel(chain=0).to_numpy()  # (draw, image)
_, shape = psis(log_weight)
print(f"\nimportance weights can mend the guide (k-hat below 0.7) for {(shape < 0.7).sum()} of {IMAGES} images")

both = stack_chains([tree, posterior(runs[1], images, draws=400, labels=labels, seed=1)])
agreement = summary(both, group="log_likelihood")["r_hat"]
print(f"two fits agree on how likely a view is (R-hat < 1.1) for {(agreement < 1.1).mean():.0%} of the views")

if arguments.figure:
    matplotlib.use("agg")
    arviz().plot_forest(for_arviz(both), var_names=["content"], coords={"image": [0]})
    matplotlib.pyplot.savefig(arguments.figure)
tree.close()
