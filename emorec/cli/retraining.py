"""emorec retrain: learns on from a service's store, and offers the new model if it is not worse."""

from __future__ import annotations

import json
import os
import shlex
import time
from pathlib import Path
from urllib.error import HTTPError, URLError
from urllib.parse import urlsplit
from urllib.request import Request, urlopen

import click

from emorec.cli.common import RUN, quick_imports, user_errors
from emorec.cli.training import learn_on

__all__ = ["retrain"]


@click.command(context_settings={"max_content_width": 100})
@click.argument("run", type=RUN)
@click.option(
    "--store",
    help="URL of the service's store.  [default: sqlite:///events.db beside RUN]",
)
@click.option(
    "--run-dir",
    type=click.Path(file_okay=False, path_type=Path),
    help="Folder to create for the new run, beside RUN if a service is to switch to it.  "
    "[default: RUN with the time at its end]",
)
@click.option(
    "--service",
    help="Address of the service, such as http://127.0.0.1:8000, which then serves the new run if "
    "it is not worse. Its key is taken from $EMOREC_API_KEY.",
)
@click.option("--quiet", is_flag=True, help="Show no progress bars.")
@user_errors
def retrain(
    run: Path, store: str | None, run_dir: Path | None, service: str | None, quiet: bool
) -> None:
    """Learn on from the events that a service has stored since RUN was trained.

    The new model is judged beside RUN on the newest fifth of each user's new events, which neither
    has learned from. It is offered if it is not worse: if neither NDCG of likes is lower nor the
    recall of dislikes higher with p below 0.05 (paired t-test over users). Ends with 1 if it is
    worse.

    \b
    Examples:
      emorec retrain RUN
      emorec retrain RUN --store postgresql://emorec@localhost/emorec
      emorec retrain RUN --service http://127.0.0.1:8000
    """  # noqa: D301
    with quick_imports():
        from emorec.updating import verdict_of

    if service is not None and urlsplit(service).scheme not in ("http", "https"):
        raise click.UsageError(f"--service {service}: give an address such as http://host:8000")
    folder = run.resolve()
    if service is not None and run_dir is not None and run_dir.resolve().parent != folder.parent:
        raise click.UsageError(
            f"--run-dir {run_dir}: a service switches to run folders beside {run} only"
        )
    run_dir = run_dir or folder.with_name(f"{folder.name}-{time.strftime('%Y%m%d-%H%M%S')}")
    url = store or f"sqlite:///{folder.parent / 'events.db'}"
    new, comparison = learn_on(run, url, run_dir, {}, quiet)
    verdict = verdict_of(comparison)
    click.echo(f"\n{verdict}")
    if not verdict.is_offered:
        raise click.ClickException(f"{new} is worse than {run}, which should serve on")
    if service is None:
        click.echo(f"Serve it with\n  emorec serve {shlex.quote(str(new))}")
        return
    name = _switch(service, new.resolve().name)
    click.echo(f"{service} serves {name}; POST /model/rollback goes back.")


def _switch(service: str, name: str) -> str:
    """Tells a service to serve a run; what it says it serves then."""
    headers = {"content-type": "application/json"}
    if key := os.environ.get("EMOREC_API_KEY"):
        headers["authorization"] = f"Bearer {key}"
    request = Request(
        f"{service.rstrip('/')}/model", json.dumps({"name": name}).encode(), headers, method="POST"
    )
    try:
        with urlopen(request, timeout=300) as answer:
            return str(json.load(answer)["name"])
    except HTTPError as error:
        raise click.ClickException(f"{service} refuses {name}: {_detail(error)}") from error
    except (URLError, OSError) as error:
        raise click.ClickException(f"{service} cannot be reached: {error}") from error


def _detail(error: HTTPError) -> str:
    try:
        return str(json.load(error)["detail"])
    except (ValueError, KeyError):
        return str(error)
