"""Encoders: networks from images to features. Any module from ``(batch, channel, height, width)`` to
``(batch, features)`` will do; with an attribute ``features`` (timm: ``num_features``) its width need not be passed to
the guide."""

from __future__ import annotations

import difflib
import math
from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn
from torch.nn import functional

from pp_simve.inference.tools import optional_module


class MLPEncoder(nn.Sequential):
    """Fully connected encoder: image → hidden, ReLU after each layer.

    Args:
        image_shape: ``(channel, height, width)``.
        hidden: widths of the hidden layers; the default is that of the released code (784-2000-500-500).
    """

    def __init__(self, image_shape: tuple[int, int, int], hidden: Sequence[int] = (2000, 500, 500)) -> None:
        layers: list[nn.Module] = [nn.Flatten()]
        width = math.prod(image_shape)
        for units in hidden:
            layers += [nn.Linear(width, units), nn.ReLU()]
            width = units
        super().__init__(*layers)
        self.image_shape = image_shape
        self.features = width


class _Block(nn.Module):
    """A residual pair of 3x3 convolutions."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)
        self.first_norm = nn.BatchNorm2d(outputs)
        self.second = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.second_norm = nn.BatchNorm2d(outputs)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or inputs != outputs:
            self.shortcut = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))

    def forward(self, inputs: Tensor) -> Tensor:
        hidden = functional.relu(self.first_norm(self.first(inputs)))
        return functional.relu(self.second_norm(self.second(hidden)) + self.shortcut(inputs))


class ResidualEncoder(nn.Module):
    """Small residual encoder: three stages of two blocks, width 32-64-128, 4x4 features flattened.

    The shape of the released code's encoder for colour images (half the width of a ResNet-18, no fourth stage): about
    0.7 million parameters and 2,048 features, made for machines without a GPU.

    Args:
        image_shape: ``(channel, height, width)``; sides of 24 pixels and more are halved by the first convolution,
            of 48 and more once again by pooling.
        width: channels of the first stage.
    """

    def __init__(self, image_shape: tuple[int, int, int], width: int = 32) -> None:
        super().__init__()
        self.image_shape = image_shape
        channels, height, side = image_shape
        smaller = min(height, side)
        self.stem = nn.Sequential(
            nn.Conv2d(channels, width, 3, 2 if smaller >= 24 else 1, padding=1, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(),
            nn.MaxPool2d(2) if smaller >= 48 else nn.Identity(),
        )
        stages: list[nn.Module] = []
        inputs = width
        for index in range(3):
            outputs = width * 2**index
            stages += [_Block(inputs, outputs, 1 if index == 0 else 2), _Block(outputs, outputs, 1)]
            inputs = outputs
        self.stages = nn.Sequential(*stages)
        self.pool = nn.AdaptiveAvgPool2d(4)
        self.features = inputs * 16

    def forward(self, images: Tensor) -> Tensor:
        return self.pool(self.stages(self.stem(images))).flatten(1)


class ResNet18Encoder(nn.Module):
    """torchvision's ResNet-18 without its classifier: 512 features, 11.2 million parameters; for GPUs.

    Args:
        image_shape: ``(channel, height, width)``; up to 64 pixels the first convolution is 3x3 with stride 1 and the
            pooling after it is left out, as is usual for CIFAR.
    """

    features = 512

    def __init__(self, image_shape: tuple[int, int, int]) -> None:
        from torchvision.models import resnet18  # here, because it takes as long to import as torch itself

        super().__init__()
        self.image_shape = image_shape
        channels, height, side = image_shape
        network = resnet18(weights=None)
        network.fc = nn.Identity()
        if max(height, side) <= 64:
            network.conv1 = nn.Conv2d(channels, 64, 3, padding=1, bias=False)
            network.maxpool = nn.Identity()
        elif channels != 3:
            network.conv1 = nn.Conv2d(channels, 64, 7, 2, padding=3, bias=False)
        self.network = network

    def forward(self, images: Tensor) -> Tensor:
        features: Tensor = self.network(images)
        return features


def timm_encoder(image_shape: tuple[int, int, int], name: str, **options: Any) -> nn.Module:
    """Network of timm by its name, without the classifier, with random weights (needs timm).

    Args:
        image_shape: ``(channel, height, width)``; networks of a fixed image size are built for this one.
        name: one of ``timm.list_models()``, such as ``vit_tiny_patch16_224``.
        options: of ``timm.create_model``, such as ``patch_size=4``.

    Raises:
        ImportError: timm is not installed.
        ValueError: no such network, or an option that would load weights.
    """
    timm = optional_module("timm", "timm", "an encoder of timm")
    if not timm.is_model(str(name)):
        near = difflib.get_close_matches(str(name), timm.list_models())
        hint = f"did you mean {', '.join(near)}? " if near else ""
        raise ValueError(f"timm {timm.__version__} has no network {name!r}; {hint}timm.list_models() has the names")
    if loading := {"pretrained", "checkpoint_path"} & options.keys():
        raise ValueError(
            f"networks by name start with random weights, so there is no option {loading.pop()}; build the network in "
            "Python, timm.create_model(..., num_classes=0), and give it to the guide"
        )
    channels, *size = image_shape
    if timm.models.get_pretrained_cfg(name).fixed_input_size:
        options = {"img_size": size} | options
    network: Any = timm.create_model(name, in_chans=channels, num_classes=0, **options)
    network.image_shape = image_shape
    return network
