"""emorec serve: the recommender as a service."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Any

import click

from emorec.cli.common import RUN, user_errors

__all__ = ["serve"]

_LOOPBACK = ("127.0.0.1", "::1", "localhost")
_WAITING_CONNECTIONS = 8_192  # the system may allow fewer
_SECONDS_TO_END = 30  # that answers under way get
_SECONDS_TO_ANSWER = 60  # of a worker, which is busy while it loads, until it is thought hung


@click.command(context_settings={"max_content_width": 100})
@click.argument("run", type=RUN)
@click.option(
    "--store",
    help="URL of the database that keeps events: SQLite or PostgreSQL (postgresql://...).  "
    "[default: sqlite:///events.db beside RUN]",
)
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen at.")
@click.option("--port", default=8000, show_default=True, type=click.IntRange(0, 65_535))
@click.option(
    "--workers",
    default=1,
    show_default=True,
    type=click.IntRange(1, 64),
    help="Processes; each holds the model. They share the store.",
)
@click.option(
    "--api-key",
    "api_keys",
    multiple=True,
    help="Key that requests must bring; repeatable. Better in $EMOREC_API_KEYS, separated by "
    "commas, where other users of the machine do not see them. Needed unless --host is loopback.",
)
@click.option(
    "--allow-origin",
    "origins",
    multiple=True,
    help="Origin of pages that browsers may call the service from; repeatable.  [default: none]",
)
@click.option(
    "--rate",
    help="Most requests of each client (its key, or without keys its address), such as "
    "100/second; each worker counts those that it gets.  [default: no limit]",
)
@user_errors
def serve(
    run: Path,
    store: str | None,
    host: str,
    port: int,
    workers: int,
    api_keys: tuple[str, ...],
    origins: tuple[str, ...],
    rate: str | None,
) -> None:
    """Serve a trained RUN over HTTP: an event changes the very next list.

    Events are answered once they are on disk. /docs describes all requests, /metrics has figures
    for Prometheus. Needs the extra serve: pip install "emorec[serve]".

    \b
    Examples:
      emorec serve RUN
      emorec serve RUN --store postgresql://emorec@localhost/emorec --workers 2
      EMOREC_API_KEYS=secret emorec serve RUN --host 0.0.0.0
      emorec-train --dataset sqlite:///events.db
    """  # noqa: D301
    keys = (*api_keys, *filter(None, os.environ.get("EMOREC_API_KEYS", "").split(",")))
    if not keys and host not in _LOOPBACK:
        raise click.UsageError(
            f"--host {host} is open to others, so requests must bring a key: set $EMOREC_API_KEYS "
            "or give --api-key"
        )
    try:
        import uvicorn

        from emorec.service.app import create_app
        from emorec.service.metrics import SHARED_FOLDER
        from emorec.service.settings import Settings
    except ImportError as error:
        raise ImportError(f'{error}; the service needs: pip install "emorec[serve]"') from error
    store = store or f"sqlite:///{run.resolve().parent / 'events.db'}"
    with tempfile.TemporaryDirectory(prefix="emorec-") as shared:
        settings = Settings(run.resolve(), store, keys, origins, rate, Path(shared))
        app = create_app(settings)  # fails here, not in a worker, if the run cannot be served
        click.echo(
            f"Serving {run} at http://{host}:{port}; events are kept in {settings.shown_store}"
        )
        how: dict[str, Any] = {"host": host, "port": port, "log_level": "warning"}
        how |= {"backlog": _WAITING_CONNECTIONS, "timeout_graceful_shutdown": _SECONDS_TO_END}
        how["timeout_worker_healthcheck"] = _SECONDS_TO_ANSWER
        _allow_many_connections()
        if workers == 1:
            uvicorn.run(app, **how)
            return
        app.state.serving.close()
        os.environ.update(settings.as_environment())
        os.environ[SHARED_FOLDER] = shared
        uvicorn.run("emorec.service.app:app_of_environment", factory=True, workers=workers, **how)


def _allow_many_connections() -> None:
    """Raises the limit of open files, of which each connection is one, as far as it may be."""
    try:
        import resource
    except ImportError:  # pragma: no cover - Windows has no such limit
        return
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
