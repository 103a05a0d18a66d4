"""Which checks of `emorec.testing` models of other projects pass.

    benchmarks/peers/setup.sh ENVIRONMENTS rectools lenskit cornac
    python benchmarks/check_peers.py --environments ENVIRONMENTS --output PAGE

Each model is checked in its project's environment, which reads `emorec.testing` from this checkout;
`peers/adapters.py` has the adapters.
"""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import click
from peers.adapters import MODELS

from emorec.storage.files import write_text

HERE = Path(__file__).parent


def run(environments: Path, name: str) -> dict[str, Any]:
    """The versions of a model's packages and the outcomes of its checks.

    Raises:
        OSError: If its environment is missing.
        RuntimeError: If its process ends with an error; has the end of what it says.
    """
    python = environments / MODELS[name].environment / "bin" / "python"
    found = subprocess.run(
        [str(python), "-m", "peers.adapters", name],
        env=os.environ | {"PYTHONPATH": f"{HERE.parent}{os.pathsep}{HERE}"},
        capture_output=True,
        text=True,
    )
    if found.returncode:
        raise RuntimeError(found.stderr[-2000:])
    return json.loads(found.stdout.splitlines()[-1])  # models print too


def page(results: dict[str, dict[str, Any]]) -> str:
    """The outcomes as Markdown: a table of checks and models, and the reasons of failures."""
    checks = list(next(iter(results.values()))["checks"])
    versions = {
        name: number for each in results.values() for name, number in each["versions"].items()
    }
    lines = [
        "# Models of other projects in our checks",
        "",
        "The checks of `emorec.testing`, on logs of 40 users and 60 items (dislikes: 130 and 80). "
        "–: cannot be asked, since the model or its adapter does not have what is checked. A model "
        "that does not use ratings, or ranks alike for all, cannot pass the check of dislikes. "
        "Made by `python benchmarks/check_peers.py --environments ENVIRONMENTS`, with "
        + ", ".join(f"{name} {number}" for name, number in sorted(versions.items()))
        + ".",
        "",
        f"| | {' | '.join(results)} |",
        f"| --- |{' :-: |' * len(results)}",
    ]
    marks = {"passed": "passed", "fails": "**fails**", "cannot be asked": "–"}
    for check in checks:
        cells = [marks[each["checks"][check].partition(":")[0]] for each in results.values()]
        lines.append(f"| {check} | {' | '.join(cells)} |")
    lines += ["", "## Why they fail", ""]
    for name, each in results.items():
        for check, outcome in each["checks"].items():
            if outcome.startswith("fails"):
                lines.append(f"- {name}, {check}: `{outcome.removeprefix('fails: ')}`")
    return "\n".join(lines) + "\n"


@click.command(context_settings={"max_content_width": 100})
@click.option(
    "--environments",
    type=click.Path(path_type=Path, exists=True),
    required=True,
    help="Folder that peers/setup.sh filled.",
)
@click.option(
    "--model", "models", multiple=True, type=click.Choice(list(MODELS)), help="Only these."
)
@click.option("--output", type=click.Path(path_type=Path), help="Where the page goes.")
def main(environments: Path, models: tuple[str, ...], output: Path | None) -> None:
    """Checks models of other projects and writes the outcomes as a page of Markdown.

    Ends with 1, after the page, if a model could not be run.
    """
    results, failed = {}, {}
    for name in models or MODELS:
        try:
            results[name] = run(environments, name)
        except (OSError, RuntimeError) as error:
            failed[name] = str(error)
            continue
        outcomes = [outcome.partition(":")[0] for outcome in results[name]["checks"].values()]
        click.echo(
            f"{name}: {', '.join(f'{outcomes.count(o)} {o}' for o in sorted(set(outcomes)))}",
            err=True,
        )
    if results:
        text = page(results)
        if output is None:
            click.echo(text)
        else:
            write_text(output, text)
    if failed:  # after the outcomes of all others
        reasons = "\n".join(f"  {name}: {reason}" for name, reason in failed.items())
        raise click.ClickException(f"not checked:\n{reasons}")


if __name__ == "__main__":
    main()
