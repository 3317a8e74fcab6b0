"""Score records: one tidy row per score, the one schema that every command writes and every table renders."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Record:
    """One score of a representation, or of the whole program.

    Attributes:
        task: what is predicted or measured: ``class``, ``view``, ``attributes``, ``handwriting``, ``several_views``,
            ``information``, ``disentanglement``, ``generation``, ``retrieval``, ``zero_shot``, ...
        metric: ``accuracy``, ``r2``, ``auc``, ``nmi``, ``ari``, ``sd``, ``nats``, ``db``, ... Accuracies are fractions.
        value: the score; None where it was not computed, and then `note` says why.
        representation: ``backbone``, ``z``, ``content`` or ``style``; empty for scores of the whole program.
        probe: ``linear``, ``mlp``, ``knn``, ``ridge``, ``logistic``, ``clusters_diag``, ...; empty where there is none.
        target: the view parameter, attribute, number of labels or views, direction between modalities; or empty.
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

    def to_json(self) -> dict[str, Any]:
        """Plain values by name; a value that is not finite becomes None."""
        entries = dataclasses.asdict(self)
        finite = self.value is not None and math.isfinite(self.value)
        return entries | {"value": float(self.value) if self.value is not None and finite else None}

    @classmethod
    def from_json(cls, entries: Mapping[str, Any]) -> Record:
        """The inverse of `to_json`.

        Raises:
            ValueError: an entry is missing, unknown or of the wrong type.
        """
        names = {entry.name for entry in dataclasses.fields(cls)}
        if set(entries) != names:
            raise ValueError(f"a score record has the entries {', '.join(sorted(names))}, got {', '.join(entries)}")
        value = entries["value"]
        texts = {name: text for name, text in entries.items() if name != "value"}
        if any(not isinstance(text, str) for text in texts.values()):
            raise ValueError(f"a score record holds text in every entry but value, got {dict(entries)}")
        if isinstance(value, bool) or not isinstance(value, int | float | None):
            raise ValueError(f"the value of a score record is a number or null, got {value!r}")
        return cls(**texts, value=None if value is None else float(value))


def select(records: Iterable[Record], **wanted: str) -> list[Record]:
    """The records whose entries equal those given, in their order: ``select(records, task="class", probe="knn")``."""
    return [record for record in records if all(getattr(record, name) == text for name, text in wanted.items())]
