"""What every place of a token does: directories on a disk, Secrets at an API server."""

from __future__ import annotations

import base64
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from rotator.adapters.directory import TokenDirectory
from rotator.adapters.kubernetes.tokens import TokenSecret
from rotator.core.model import SubjectName
from rotator.errors import Conflict, Rejected
from rotator.ports import Stamp, TokenStore
from tests.fakes.clock import ManualClock
from tests.fakes.kuma.standin import StandIn
from tests.fakes.objects import FakeObjects

AT = datetime(2030, 1, 1, tzinfo=UTC)
WEB = SubjectName("web")
SECRET = "/api/v1/namespaces/kuma/secrets/web-token"  # noqa: S105 -- a path
STAMP = Stamp(subject=WEB, rotation_id="r-1", leaf_published_at=AT, bundle_published_at=AT)


class DirectoryPlace:
    """A token's directory."""

    def __init__(self, directory: Path) -> None:
        self.path = directory / "token"

    def store(self) -> TokenStore:
        """Return the place as a new process has it."""
        return TokenDirectory(self.path)

    def edit(self, text: str) -> None:
        """Change the token as somebody else."""
        (self.path / "CURRENT" / "token").write_text(text)

    def read(self) -> str:
        """Return what a consumer reads."""
        file = self.path / "CURRENT" / "token"
        assert file.stat().st_mode & 0o777 == 0o600
        return file.read_text()


class SecretPlace:
    """A token's Secret."""

    def __init__(self, directory: Path) -> None:
        del directory
        self.objects = FakeObjects()

    def store(self) -> TokenStore:
        """Return the place as a new process has it."""
        return TokenSecret(self.objects, namespace="kuma", name="web-token", subject=WEB, clock=ManualClock())

    def edit(self, text: str) -> None:
        """Change the token as somebody else."""
        self.objects.edit(SECRET, {"data": {"token": base64.b64encode(text.encode()).decode()}})

    def read(self) -> str:
        """Return what a consumer reads."""
        stored = self.objects.stored[SECRET]
        assert stored["type"] == "Opaque"
        return base64.b64decode(stored["data"]["token"]).decode()


Place = DirectoryPlace | SecretPlace


@pytest.fixture(params=[DirectoryPlace, SecretPlace], ids=["directory", "secret"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    """Give one place at which nothing was published yet."""
    made: Place = request.param(tmp_path)
    return made


@pytest.fixture
def token(standin: StandIn) -> Callable[[], str]:
    """Return what issues another token at each call."""
    return lambda: standin.tokens.issue("dataplane", {"mesh": "default", "name": "web", "validFor": "1h"})


def test_it_is_read_back_as_it_was_published(place: Place, token: Callable[[], str]) -> None:
    """A new process finds the token, whose it is, and since when; consumers find its text and nothing else."""
    text = token()
    assert place.store().read() is None
    written = place.store().put_token(text, expected=0, stamp=STAMP)
    seen = place.store().read()
    assert seen is not None
    assert (written.token, 1, "r-1", AT, WEB, None) == (
        seen.token,
        seen.number,
        seen.rotation_id,
        seen.leaf_published_at,
        seen.subject,
        seen.problem,
    )
    assert text == place.read() == place.store().text()
    assert text not in repr(seen)


def test_law_14_who_decided_on_an_older_one_is_refused(place: Place, token: Callable[[], str]) -> None:
    """A writer that saw another publication changes nothing."""
    first, second = token(), token()
    place.store().put_token(first, expected=0, stamp=STAMP)
    with pytest.raises(Conflict):
        place.store().put_token(second, expected=0, stamp=STAMP)
    assert first == place.read()
    place.store().put_token(second, expected=1, stamp=STAMP)
    place.store().forget(keep=frozenset({2}))
    assert second == place.read()


def test_an_edit_is_seen_also_by_another_token(place: Place, token: Callable[[], str]) -> None:
    """Neither nonsense nor somebody else's good token is taken for what was published."""
    place.store().put_token(token(), expected=0, stamp=STAMP)
    for text in ("nonsense", token()):
        place.edit(text)
        seen = place.store().read()
        assert seen is not None
        assert "token was changed by somebody else" in (seen.problem or "")


def test_nothing_is_published_that_is_no_token(place: Place) -> None:
    """What does not read as a token never gets there."""
    with pytest.raises(Rejected):
        place.store().put_token("nonsense", expected=0, stamp=STAMP)
    assert place.store().read() is None


def test_a_life_is_as_long_as_was_asked(place: Place, token: Callable[[], str]) -> None:
    """Its end is read from the token itself."""
    seen = place.store().put_token(token(), expected=0, stamp=STAMP)
    assert seen.token is not None
    assert timedelta(minutes=59) < seen.token.not_after - seen.token.not_before < timedelta(minutes=61)
