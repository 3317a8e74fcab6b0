"""A user-defined encoder: any module from images to features.

From this folder, in the shell, its options in brackets:

    python -m pp_simve.fit --encoder own_encoder:Small
    python -m pp_simve.fit --encoder "own_encoder:Small(width=16)" --prior "gaussian(style_variance=0.3)"
"""

import argparse

import torch
from torch import Tensor, nn

from pp_simve.data import load_data
from pp_simve.evaluation import evaluate_representations, score
from pp_simve.inference import AmortizedGuide, WarmupCosine, fit
from pp_simve.inference.augmentations import augmentation_policy
from pp_simve.models import Bernoulli, GaussianPrior, MLPDecoder, SimVE

LATENT = 32


class Small(nn.Module):
    """Three convolutions, each of which halves the image; then every place of the last counts.

    Args:
        image_shape: ``(channel, height, width)``; every encoder is built from it.
        width: channels after the first convolution. An option of this one.
    """

    def __init__(self, image_shape: tuple[int, int, int], width: int = 16) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(image_shape[0], width, 4, stride=2, padding=1),
            nn.ReLU(),
            nn.Conv2d(width, 2 * width, 4, stride=2, padding=1),
            nn.ReLU(),
            nn.Conv2d(2 * width, 4 * width, 4, stride=2, padding=1),
            nn.ReLU(),
            nn.Flatten(),
        )
        with torch.no_grad():
            self.features = self(torch.zeros(1, *image_shape)).shape[1]  # guides read the width of the output

    def forward(self, images: Tensor) -> Tensor:
        """Images ``(batch, channel, height, width)`` in [0, 1] to features ``(batch, features)``."""
        features: Tensor = self.layers(images)
        return features


if __name__ == "__main__":  # the command above imports this file, and must not run it
    parser = argparse.ArgumentParser(description="A user-defined encoder.")
    parser.add_argument("--epochs", type=int, default=150)
    arguments = parser.parse_args()

    digits = load_data("digits")
    torch.manual_seed(0)
    prior = GaussianPrior(LATENT, style_variance=0.15)
    model = SimVE(prior, Bernoulli(MLPDecoder(LATENT, digits.image_shape, hidden=(256, 512))))
    guide = AmortizedGuide(Small(digits.image_shape), prior)
    print(f"{sum(parameter.numel() for parameter in guide.parameters()):,} parameters in the guide")

    policy = augmentation_policy("affine", digits.image_shape)
    fit(model, guide, digits.train.images, policy=policy, epochs=arguments.epochs, lr=2e-3, schedule=WarmupCosine())
    records = evaluate_representations(guide, policy, digits.train, digits.validation, digits.test, seed=0)
    linear, knn = (score(records, task="class", probe=name, representation="content") for name in ("linear", "knn"))
    print(f"class from content: linear {linear:.3f}, k-NN {knn:.3f}")
    r2 = score(records, task="view", target="mean", representation="style")
    print(f"view parameters from style: mean R² {r2:.3f}")
