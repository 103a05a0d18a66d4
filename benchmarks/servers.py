"""Servers that a measurement or a test starts and stops: the service itself, and PostgreSQL."""

from __future__ import annotations

import http.client
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil

__all__ = ["PostgreSQL", "Service", "free_port"]

_SECONDS_TO_START = 120


class Service:
    """`emorec serve` as processes of their own, at a loopback port.

    Args:
        run: The run folder to serve.
        store: URL of the store.
        options: Further options of the command.

    Attributes:
        run: The run folder.
        store: URL of the store.
        port: Where it listens.
        process: The first process.
    """

    def __init__(self, run: Path, store: str, *options: str) -> None:
        self.run, self.store, self.port = run, store, free_port()
        command = [sys.executable, "-m", "emorec", "serve", str(run), "--store", store]
        self._command = [*command, "--port", str(self.port), *options]

    def __enter__(self) -> Service:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.process.terminate()
        self.process.wait()

    def start(self) -> None:
        """Starts it, and waits until it answers."""
        self.process = subprocess.Popen(self._command, stdout=subprocess.DEVNULL)
        self.wait_until_ready()

    @property
    def workers(self) -> list[psutil.Process]:
        """The processes that answer, if there are several."""
        found = []
        for child in psutil.Process(self.process.pid).children(recursive=True):
            with suppress(psutil.Error):  # one that has just ended
                if "spawn_main" in " ".join(child.cmdline()):
                    found.append(child)
        return found

    def wait_until_ready(self) -> None:
        """Waits until the service answers.

        Raises:
            RuntimeError: If it ends instead.
            TimeoutError: If it takes more than two minutes.
        """
        until = time.monotonic() + _SECONDS_TO_START
        while time.monotonic() < until:
            if self.process.poll() is not None:
                raise RuntimeError(f"the service ended with status {self.process.returncode}")
            try:
                if self.ask("GET", "/readyz")[0] == 200:
                    return
            except (OSError, http.client.HTTPException):
                pass
            time.sleep(0.1)
        raise TimeoutError("the service did not start within two minutes")

    def ask(
        self, method: str, path: str, body: object = None, timeout: float = 60
    ) -> tuple[int, Any, Mapping[str, str]]:
        """Sends a request over a connection of its own: status, body and headers of the answer."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=timeout)
        try:
            content = None if body is None else json.dumps(body)
            connection.request(method, path, content, {"content-type": "application/json"})
            answer = connection.getresponse()
            return answer.status, json.loads(answer.read()), dict(answer.getheaders())
        finally:
            connection.close()

    def kill(self) -> None:
        """Ends the service at once (SIGKILL), its workers too."""
        processes = [*psutil.Process(self.process.pid).children(recursive=True), self.process]
        for process in processes:
            process.send_signal(signal.SIGKILL)
        self.process.wait()


class PostgreSQL:
    """A PostgreSQL server with a database of its own, in a folder.

    Args:
        folder: An empty folder.
        is_durable: Whether commits are on disk before they are answered.

    Attributes:
        url: Of the database.

    Raises:
        LookupError: If there are no programs of a server, or no user to run them as.
    """

    def __init__(self, folder: Path, is_durable: bool = False) -> None:
        self._programs, self._folder = _programs(), folder
        self._user: dict[str, Any] = {}
        if os.geteuid() == 0:  # the server refuses to run as root
            shutil.chown(folder, "postgres")
            for parent in (folder, *folder.parents):
                if parent.stat().st_uid == 0 and str(parent).startswith("/tmp/"):
                    parent.chmod(0o755)
            self._user = {"user": "postgres", "cwd": folder}
        self.url = f"postgresql://emorec@/postgres?host={folder}"
        self._durable = "on" if is_durable else "off"
        self._run("initdb", "-A", "trust", "-U", "emorec", "--no-sync")

    def start(self) -> None:
        """Starts the server, and waits until it answers."""
        options = f"-c listen_addresses='' -k {self._folder} -c fsync={self._durable}"
        self._run("pg_ctl", "-o", options, "-w", "-l", self._folder / "log", "start")

    def stop(self) -> None:
        """Stops the server at once, as if it had crashed."""
        self._run("pg_ctl", "-m", "immediate", "stop")

    def __enter__(self) -> PostgreSQL:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        if (self._folder / "data" / "postmaster.pid").exists():
            self.stop()

    def _run(self, program: str, *arguments: object) -> None:
        command = [self._programs / program, "-D", self._folder / "data", *arguments]
        subprocess.run(list(map(str, command)), check=True, capture_output=True, **self._user)


def free_port() -> int:
    """A port that nobody listens at."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def _programs() -> Path:
    """The folder of PostgreSQL's own programs."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    named = shutil.which("initdb")
    if named is None and not found:
        raise LookupError("there are no programs of a PostgreSQL server")
    return Path(named).parent if named else found[-1].parent
