"""Encoder heads: encoder → backbone features → projection → a linear layer, for one modality or one head for each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from pp_simve.inference.guides.base import Features
from pp_simve.models import Views, ViewsLike, apply_network
from pp_simve.models.networks import normed_layers
from pp_simve.models.views import modality_modules

IMAGE_DIM = 3
Encoder = nn.Module | Mapping[str, nn.Module]
"""Maps images ``(batch, channel, height, width)`` to features ``(batch, features)``; one for each modality."""


class Backbone(nn.Identity):
    """Backbone marker: passes an encoder's features on unchanged, ``(..., view, image, feature)``.

    Objectives that work at the backbone (`Balanced`, ``ELBO(backbone=...)``) read them here. A guide without encoder
    heads takes part by passing its features through one.

    Args:
        features: width.
    """

    def __init__(self, features: int) -> None:
        super().__init__()
        self.features = features


class EncoderHead(nn.Module):
    """Encoder head: images → backbone features → projection → linear layer.

    Args:
        encoder: maps ``(batch, channel, height, width)`` to ``(batch, features)``.
        outputs: width of the linear layer.
        features: the encoder's width; by default its attribute ``features``.
        projection: widths of hidden layers between backbone and head, each with batch norm and ReLU: the projection
            head of contrastive methods (Chen et al. 2020).

    Raises:
        ValueError: the width is neither given nor an attribute of the encoder; a layer without units.
    """

    def __init__(
        self, encoder: nn.Module, outputs: int, features: int | None = None, projection: Sequence[int] = ()
    ) -> None:
        super().__init__()
        if any(units < 1 for units in projection):
            raise ValueError(f"projection is a list of layers' widths, each at least 1, got {list(projection)}")
        width = feature_width(encoder, features)
        self.encoder = encoder
        self.backbone = Backbone(width)
        self.projection = normed_layers(width, projection)
        self.head = nn.Linear(projection[-1] if projection else width, outputs)

    def features(self, views: ViewsLike) -> Tensor:
        """Backbone features, shape ``(..., features)`` from images ``(..., channel, height, width)``.

        Raises:
            ValueError: views of several modalities.
        """
        plain = Views.of(views).plain
        if not isinstance(plain, Tensor):
            raise ValueError(
                f"views of several modalities ({', '.join(plain)}) need a guide with an encoder for each modality"
            )
        features: Tensor = self.backbone(apply_network(self.encoder, plain, event_dim=IMAGE_DIM))
        return features

    def heads(self) -> list[nn.Linear]:
        """The linear layers."""
        return [self.head]

    def forward(self, features: Features) -> Tensor:
        """Shape ``(..., outputs)`` from backbone features ``(..., features)``."""
        assert isinstance(features, Tensor)
        hidden = apply_network(self.projection, features, event_dim=1) if len(self.projection) else features
        # One matrix of a few thousand numbers, in full precision because scales need it.
        outputs: Tensor = self.head(hidden)
        return outputs


class ModalityHeads(nn.Module):
    """Encoder heads per modality.

    Args:
        encoders: by modality; each with an attribute ``features``.
        outputs: width of each head's linear layer.
        projection: as in `EncoderHead`, for every modality.
    """

    def __init__(self, encoders: Mapping[str, nn.Module], outputs: int, projection: Sequence[int] = ()) -> None:
        super().__init__()
        self.modalities = modality_modules(
            {modality: EncoderHead(encoder, outputs, projection=projection) for modality, encoder in encoders.items()}
        )

    def features(self, views: ViewsLike) -> dict[str, Tensor]:
        """Backbone features of the modalities given, in the views' order.

        Raises:
            ValueError: a modality without an encoder, modalities of different numbers of images, or no views by
                modality at all.
        """
        views = Views.of(views)
        views.check_known(self.modalities)
        # In the views' order and not that of the encoders: the program divides z among the modalities in it.
        return {str(modality): self._of(str(modality)).features(batch) for modality, batch in views.items()}

    @property
    def encoder(self) -> dict[str, nn.Module]:
        """The encoders by modality."""
        return {modality: self._of(modality).encoder for modality in self.modalities}

    def heads(self) -> list[nn.Linear]:
        """The linear layers, one per modality."""
        return [self._of(modality).head for modality in self.modalities]

    def forward(self, features: Features) -> Tensor:
        """Shape ``(..., view, image, outputs)``: the views of each given modality, one after another."""
        assert not isinstance(features, Tensor)
        return torch.cat([self._of(modality)(values) for modality, values in features.items()], -3)

    def _of(self, modality: str) -> EncoderHead:
        part = self.modalities[modality]
        assert isinstance(part, EncoderHead)
        return part


def encoder_head(
    encoder: Encoder, outputs: int, features: int | None, projection: Sequence[int]
) -> EncoderHead | ModalityHeads:
    """The encoder head of one encoder, or encoder heads per modality.

    Raises:
        ValueError: as `EncoderHead`; ``features`` for several encoders.
    """
    if isinstance(encoder, nn.Module):
        return EncoderHead(encoder, outputs, features, projection)
    if features is not None:
        raise ValueError("features is the width of one encoder; encoders per modality each have an attribute .features")
    return ModalityHeads(encoder, outputs, projection)


def feature_width(encoder: nn.Module, features: int | None) -> int:
    """Width of an encoder's output: as given, or its attribute ``features``, or those of timm's networks.

    Raises:
        ValueError: neither.
    """
    # Some networks of timm have a last layer of another width between their features and the classifier.
    named = (getattr(encoder, name, None) for name in ("features", "head_hidden_size", "num_features"))
    width = features if features is not None else next((found for found in named if isinstance(found, int)), None)
    if not isinstance(width, int):
        raise ValueError(
            f"{type(encoder).__name__} has no integer attribute `features`, the width of its output; "
            "pass features=... to the guide"
        )
    return width
