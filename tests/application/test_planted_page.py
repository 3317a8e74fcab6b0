"""docs/planted_mistakes.md lists the mistakes that the tests plant, and the checks that they hold to finding them."""

from __future__ import annotations

import re
from pathlib import Path

from . import test_planted_guides as of_guides
from . import test_planted_parts as of_parts

PAGE = Path(__file__).parents[2] / "docs" / "planted_mistakes.md"


def test_the_page_lists_what_is_planted_and_found() -> None:
    listed: dict[str, set[tuple[str, str]]] = {}
    for line in PAGE.read_text().splitlines():
        if heading := re.match(r"## .*`(\w+)`", line):
            rows = listed.setdefault(heading[1], set())
        elif cells := re.match(r"\| .* \| (\w+) \| (test_.*) \|", line):
            rows.update((cells[1], check) for check in cells[2].split(", "))
    planted = {
        "PriorSuite": {(part.__name__, check) for part, checks in of_parts.PRIORS.items() for check in checks},
        "LikelihoodSuite": {
            (part.__name__, check) for part, checks in of_parts.LIKELIHOODS.items() for check in checks
        },
        "GuideSuite": {(part.__name__, check) for part, check, _ in of_guides.GUIDES},
        "ObjectiveSuite": {(part.__name__, check) for part, check, _ in of_guides.OBJECTIVES},
    }
    assert listed == planted
