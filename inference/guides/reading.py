"""From views to numbers: encoder → backbone features → projection → a linear head, for views of one kind or several."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from pp_simve.inference.encoders import normed_layers
from pp_simve.inference.guides.base import Features
from pp_simve.models import Views, apply_network
from pp_simve.models.kinds import check_kinds, kinds_module, view_and_image_counts

IMAGE_DIM = 3
Encoder = nn.Module | Mapping[str, nn.Module]
"""Maps images ``(batch, channel, height, width)`` to features ``(batch, features)``; one for each kind of view."""


class Reading(nn.Module):
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
            ValueError: views of several kinds.
        """
        if not isinstance(views, Tensor):
            raise ValueError(f"views of several kinds ({', '.join(views)}) need a guide with an encoder for each kind")
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


class ModalReading(nn.Module):
    """The same for views of several kinds, each read by an encoder and a head of its own.

    Args:
        encoders: by kind; each with an attribute ``features``.
        outputs: how many numbers.
        projection: as in `Reading`, for every kind.
    """

    def __init__(self, encoders: Mapping[str, nn.Module], outputs: int, projection: Sequence[int] = ()) -> None:
        super().__init__()
        self.kinds = kinds_module(
            {kind: Reading(encoder, outputs, projection=projection) for kind, encoder in encoders.items()}
        )

    def features(self, views: Views) -> dict[str, Tensor]:
        """Backbone features of the kinds that are there, in the views' order.

        Raises:
            ValueError: a kind without an encoder, kinds of different numbers of images, or no views by kind at all.
        """
        if isinstance(views, Tensor):
            raise ValueError(f"views must be given by kind, a dictionary of {', '.join(self.kinds)}")
        check_kinds(views, self.kinds)
        view_and_image_counts(views)
        # In the views' order and not that of the encoders: the program divides z among the kinds in it.
        return {kind: self._of(kind).features(batch) for kind, batch in views.items()}

    def heads(self) -> list[nn.Linear]:
        """The last layers, one a kind."""
        return [self._of(kind).head for kind in self.kinds]

    def forward(self, features: Features) -> Tensor:
        """Shape ``(..., view, image, outputs)``: the views of all kinds that are there, one kind after the other."""
        assert not isinstance(features, Tensor)
        return torch.cat([self._of(kind)(values) for kind, values in features.items()], -3)

    def _of(self, kind: str) -> Reading:
        part = self.kinds[kind]
        assert isinstance(part, Reading)
        return part


def reading(encoder: Encoder, outputs: int, features: int | None, projection: Sequence[int]) -> Reading | ModalReading:
    """How views are read by one encoder, or by one a kind.

    Raises:
        ValueError: as `Reading`; ``features`` for several encoders.
    """
    if isinstance(encoder, nn.Module):
        return Reading(encoder, outputs, features, projection)
    if features is not None:
        raise ValueError("features is the width of one encoder; encoders by kind say it themselves, as .features")
    return ModalReading(encoder, outputs, projection)


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
