"""Score records: plain values and back, selection, and the table of pandas."""

from __future__ import annotations

import io
import json
import math
from typing import Any

import pytest

from pp_simve.evaluation import Record, score, select, to_frame
from pp_simve.evaluation.records import by_name

RECORDS = [
    Record("class", "accuracy", 0.75, "z", "linear"),
    Record("view", "r2", 0.5, "z", "ridge", "rotation", "upper"),
    Record("view", "r2", math.nan, "z", "ridge", "scale", note="constant in test"),
    Record("generation", "mse", None, note="not applicable: the program does not model pixels"),
]


def test_records_come_back_from_json() -> None:
    read = [Record.from_json(entries) for entries in json.loads(json.dumps([one.to_json() for one in RECORDS]))]
    assert read[:2] == RECORDS[:2]
    assert read[2].value is None
    assert read[3] == RECORDS[3]


@pytest.mark.parametrize("changes", [{"task": 3}, {"value": "0.5"}, {"value": True}])
def test_wrong_types_are_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="holds text, and in value a number or null"):
        Record.from_json(RECORDS[0].to_json() | changes)


@pytest.mark.parametrize("entries", [None, [], {"task": "class"}, RECORDS[0].to_json() | {"extra": ""}])
def test_what_is_no_record_is_refused(entries: Any) -> None:
    with pytest.raises(ValueError, match="a score record has the entries metric, modality, note"):
        Record.from_json(entries)


def test_selection_by_entries_and_names_for_trackers() -> None:
    assert select(RECORDS, task="view") == RECORDS[1:3]
    assert score(RECORDS, task="view", target="rotation") == 0.5
    assert score(RECORDS, task="retrieval") is None
    assert by_name(RECORDS[:2]) == {"z/class/linear/accuracy": 0.75, "upper/z/view/ridge/rotation/r2": 0.5}


def test_the_table_of_pandas() -> None:
    pandas = pytest.importorskip("pandas")
    frame = to_frame(RECORDS)
    assert list(frame.columns) == ["task", "metric", "value", "representation", "probe", "target", "modality", "note"]
    assert frame["value"].dtype == float
    assert frame["value"].isna().tolist() == [False, False, True, True]
    again = pandas.read_csv(io.StringIO(frame.to_csv(index=False)), keep_default_na=False, na_values={"value": ""})
    assert again.equals(frame)
    assert to_frame([]).empty
