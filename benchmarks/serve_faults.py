"""What the service loses when something fails: nothing that it has answered.

    python benchmarks/serve_faults.py --output benchmarks/results/serve-faults.md

Each function of serve_breakdowns.py and serve_requests.py brings about one fault, many times, and
counts what was injected, answered and lost. tests/service/test_faults.py calls the same functions
with small numbers.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import click
from machine import machine
from serve_breakdowns import (
    clock_back,
    database_gone,
    disk_full,
    disk_really_full,
    killed,
    supervisor_killed,
    two_workers,
    worker_killed,
)
from serve_events import Fault
from serve_requests import damaged_runs, hostile_requests, many_users, slow_clients
from servers import PostgreSQL, Service

from emorec import EmoRec
from emorec.data.synthetic import generate


def make_runs(folder: Path) -> tuple[Path, Path, Path]:
    """Two small runs that can be served, and one that cannot."""
    log = generate(num_users=30, num_items=60, num_topics=8, events_per_user=12).interactions
    small = ("training.epochs=1", "model.embedding_size=8", "graph.size=8", "split.n=3")
    for name, preset, seed in (("one", "emorec", 1), ("two", "emorec", 2), ("gat", "base-gat", 1)):
        settings = (*small, f"training.seed={seed}", "model.backend=torch")
        EmoRec(preset, *settings).fit(log, progress=False).save(folder / name)
    return folder / "one", folder / "two", folder / "gat"


@click.command(context_settings={"max_content_width": 100})
@click.option("--output", type=click.Path(path_type=Path), help="Markdown file of the table.")
def main(output: Path | None) -> None:
    """Bring about all faults, and write the table."""
    faults: list[Fault] = []

    def note(fault: Fault) -> None:
        faults.append(fault)
        click.echo(_row(fault))

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o755)  # PostgreSQL runs as another user
        (folder / "runs").mkdir()
        one, two, gat = make_runs(folder / "runs")
        with Service(one, f"sqlite:///{folder / 'events.db'}") as service:
            note(hostile_requests(service))
            note(damaged_runs(service, two, gat, flips=200))
            note(slow_clients(service, 300, 1_000))
            note(many_users(service, 10_000, 2_500))
            note(disk_full(service, 5))
            note(killed(service, 10, 2.0))
        with Service(one, f"sqlite:///{folder / 'two.db'}", "--workers", "2") as service:
            note(two_workers(service, 500))
            note(worker_killed(service, 4, 1.0))
            note(supervisor_killed(service, 2, 1.0))
            note(many_users(service, 10_000, 2_500, "two"))
        note(clock_back(one, folder, (3_600, 86_400, 365 * 86_400)))
        if os.geteuid() == 0:
            note(disk_really_full(one, folder / "full"))
        (folder / "postgresql").mkdir()
        with (
            PostgreSQL(folder / "postgresql", is_durable=True) as server,
            Service(one, server.url) as service,
        ):
            note(hostile_requests(service))
            note(database_gone(service, server, 2, 60.0))
            note(killed(service, 10, 2.0, seed=1))
    if output is not None:
        facts = machine()
        lines = [
            "# Faults",
            "",
            "What became of requests when something failed, by "
            "[serve_faults.py](../serve_faults.py); *lost* counts events that were acknowledged "
            "and are not in the store, or are there twice, and answers that were wrong or did not "
            "come.",
            "",
            "| fault | injected | answered | lost | what a client sees |",
            "|---|---:|---:|---:|---|",
            *map(_row, faults),
            "",
            f"{facts['cpu']}, with other work beside it; commit {facts['commit']}.",
        ]
        output.write_text("\n".join(lines) + "\n")
    if any(fault.lost for fault in faults):
        raise SystemExit("something was lost")


def _row(fault: Fault) -> str:
    cells = (fault.name, fault.injected, f"{fault.answered:,}", str(fault.lost), fault.seen)
    return f"| {' | '.join(cells)} |"


if __name__ == "__main__":
    main()
