"""Which run serves: a file that the workers of a service share."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from filelock import FileLock

from emorec.storage.files import write_text

__all__ = ["Choice", "Chosen"]


@dataclass(frozen=True)
class Chosen:
    """A run that was chosen to serve.

    Attributes:
        name: Of its folder.
        previous: What served before, to go back to; None: nothing did.
        number: Grows with each choice.
    """

    name: str
    previous: str | None = None
    number: int = 0


class Choice:
    """The run that all workers of a service are to serve.

    Args:
        folder: What the workers share.
        name: The run that is served first; a worker that starts later serves what was chosen.
    """

    def __init__(self, folder: Path, name: str) -> None:
        self._file = folder / "model.json"
        self._lock = FileLock(folder / "model.lock")
        with self._lock:
            if not self._file.exists():
                self._write(Chosen(name))

    def now(self) -> Chosen:
        """What is chosen."""
        return Chosen(**json.loads(self._file.read_text(encoding="utf-8")))

    def choose(self, name: str) -> Chosen:
        """Chooses a run."""
        with self._lock:
            before = self.now()
            previous = before.previous if before.name == name else before.name
            return self._write(Chosen(name, previous, before.number + 1))

    def _write(self, chosen: Chosen) -> Chosen:
        write_text(self._file, json.dumps(asdict(chosen)))
        return chosen
