"""The database's password comes from a file that a pod can be given."""

from __future__ import annotations

import contextlib
import traceback
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
import sqlalchemy as sa

from rotator.embedded.loopback_tls import write_private
from rotator.errors import ConfigError, JournalError
from rotator.store.engine import open_engine, parse_url
from rotator.store.passfile import password_in
from tests.fixtures_postgres import PostgreSQL


def _written(file: Path, text: str, mode: int = 0o640) -> Path:
    write_private(file, text.encode())
    file.chmod(mode)
    return file


@pytest.mark.parametrize(
    ("line", "found"),
    [
        ("db.example:5432:rotator:rotator:word", "word"),
        ("*:*:*:rotator:word", "word"),
        (r"*:*:*:*:a\:b\\c", r"a:b\c"),
        (r"*:*:*:*:ends\\", "ends\\"),
        ("db.example:5433:rotator:rotator:word", None),
        ("*:*:*:somebody:word", None),
        ("*:*:*:word", None),
        ("#*:*:*:*:word", None),
    ],
)
def test_a_line_is_read_as_libpq_reads_it(tmp_path: Path, line: str, found: str | None) -> None:
    """Stars stand for anything, a backslash takes what follows for itself, and the first line that fits is it."""
    file = _written(tmp_path / "pgpass", f"# a comment\nother:1:x:y:no\n{line}\n")

    assert found == password_in(file, host="db.example", port=5432, database="rotator", user="rotator")


def test_the_first_line_that_fits_is_taken(tmp_path: Path) -> None:
    file = _written(tmp_path / "pgpass", "*:*:*:*:first\n*:*:*:*:second\n")

    assert "first" == password_in(file, host="h", port=1, database="d", user="u")


@pytest.mark.parametrize("mode", [0o644, 0o660, 0o604])
def test_a_file_that_others_may_read_or_change_is_refused(tmp_path: Path, mode: int) -> None:
    """The group may read it, as in a pod; anything more is refused before it is used."""
    file = _written(tmp_path / "pgpass", "*:*:*:*:word\n", mode)

    with pytest.raises(ConfigError, match="chmod 600"):
        password_in(file, host="h", port=1, database="d", user="u")


def test_a_file_that_is_not_there_is_said_at_once(tmp_path: Path) -> None:
    """The daemon does not start with a password file that it cannot read."""
    with pytest.raises(ConfigError, match="cannot read the database's password file"):
        open_engine(parse_url(f"postgresql+psycopg://u@127.0.0.1/d?passfile={tmp_path / 'none'}"))


@pytest.fixture
def guarded(postgresql: PostgreSQL) -> Iterator[str]:
    """Give a database whose user has to show a password: ``first``."""
    url = parse_url(postgresql.database())
    user = f"guarded_{url.database}"
    with contextlib.closing(
        psycopg.connect(host="127.0.0.1", port=postgresql.port, user="postgres", dbname=url.database, autocommit=True)
    ) as connection:
        connection.execute(f"CREATE ROLE {user} LOGIN PASSWORD 'first'".encode())
        (rules,) = connection.execute("SHOW hba_file").fetchone() or ("",)
        before = Path(rules).read_bytes()
        Path(rules).write_bytes(f"host all {user} 127.0.0.1/32 scram-sha-256\n".encode() + before)
        connection.execute("SELECT pg_reload_conf()")
        yield f"postgresql+psycopg://{user}@127.0.0.1:{postgresql.port}/{url.database}"
        Path(rules).write_bytes(before)
        connection.execute("SELECT pg_reload_conf()")


@pytest.mark.external
def test_a_password_that_changes_is_taken_at_the_next_connection(
    guarded: str, postgresql: PostgreSQL, tmp_path: Path
) -> None:
    """A real server lets it in by the file's password; after both have changed, again; no error holds a password."""
    file = _written(tmp_path / "pgpass", "*:*:*:*:first\n")
    engine = open_engine(parse_url(f"{guarded}?passfile={file}"))
    user = parse_url(guarded).username
    try:
        with engine.connect() as connection:
            assert user == connection.execute(sa.text("SELECT current_user")).scalar_one()
        engine.dispose()
        postgresql.execute(f"ALTER ROLE {user} PASSWORD 'second'")
        with pytest.raises(sa.exc.OperationalError) as refused:
            engine.connect()
        assert "first" not in "".join(traceback.format_exception(refused.value))
        _written(file, "*:*:*:*:second\n")
        with engine.connect() as connection:
            assert user == connection.execute(sa.text("SELECT current_user")).scalar_one()
        engine.dispose()
        file.unlink()
        with pytest.raises(JournalError, match="password file"):
            engine.connect()
    finally:
        engine.dispose()
