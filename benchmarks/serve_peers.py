"""Other services of lists, as processes that serve_bench.py asks: those of Cornac and implicit."""

from __future__ import annotations

import os
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from peers.exchange import Task
from servers import free_port

from emorec.data.interactions import Interactions

__all__ = ["PEERS", "ServingPeer", "running", "task_of"]

_HERE = Path(__file__).parent / "peers"
_SECONDS_TO_START = 120


@dataclass(frozen=True)
class ServingPeer:
    """Another project's way to serve lists.

    Attributes:
        name: Of its environment, too.
        shown: What is served by what.
        train: Arguments of Python that train on a task and save the model.
        serve: Arguments of Python that serve the model at a port with some workers.
        environment: Variables of the server.
        list_of: The path of a user's list of ten unseen items.
    """

    name: str
    shown: str
    train: Callable[[Path, Path], list[str]]
    serve: Callable[[int, int], list[str]]
    environment: Callable[[Path, Path], dict[str, str]]
    list_of: Callable[[int], str]


def _saved_by_cornac(model: Path) -> Path:
    """What Cornac has saved: a file in a folder named after the model."""
    (found,) = (path for path in model.glob("*/*.pkl"))
    return found


PEERS = (
    ServingPeer(
        "cornac",
        "Cornac's BPR by its own Flask application, gunicorn",
        lambda task, model: [str(_HERE / "cornac_model.py"), str(task), str(model)],
        lambda port, workers: [
            *("-m", "gunicorn", "cornac.serving.app:app", "--bind", f"127.0.0.1:{port}"),
            *("--workers", str(workers), "--worker-class", "gthread", "--threads", "1"),
            *("--keep-alive", "75", "--backlog", "8192", "--log-level", "warning"),
        ],
        lambda _, model: {
            "MODEL_PATH": str(_saved_by_cornac(model)),
            "MODEL_CLASS": "cornac.models.BPR",
        },
        lambda user: f"/recommend?uid={user}&k=10&remove_seen=true",
    ),
    ServingPeer(
        "implicit",
        "implicit's ALS behind FastAPI, uvicorn",
        lambda task, model: [str(_HERE / "implicit_app.py"), str(task), str(model / "als.npz")],
        lambda port, workers: [
            *("-m", "uvicorn", "implicit_app:app", "--app-dir", str(_HERE)),
            *("--port", str(port), "--workers", str(workers), "--backlog", "8192"),
            *("--log-level", "warning"),
        ],
        lambda task, model: {"TASK": str(task), "MODEL": str(model / "als.npz")},
        lambda user: f"/users/{user}/recommendations?k=10",
    ),
)


def task_of(log: Interactions, path: Path) -> Path:
    """Writes all events of a log for peers to learn from."""
    order = np.lexsort((log.time, log.user))
    liked = (log.feedback < 2)[order]
    users = np.arange(log.num_users)
    user, item = log.user[order].astype(np.int64), log.item[order].astype(np.int64)
    Task(user, item, liked, users, log.num_users, log.num_items, 10).save(path)
    return path


@contextmanager
def running(
    peer: ServingPeer, environments: Path, task: Path, folder: Path, workers: int
) -> Iterator[tuple[subprocess.Popen[bytes], int]]:
    """Trains a peer and serves it; gives the process and the port.

    Raises:
        FileNotFoundError: If it has no environment.
        subprocess.CalledProcessError: If it cannot be trained.
        RuntimeError: If it does not serve.
    """
    python = environments / peer.name / "bin" / "python"
    if not python.exists():
        raise FileNotFoundError(f"{python}: run benchmarks/peers/setup.sh {environments}")
    model = folder / peer.name
    model.mkdir()
    # One thread per process, as the service has.
    threads = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
    plain = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"} | threads
    subprocess.run(
        [python, *peer.train(task, model)], check=True, env=plain, stdout=subprocess.DEVNULL
    )
    port = free_port()
    process = subprocess.Popen(
        [python, *peer.serve(port, workers)],
        env=plain | peer.environment(task, model),
        cwd=model,
        stdout=subprocess.DEVNULL,
    )
    try:
        _wait(process, f"http://127.0.0.1:{port}{peer.list_of(0)}")
        yield process, port
    finally:
        process.terminate()
        process.wait()


def _wait(process: subprocess.Popen[bytes], url: str) -> None:
    until = time.monotonic() + _SECONDS_TO_START
    while time.monotonic() < until and process.poll() is None:
        try:
            with urllib.request.urlopen(url, timeout=10):
                return
        except urllib.error.HTTPError as error:
            raise RuntimeError(f"{url}: {error}: {error.read()[:500]!r}") from error
        except OSError:
            time.sleep(0.2)
    raise RuntimeError(f"{url}: does not answer")
