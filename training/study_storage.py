"""Where studies lie: the journal of Optuna in a file that all see, or a PostgreSQL server."""

from __future__ import annotations

import json
import os
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from utils.errors import UserError
from utils.files import expand
from utils.optional import require

FIRST_LINE = 1 << 16  # bytes of a journal that are looked at to know it
DATABASE = re.compile(r"postgresql(?:\+(psycopg2?))?://")
DRIVERS = {"psycopg2": "psycopg2-binary", "psycopg": "psycopg[binary]"}  # and what pip calls them
SCHEME = re.compile(r"[A-Za-z][\w+.-]+://")
FORMS = "a file that all machines see, such as /shared/zoo.journal, or postgresql://USER@HOST/DATABASE"


def address_fault(address: str) -> str:
    """What is wrong with the address of a study, or nothing."""
    if DATABASE.match(address):
        user = address.partition("://")[2].partition("?")[0].rpartition("@")[0]
        return "has a user or password with an unescaped @; write %40 for it" if "@" in user else ""
    if re.match("postgres(ql)?:", address):
        return "must begin with postgresql://, as in postgresql://USER@HOST/DATABASE"
    return f"must be {FORMS}" if SCHEME.match(address) or address == "journal:" else ""


def shown_address(address: str) -> str:
    """An address for pages and messages: without user, password and folders."""
    if DATABASE.match(address):
        return "postgresql://" + address.partition("://")[2].rpartition("@")[2].partition("?")[0]
    return Path(address.removeprefix("journal:")).name


def open_storage(address: str) -> Any:
    """Optuna's storage at an address.

    Raises:
        UserError: a package is missing, nobody answers there, or it is something else.
        OSError: the file cannot be read or written.
    """
    require("optuna", "optuna").logging.set_verbosity(30)  # warnings
    if database := DATABASE.match(address):
        driver = database[1] or "psycopg2"  # which one SQLAlchemy takes by itself depends on its version
        require("sqlalchemy", "sqlalchemy")
        require(driver, DRIVERS[driver])
        storages = require("optuna.storages", "optuna")
        options = {"pool_pre_ping": True, "connect_args": {"connect_timeout": 10}}
        with asking(address):
            url = f"postgresql+{driver}://{address[database.end() :]}"
            return storages.RDBStorage(url, engine_kwargs=options)
    path = expand(address.removeprefix("journal:"))
    _check_journal(path)
    journal = require("optuna.storages.journal", "optuna")
    lock = journal.JournalFileOpenLock if os.name == "nt" else journal.JournalFileSymlinkLock
    with warnings.catch_warnings(), asking(address):
        warnings.simplefilter("ignore")  # that the interface may change
        return journal.JournalStorage(journal.JournalFileBackend(str(path), lock(str(path))))


def _check_journal(path: Path) -> None:
    """Refuse a file of something else before anything is added to it, and a share that is not there."""
    if not path.parent.is_dir():
        raise UserError(f"--study: there is no folder {path.parent}; make it, or see whether it is mounted")
    if path.is_dir():
        raise UserError(f"--study: {path} is a folder; name a file in it, such as {path / 'study.journal'}")
    if not path.exists():
        return
    with path.open("rb") as file:
        line = file.readline(FIRST_LINE)
    try:
        known = not line or "op_code" in json.loads(line)
    except (ValueError, TypeError, RecursionError):
        known = False
    if not known:
        raise UserError(f"--study: {path} is no journal of Optuna; name a new file, or that of a study")


@contextmanager
def asking(address: str) -> Iterator[None]:
    """What a storage says goes wrong becomes one line."""
    from optuna.exceptions import StorageInternalError, UpdateFinishedTrialError

    faults: tuple[type[Exception], ...] = (StorageInternalError,)
    if DATABASE.match(address):
        from sqlalchemy.exc import SQLAlchemyError

        faults = (*faults, SQLAlchemyError, RuntimeError, ValueError)
    else:
        faults = (*faults, ValueError, KeyError, TypeError, AssertionError, AttributeError, RecursionError)
    try:
        yield
    except (UserError, UpdateFinishedTrialError):
        raise
    except faults as error:
        reason = error.__cause__ or error
        said = " ".join(str(getattr(reason, "orig", None) or reason or type(reason).__name__).split())[:200]
        place = shown_address(address)
        if DATABASE.match(address):
            raise UserError(
                f"--study: {place} does not answer as a study does: {_secret(said, address)}"
            ) from error
        raise UserError(f"--study: {place} is damaged, or no journal of Optuna ({said})") from error


def _secret(text: str, address: str) -> str:
    """A text without the password of an address."""
    found = re.match(r"[^:]+://[^:/@]*:([^@]*)@", address)
    return text.replace(found[1], "…") if found and found[1] else text
