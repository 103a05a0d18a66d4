"""Whether the compiled operators are there."""

import pytest

from emorec.ops import library

needs_library = pytest.mark.skipif(
    library.problem("cpu") is not None, reason=f"no fused operator: {library.problem('cpu')}"
)
