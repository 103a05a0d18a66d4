"""The README's Python, run as it stands there."""

import re
import subprocess
import sys
from pathlib import Path

README = Path(__file__).parent.parent / "README.md"


def test_the_quick_start_runs(tmp_path: Path):
    (snippet,) = re.findall(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL)
    done = subprocess.run(
        [sys.executable, "-c", snippet], cwd=tmp_path, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    assert "popular" in done.stdout  # the user it does not know
    assert done.stdout.count("model") == 10
    assert (tmp_path / "my-run" / "model.safetensors").exists()
