"""A PostgreSQL server of its own for tests, where Debian's or another package has put one."""

from __future__ import annotations

import os
import pwd
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

PASSWORD = "correct-horse"


@dataclass(frozen=True)
class Server:
    """A server that runs; `address` is that of an empty database."""

    address: str
    program: Path
    data: Path
    owner: str | None

    def control(self, *words: str) -> None:
        """`pg_ctl` with these words; it waits until it is done."""
        command = [str(self.program), "-D", str(self.data), "-s", "-w", *words]
        subprocess.run(
            command, check=True, user=self.owner, cwd=self.data, stdout=subprocess.DEVNULL, env=plain()
        )


def plain() -> dict[str, str]:
    return {"PATH": os.environ.get("PATH", ""), "LC_ALL": "C", "TZ": "UTC"}


def program(name: str) -> Path:
    """A program of PostgreSQL; skips the test when it is not there."""
    places = sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{name}"), reverse=True)
    found = shutil.which(name) or next(iter(map(str, places)), None)
    if found is None:
        pytest.skip(f"no {name} here: apt-get install postgresql")
    return Path(found)


@contextmanager
def running() -> Iterator[Server]:
    """A new server on a free port, which asks for a password. Root may not run it; then nobody does."""
    initdb, pg_ctl = program("initdb"), program("pg_ctl")
    owner = "nobody" if os.getuid() == 0 else None
    folder = Path(tempfile.mkdtemp(prefix="lean5-postgres-"))
    try:
        folder.chmod(0o755)
        data, secret = folder / "data", folder / "secret"
        data.mkdir(0o700)
        secret.write_text(PASSWORD, encoding="utf-8")
        if owner:
            who = pwd.getpwnam(owner)
            os.chown(data, who.pw_uid, who.pw_gid)
        words = ["-D", str(data), "-U", "tester", "-A", "scram-sha-256", "--pwfile", str(secret), "-N"]
        subprocess.run(
            [str(initdb), *words], check=True, user=owner, cwd=data, stdout=subprocess.DEVNULL, env=plain()
        )
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        (data / "postgresql.auto.conf").write_text(
            f"port = {port}\nlisten_addresses = '127.0.0.1'\nunix_socket_directories = ''\nfsync = off\n",
            encoding="utf-8",
        )
        address = f"postgresql://tester:{PASSWORD}@127.0.0.1:{port}/postgres"
        server = Server(address, pg_ctl, data, owner)
        server.control("-l", str(data / "log"), "start")
        try:
            yield server
        finally:
            server.control("-m", "immediate", "stop")
    finally:
        shutil.rmtree(folder, ignore_errors=True)
