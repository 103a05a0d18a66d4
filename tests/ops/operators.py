"""A marker for tests that need the compiled operators."""

import pytest

from emorec.ops import library

needs_library = pytest.mark.skipif(
    library.problem("cpu") is not None, reason=f"no fused operator: {library.problem('cpu')}"
)
