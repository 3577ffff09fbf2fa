"""Which Detectron2 the tests run on."""

import pytest

import sparsenet

IS_LITE = sparsenet.DETECTRON2 == "lite"
lite_only = pytest.mark.skipif(not IS_LITE, reason="about the stand-in; the real one is active")
