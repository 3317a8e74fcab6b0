"""Encoder heads: encoder → backbone features → projection → a linear layer, for one modality or one head for each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from pp_simve.inference.encoders import normed_layers
from pp_simve.inference.guides.base import Features
from pp_simve.models import Views, apply_network
from pp_simve.models.modalities import check_modalities, modality_modules, view_and_image_counts

IMAGE_DIM = 3
Encoder = nn.Module | Mapping[str, nn.Module]
"""Maps images ``(batch, channel, height, width)`` to features ``(batch, features)``; one for each modality."""


class EncoderHead(nn.Module):
    """Images → backbone features → numbers.

    Args:
        encoder: maps ``(batch, channel, height, width)`` to ``(batch, features)``.
        outputs: how many numbers.
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
        self.projection = normed_layers(width, projection)
        self.head = nn.Linear(projection[-1] if projection else width, outputs)

    def features(self, views: Views) -> Tensor:
        """Backbone features, shape ``(..., features)`` from images ``(..., channel, height, width)``.

        Raises:
            ValueError: views of several modalities.
        """
        if not isinstance(views, Tensor):
            raise ValueError(
                f"views of several modalities ({', '.join(views)}) need a guide with an encoder for each modality"
            )
        return apply_network(self.encoder, views, event_dim=IMAGE_DIM)

    def heads(self) -> list[nn.Linear]:
        """The last layers."""
        return [self.head]

    def forward(self, features: Features) -> Tensor:
        """Shape ``(..., outputs)`` from backbone features ``(..., features)``."""
        assert isinstance(features, Tensor)
        hidden = apply_network(self.projection, features, event_dim=1) if len(self.projection) else features
        # The head is one matrix of a few thousand numbers: left in full precision, where scales need it.
        numbers: Tensor = self.head(hidden)
        return numbers


class ModalityHeads(nn.Module):
    """The same for views of several modalities, each read by an encoder and a head of its own.

    Args:
        encoders: by modality; each with an attribute ``features``.
        outputs: how many numbers.
        projection: as in `EncoderHead`, for every modality.
    """

    def __init__(self, encoders: Mapping[str, nn.Module], outputs: int, projection: Sequence[int] = ()) -> None:
        super().__init__()
        self.modalities = modality_modules(
            {modality: EncoderHead(encoder, outputs, projection=projection) for modality, encoder in encoders.items()}
        )

    def features(self, views: Views) -> dict[str, Tensor]:
        """Backbone features of the modalities that are there, in the views' order.

        Raises:
            ValueError: a modality without an encoder, modalities of different numbers of images, or no views by
                modality at all.
        """
        if isinstance(views, Tensor):
            raise ValueError(f"views must be given by modality, a dictionary of {', '.join(self.modalities)}")
        check_modalities(views, self.modalities)
        view_and_image_counts(views)
        # In the views' order and not that of the encoders: the program divides z among the modalities in it.
        return {modality: self._of(modality).features(batch) for modality, batch in views.items()}

    def heads(self) -> list[nn.Linear]:
        """The last layers, one per modality."""
        return [self._of(modality).head for modality in self.modalities]

    def forward(self, features: Features) -> Tensor:
        """Shape ``(..., view, image, outputs)``: the views of each given modality in turn."""
        assert not isinstance(features, Tensor)
        return torch.cat([self._of(modality)(values) for modality, values in features.items()], -3)

    def _of(self, modality: str) -> EncoderHead:
        part = self.modalities[modality]
        assert isinstance(part, EncoderHead)
        return part


def encoder_head(
    encoder: Encoder, outputs: int, features: int | None, projection: Sequence[int]
) -> EncoderHead | ModalityHeads:
    """How views are read by one encoder, or by one per modality.

    Raises:
        ValueError: as `EncoderHead`; ``features`` for several encoders.
    """
    if isinstance(encoder, nn.Module):
        return EncoderHead(encoder, outputs, features, projection)
    if features is not None:
        raise ValueError("features is the width of one encoder; encoders by modality say it themselves, as .features")
    return ModalityHeads(encoder, outputs, projection)


def feature_width(encoder: nn.Module, features: int | None) -> int:
    """How wide an encoder's output is: as given, or as it says itself.

    Raises:
        ValueError: neither.
    """
    width = features if features is not None else getattr(encoder, "features", None)
    if not isinstance(width, int):
        raise ValueError(
            f"{type(encoder).__name__} has no integer attribute `features` that says how wide its output is; "
            "pass features=... to the guide"
        )
    return width
