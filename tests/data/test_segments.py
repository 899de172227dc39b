"""The part of a recording that a row means."""

from __future__ import annotations

import pytest

from speechft.data.segments import Segment, segment_of


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        ({"start": "1", "end": "2"}, Segment(1.0, 2.0)),
        ({"start": "1", "duration": "2"}, Segment(1.0, 3.0)),
        ({"start": "1", "end": "2", "duration": "5"}, Segment(1.0, 2.0)),
        ({"start": "", "duration": "2"}, Segment(None, 2.0)),
        ({"start": "", "end": "2"}, Segment(None, 2.0)),
        ({"end": "2"}, Segment(None, 2.0)),
        ({"duration": "2"}, Segment()),
        ({"start": "1"}, Segment(1.0)),
        ({"start": "", "end": "", "duration": ""}, Segment()),
        ({"start": "0", "duration": "2", "channel": "1"}, Segment(0.0, 2.0, 1)),
    ],
)
def test_the_part_that_a_row_means(row: dict[str, str], expected: Segment) -> None:
    assert segment_of(row) == expected


@pytest.mark.parametrize("column", ["start", "end", "duration"])
@pytest.mark.parametrize("text", ["nan", "-1", "x", "1e12", "1:30"])
def test_what_is_no_time_is_refused(column: str, text: str) -> None:
    with pytest.raises(ValueError, match=f"the {column} '{text}' is not a number of seconds"):
        segment_of({"start": "0", column: text})
