"""The examples of docstrings run, and the main public names have one."""

from __future__ import annotations

import doctest
import sys

import pyro
import pytest
import torch

import pp_simve
from pp_simve import Embedding, load_data
from pp_simve.inference import Balanced, fit
from pp_simve.inference.augmentations import AugmentationPolicy
from pp_simve.models import Views

NAMES = ["SimVE", "GaussianPrior", "BlockPrior", "NTXent", "AmortizedGuide", "StructuredGuide", "ELBO", "draw"]
OBJECTS = [*(getattr(pp_simve, name) for name in NAMES), fit, load_data, Embedding, Balanced, AugmentationPolicy, Views]


@pytest.mark.parametrize("documented", OBJECTS, ids=lambda documented: documented.__name__)
def test_examples_of_docstrings(documented: type) -> None:
    module = sys.modules[documented.__module__]
    tests = doctest.DocTestFinder(recurse=False).find(documented, documented.__name__, module)
    assert [test for test in tests if test.examples]
    torch.manual_seed(0)
    for test in tests:
        assert doctest.DocTestRunner().run(test).failed == 0
    pyro.clear_param_store()
