"""Score records: one tidy row per score, the one schema that every command writes and every table renders."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd

REPRESENTATIONS = ("backbone", "z", "content", "style")
"""The parts of a guide's `Representation` that are evaluated."""

BASELINES = ("pixels", "untrained")
"""What the same probes are fitted on to compare with: principal components of pixels, the backbone before the fit."""

MEAN = "mean"
"""`Record.target` of the mean over view parameters, attributes or handwriting measures."""

MULTIPLE = "multiple_of_z"
"""Metric of the record of a representation that is, for single views, z times a number."""

CLEAN, AUGMENTED = "clean images", "augmented views"
OF_VIEWS = {
    *("view", "relative_view", "several_views"),
    *("alignment", "uniformity", "infonce_bound", "infonce_ceiling", "infonce_pairs", "prior_information"),
}
"""Tasks, and metrics of others, whose scores are of augmented views."""

_CHANCE = {"accuracy": "chance", "balanced_accuracy": "chance_balanced", "recall": "chance"}

NOT_APPLICABLE, FAILED = "not applicable: ", "failed: "
"""How `Record.note` begins where there is no score."""


class NotApplicableError(ValueError):
    """These data, or this program, have nothing for an evaluator to measure."""


@dataclass(frozen=True)
class Record:
    """One score of a representation, or of the whole program. `pp_simve.evaluation.suite` lists all of them.

    Attributes:
        task, metric: what is predicted or measured, and by which score: accuracies are fractions, information and KL
            are in nats, PSNR in dB.
        value: None where it is undefined or was not computed; `note` may say why.
        representation: one of `REPRESENTATIONS` or `BASELINES`; empty for scores of the whole program.
        probe: ``linear``, ``mlp``, ``knn``, ``knn_20_cosine``, ``knn_200_cosine``, ``ridge``, ``logistic``,
            ``circular``, ``clusters_diag``, ``clusters_full``; empty where there is none.
        target: the view parameter, the group of them or attribute (``mean`` is the mean over all), the number of labels
            or views, the axis of z, the direction between modalities (``upper to lower``); or empty.
        modality: the modality that the representation was inferred from; empty where there is only one.
        note: why there is no score (``not applicable: ...`` or ``failed: ...``), or how to read it.
    """

    task: str
    metric: str
    value: float | None
    representation: str = ""
    probe: str = ""
    target: str = ""
    modality: str = ""
    note: str = ""

    @property
    def images(self) -> str:
        """What the score is of, in words: clean images, augmented views, or both."""
        if self.task == "disentanglement":
            return f"{CLEAN} and {AUGMENTED}"
        return CLEAN if OF_VIEWS.isdisjoint((self.task, self.metric)) else AUGMENTED

    def to_json(self) -> dict[str, Any]:
        """Plain values by name; a value that is not finite becomes None."""
        value = None if self.value is None or not math.isfinite(self.value) else float(self.value)
        return dataclasses.asdict(self) | {"value": value}

    @classmethod
    def from_json(cls, entries: Mapping[str, Any]) -> Record:
        """The inverse of `to_json`.

        Raises:
            ValueError: an entry is missing, unknown or of the wrong type.
        """
        names = {entry.name for entry in dataclasses.fields(cls)}
        if not isinstance(entries, Mapping) or set(entries) != names:
            raise ValueError(f"a score record has the entries {', '.join(sorted(names))}, got {entries!r}")
        value = entries["value"]
        number = value is None or (isinstance(value, int | float) and not isinstance(value, bool))
        if not number or any(not isinstance(text, str) for name, text in entries.items() if name != "value"):
            raise ValueError(f"a score record holds text, and in value a number or null, got {dict(entries)}")
        return cls(**{**entries, "value": None if value is None else float(value)})


def select(records: Iterable[Record], **wanted: str) -> list[Record]:
    """The records whose entries equal those given, in their order: ``select(records, task="class", probe="knn")``."""
    return [record for record in records if all(getattr(record, name) == text for name, text in wanted.items())]


def score(records: Iterable[Record], **wanted: str) -> float | None:
    """The value of the first record whose entries equal those given; None where there is none."""
    found = select(records, **wanted)
    return found[0].value if found else None


def distinct(records: Sequence[Record]) -> list[Record]:
    """The records without those of multiples of z, where z has the same score: what a person needs to see."""
    multiples = {(one.modality, one.representation) for one in select(records, metric=MULTIPLE)}
    keys = {dataclasses.replace(one, value=None, note="") for one in records}

    def doubled(one: Record) -> bool:
        of_z = dataclasses.replace(one, representation="z", value=None, note="")
        return (one.modality, one.representation) in multiples and of_z in keys

    return [one for one in records if not doubled(one)]


def chance_of(metric: str) -> str:
    """The metric of the chance level that may stand beside another: ``chance@1`` of ``recall@1``; empty for none."""
    name, at, rank = metric.partition("@")
    return f"{_CHANCE[name]}{at}{rank}" if name in _CHANCE else ""


def without_width(representation: str) -> str:
    """The message for a representation without axes, such as content where a prior shares nothing between views."""
    return f"{representation} has no width under this prior; choose another representation, such as z"


def by_name(records: Iterable[Record]) -> dict[str, float]:
    """The defined values under names such as ``z/class/linear/accuracy``, for trackers of experiments."""
    found = {}
    for one in records:
        if one.value is not None:
            parts = (one.modality, one.representation, one.task, one.probe, one.target, one.metric)
            found["/".join(filter(None, parts))] = one.value
    return found


def to_frame(records: Iterable[Record]) -> pd.DataFrame:
    """The records as a table of pandas, a row each; undefined values are NaN. ``to_frame(records).to_csv(...)``."""
    import pandas as pd

    frame = pd.DataFrame(map(dataclasses.asdict, records), columns=[one.name for one in dataclasses.fields(Record)])
    return frame.astype({"value": float})
