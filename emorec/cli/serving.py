"""emorec serve: the recommender as a service."""

from __future__ import annotations

import os
from pathlib import Path

import click

from emorec.cli.common import RUN, user_errors

__all__ = ["serve"]

_LOOPBACK = ("127.0.0.1", "::1", "localhost")


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
@user_errors
def serve(
    run: Path,
    store: str | None,
    host: str,
    port: int,
    workers: int,
    api_keys: tuple[str, ...],
    origins: tuple[str, ...],
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

        from emorec.service.app import Settings, create_app
    except ImportError as error:
        raise ImportError(f'{error}; the service needs: pip install "emorec[serve]"') from error
    settings = Settings(
        run.resolve(), store or f"sqlite:///{run.resolve().parent / 'events.db'}", keys, origins
    )
    app = create_app(settings)  # fails here, not in a worker, if the run cannot be served
    click.echo(f"Serving {run} at http://{host}:{port}; events are kept in {settings.shown_store}")
    if workers == 1:
        uvicorn.run(app, host=host, port=port, log_level="warning")
        return
    app.state.service.close()
    os.environ.update(settings.as_environment())
    uvicorn.run(
        "emorec.service.app:app_of_environment",
        factory=True,
        host=host,
        port=port,
        workers=workers,
        log_level="warning",
    )
