import sys
from pathlib import Path

# Benchmarks are scripts beside the package; what they share is found as they find it.
sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks"))
