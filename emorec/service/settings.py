"""How the service runs."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path

from sqlalchemy import make_url

__all__ = ["Settings"]

_ENVIRONMENT = "EMOREC_SERVICE"


@dataclass(frozen=True)
class Settings:
    """How the service runs.

    Attributes:
        run: The run folder to serve.
        store: URL of the store of events.
        api_keys: Keys of which a request must have one; empty: none is asked for.
        origins: Origins of pages that browsers may call the service from.
        rate: Most requests of a client, such as "100/second"; None: no limit.
        shared: Folder that the workers of one service share; None: there is one worker.
        most_users: Users whose events are kept in memory.
    """

    run: Path
    store: str
    api_keys: tuple[str, ...] = ()
    origins: tuple[str, ...] = ()
    rate: str | None = None
    shared: Path | None = None
    most_users: int = 100_000

    @property
    def shown_store(self) -> str:
        """The store's URL without its password."""
        return str(make_url(self.store).render_as_string(hide_password=True))

    def as_environment(self) -> dict[str, str]:
        """Variables that tell the settings to the processes of several workers."""
        return {_ENVIRONMENT: json.dumps(asdict(self), default=str)}

    @classmethod
    def of_environment(cls) -> Settings:
        """The settings that `as_environment` told."""
        given = json.loads(os.environ[_ENVIRONMENT])
        given["run"] = Path(given["run"])
        given["shared"] = given["shared"] and Path(given["shared"])
        for name in ("api_keys", "origins"):
            given[name] = tuple(given[name])
        return cls(**given)
