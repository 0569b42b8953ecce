"""
The kinds of values that a person writes: durations, ratios, paths, addresses, names, identities.

Rules that must stay true here:

- A value says what is allowed and what to do about it, in words that stand alone (`refused`).
- Whatever is accepted means one thing: bare numbers are no durations, relative paths are no paths.
- Plain HTTP is for this machine only; a password never stands in the file.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable
from datetime import datetime, time, timedelta
from pathlib import Path
from typing import Annotated, Any, Final
from urllib.parse import SplitResult, urlsplit

from pydantic import BeforeValidator, PlainSerializer, WithJsonSchema
from pydantic_core import PydanticCustomError

from rotator.core.window import written
from rotator.durations import DURATION_PATTERN, parse_duration, parse_moment
from rotator.redaction import holds_secret

_NAME: Final = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]{0,61}[A-Za-z0-9])?")
# SPIFFE-ID specification section 2.1: lower-case letters, digits, dots, dashes, underscores; 255 bytes.
_TRUST_DOMAIN: Final = re.compile(r"[a-z0-9._-]{1,255}")
_SEGMENT: Final = re.compile(r"[A-Za-z0-9._-]+")
_DNS_LABEL: Final = r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?"
_DNS_NAME: Final = re.compile(rf"(?:\*\.)?(?:{_DNS_LABEL}\.)*{_DNS_LABEL}")
_LONGEST_SPIFFE_ID: Final = 2048
_LONGEST_DNS_NAME: Final = 253
_MOUNT: Final = re.compile(r"[A-Za-z0-9._-]+(?:/[A-Za-z0-9._-]+)*")
_GROUP: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]{0,31}\$?")
_MODE: Final = re.compile(r"0?[0-7]{3}")
_OFFSET: Final = re.compile(r"([+-])(\d{2}):(\d{2})")
_ENDPOINT: Final = re.compile(r"(?:\[([0-9A-Fa-f:.]+)\]|([A-Za-z0-9.-]+)):(\d{1,5})")
_LAST_PORT: Final = 65535


def refused(allowed: str, do: str) -> PydanticCustomError:
    """Return the error of a value that cannot be used; the reader of the file adds what was found and where."""
    return PydanticCustomError("rotator", "{allowed}", {"allowed": allowed, "do": do})


def _text(value: object, allowed: str, do: str) -> str:
    if not isinstance(value, str):
        raise refused(allowed, do)
    return value


def _matching(pattern: re.Pattern[str], allowed: str, do: str) -> Callable[[object], str]:
    def check(value: object) -> str:
        text = _text(value, allowed, do)
        if not pattern.fullmatch(text):
            raise refused(allowed, do)
        return text

    return check


def _duration(value: object) -> timedelta:
    if isinstance(value, timedelta):
        return value
    allowed = "a duration such as 90s, 12h, 7d or 1h30m"
    if isinstance(value, int | float) and not isinstance(value, bool):
        raise refused(allowed, f"add the unit, as in {value}s")
    try:
        return parse_duration(_text(value, allowed, "write number and unit"))
    except ValueError as e:
        raise refused(allowed, "write number and unit, the largest unit first") from e


def _positive(value: object) -> timedelta:
    duration = _duration(value)
    if duration <= timedelta():
        raise refused("a duration longer than 0s", "write a longer one")
    return duration


def _whole(value: object) -> timedelta:
    duration = _positive(value)
    if duration % timedelta(seconds=1):
        raise refused("whole seconds, because certificates know no smaller ones", "round it")
    return duration


def _ratio(value: object) -> float:
    allowed = "a share between 0 and 1, as 50% or 0.5"
    ratio: float
    if isinstance(value, str) and re.fullmatch(r"\d{1,3}(\.\d{1,3})?%", value, flags=re.ASCII):
        ratio = float(value.removesuffix("%")) / 100
    elif isinstance(value, int | float) and not isinstance(value, bool):
        ratio = float(value)
    else:
        raise refused(allowed, "write it with %")
    if not 0 < ratio < 1:
        raise refused(allowed, "choose one in between")
    return ratio


def _path(value: object) -> Path:
    allowed = "an absolute path"
    if isinstance(value, Path):
        return value
    text = _text(value, allowed, "write the path from the root on, as /etc/rotator/...")
    if "\0" in text or not text.startswith("/"):
        raise refused(allowed, "write the path from the root on, as /etc/rotator/...")
    if ".." in Path(text).parts:
        raise refused("a path without ..", "write where it really is")
    return Path(text)


def _secret_file(value: object) -> Path:
    if isinstance(value, str) and holds_secret(value):
        raise refused("the path of a file that holds the secret", "put the secret into a file and name the file")
    return _path(value)


def is_this_machine(host: str) -> bool:
    """Return whether *host* is a name or address of this machine alone."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _split(text: str, allowed: str) -> SplitResult:
    try:
        parts = urlsplit(text)
        parts.port  # noqa: B018 -- reading it is the check: urlsplit looks at the port only then
    except ValueError as e:
        raise refused(allowed, "mend host and port") from e
    if parts.username is not None or parts.password is not None:
        raise refused(f"{allowed}, without a user or password", "take them out of the address")
    return parts


def _http_url(value: object) -> str:
    allowed = "https://HOST[:PORT], or http:// on this machine"
    text = _text(value, allowed, "write the whole address")
    parts = _split(text, allowed)
    if parts.scheme not in {"http", "https"} or not parts.hostname or parts.query or parts.fragment or " " in text:
        raise refused(allowed, "write the whole address")
    if parts.scheme == "http" and not is_this_machine(parts.hostname):
        raise refused(allowed, "use https: what is said there decides who is trusted")
    return text.rstrip("/")


def _web_url(value: object) -> str:
    allowed = "https://HOST[:PORT][/PATH] or http://HOST[:PORT][/PATH]"
    text = _text(value, allowed, "write the whole address")
    parts = _split(text, allowed)
    if parts.scheme not in {"http", "https"} or not parts.hostname or parts.fragment or " " in text:
        raise refused(allowed, "write the whole address")
    if holds_secret(text):
        raise refused(f"{allowed}, without a secret in it", "put the address into a file and name the file")
    return text


def _store_url(value: object) -> str:
    allowed = "sqlite:////ABSOLUTE/PATH or postgresql+psycopg://HOST/DATABASE"
    text = _text(value, allowed, "write one of them")
    if text.startswith("sqlite://"):
        if not re.fullmatch(r"sqlite:////[^?#\0]+", text):
            raise refused(allowed, "write four slashes and the path from the root on, without options")
        return text
    parts = urlsplit(text)
    if parts.scheme != "postgresql+psycopg":
        raise refused(allowed, "write one of them")
    if parts.password is not None or "password=" in parts.query:
        raise refused(
            "a PostgreSQL address without a password", "put it into a .pgpass file and add ?passfile=/ABSOLUTE/PATH"
        )
    if not parts.path.strip("/"):
        raise refused(allowed, "name the database")
    return text


def _endpoint(value: object) -> str:
    allowed = "HOST:PORT"
    match = _ENDPOINT.fullmatch(_text(value, allowed, "write host and port, as 127.0.0.1:8443"))
    if match is None or not 0 < int(match[3]) <= _LAST_PORT:
        raise refused(allowed, "write host and port, as 127.0.0.1:8443")
    return match[0]


def spiffe_trust_domain(identity: str) -> str:
    """Return the trust domain in the SPIFFE ID *identity*."""
    return identity.removeprefix("spiffe://").partition("/")[0]


def _spiffe_id(value: object) -> str:
    allowed = "a SPIFFE ID, as spiffe://TRUST-DOMAIN/PATH"
    do = "use letters, digits, dot, dash and underscore between slashes"
    text = _text(value, allowed, do)
    domain, slash, path = text.removeprefix("spiffe://").partition("/")
    well_formed = text.startswith("spiffe://") and slash and _TRUST_DOMAIN.fullmatch(domain)
    if not well_formed or len(text) > _LONGEST_SPIFFE_ID:
        raise refused(allowed, do)
    # SPIFFE-ID specification section 2.2: no empty segments, no relative ones, no percent-encoding.
    if any(not _SEGMENT.fullmatch(part) or part in {".", ".."} for part in path.split("/")):
        raise refused(f"{allowed} without empty, . or .. parts", do)
    return text


def _dns_name(value: object) -> str:
    allowed = "a lower-case DNS name, at most one * as its first label"
    text = _text(value, allowed, "write the name, not an address")
    if len(text) > _LONGEST_DNS_NAME or not _DNS_NAME.fullmatch(text) or re.fullmatch(r"[0-9.]+", text):
        raise refused(allowed, "write the name, in lower case, without a final dot")
    return text


def _moment(value: object) -> datetime:
    allowed = "a moment such as 2026-12-20T00:00:00Z"
    if isinstance(value, datetime):
        return value
    try:
        return parse_moment(_text(value, allowed, "write date, time and Z"))
    except ValueError as e:
        raise refused(allowed, "write date, time and Z or an offset") from e


def _time_of_day(value: object) -> time:
    allowed = "a time of day such as 01:00"
    if isinstance(value, time):
        return value
    text = _text(value, allowed, "write hours and minutes")
    match = re.fullmatch(r"([01]\d|2[0-3]):([0-5]\d)", text, flags=re.ASCII)
    if match is None:
        raise refused(allowed, "write hours and minutes, 00:00 to 23:59")
    return time(int(match[1]), int(match[2]))


def _zone(value: object) -> timedelta:
    # Named zones would make a window move by an hour twice a year under a daemon that computes in UTC.
    allowed = "UTC or an offset from it such as +02:00"
    if isinstance(value, timedelta):
        return value
    text = _text(value, allowed, "write the offset; windows do not follow daylight saving time")
    if text in {"UTC", "Z"}:
        return timedelta()
    match = _OFFSET.fullmatch(text)
    offset = timedelta(hours=int(match[2]), minutes=int(match[3])) if match else timedelta(days=1)
    if offset > timedelta(hours=14):
        raise refused(allowed, "write the offset; windows do not follow daylight saving time")
    return -offset if match and match[1] == "-" else offset


def _mode(value: object) -> int:
    allowed = "an octal file mode such as 0640, without rights for others"
    text = str(value) if isinstance(value, int) and not isinstance(value, bool) else value
    if not isinstance(text, str) or not _MODE.fullmatch(text) or int(text, 8) & 0o007:
        raise refused(allowed, "take the last digit's rights away: a private key is nobody else's")
    return int(text, 8)


def _open_text(value: object) -> str:
    allowed = "text without a secret in it"
    text = _text(value, allowed, "write text")
    if holds_secret(text):
        raise refused(allowed, "put the secret into a file and name the file")
    if not text or "\0" in text:
        raise refused("text that is not empty", "write it or remove it")
    return text


def _written(duration: timedelta) -> str:
    seconds, rest = divmod(duration, timedelta(seconds=1))
    text = written(timedelta(seconds=seconds)) if seconds or not rest else ""
    return f"{text}{rest // timedelta(milliseconds=1)}ms" if rest else text


def _octal(mode: int) -> str:
    return f"{mode:04o}"


def _offset(zone: timedelta) -> str:
    minutes = zone // timedelta(minutes=1)
    return f"{'-' if minutes < 0 else '+'}{abs(minutes) // 60:02}:{abs(minutes) % 60:02}" if minutes else "UTC"


def _schema(pattern: str | None, *examples: str, **more: str | int) -> WithJsonSchema:
    schema: dict[str, Any] = {"type": "string", "examples": list(examples), **more}
    if pattern is not None:
        schema["pattern"] = pattern
    return WithJsonSchema(schema)


_AS_WRITTEN: Final = PlainSerializer(_written, return_type=str)
_DURATION_SCHEMA: Final = _schema(DURATION_PATTERN, "90s", "12h", "7d", minLength=2)
Duration = Annotated[timedelta, BeforeValidator(_duration), _AS_WRITTEN, _DURATION_SCHEMA]
"""May be 0s."""
PositiveDuration = Annotated[timedelta, BeforeValidator(_positive), _AS_WRITTEN, _DURATION_SCHEMA]
Lifetime = Annotated[timedelta, BeforeValidator(_whole), _AS_WRITTEN, _DURATION_SCHEMA]
"""A duration in whole seconds, longer than 0s."""
Ratio = Annotated[
    float,
    BeforeValidator(_ratio),
    WithJsonSchema(
        {
            "anyOf": [
                {"type": "string", "pattern": r"^\d{1,3}(\.\d{1,3})?%$", "examples": ["50%"]},
                {"type": "number", "exclusiveMinimum": 0, "exclusiveMaximum": 1},
            ]
        }
    ),
]
_PATH_SCHEMA: Final = _schema(r"^/", "/etc/rotator/ca.pem")
AbsolutePath = Annotated[Path, BeforeValidator(_path), _PATH_SCHEMA]
SecretFile = Annotated[Path, BeforeValidator(_secret_file), _PATH_SCHEMA]
"""The path of a file that holds a secret, never the secret."""
HTTPURL = Annotated[str, BeforeValidator(_http_url), _schema(r"^https?://", "https://vault.example:8200")]
WebURL = Annotated[str, BeforeValidator(_web_url), _schema(r"^https?://", "http://alertmanager.monitoring.svc:9093")]
"""May be plain HTTP anywhere: no credentials go there, and nothing that comes back is trusted."""
StoreURL = Annotated[
    str, BeforeValidator(_store_url), _schema(r"^(sqlite:////|postgresql\+psycopg://)", "sqlite:////var/lib/x.db")
]
Endpoint = Annotated[str, BeforeValidator(_endpoint), _schema(r":\d{1,5}$", "127.0.0.1:8443")]
SPIFFEID = Annotated[str, BeforeValidator(_spiffe_id), _schema(r"^spiffe://[a-z0-9._-]+/", "spiffe://prod/web")]
DNSName = Annotated[str, BeforeValidator(_dns_name), _schema(None, "web.example", maxLength=_LONGEST_DNS_NAME)]
Moment = Annotated[datetime, BeforeValidator(_moment), _schema(None, "2026-12-20T00:00:00Z", format="date-time")]
TimeOfDay = Annotated[time, BeforeValidator(_time_of_day), _schema(r"^([01]\d|2[0-3]):[0-5]\d$", "01:00")]
Zone = Annotated[
    timedelta,
    BeforeValidator(_zone),
    PlainSerializer(_offset, return_type=str),
    _schema(r"^(UTC|Z|[+-]\d{2}:\d{2})$", "UTC", "+02:00"),
]
"""As the offset from UTC."""
FileMode = Annotated[
    int, BeforeValidator(_mode), PlainSerializer(_octal, return_type=str), _schema(r"^0?[0-7]{2}0$", "0640")
]
Name = Annotated[
    str,
    BeforeValidator(
        _matching(_NAME, "a name of letters, digits, dots, dashes and underscores, at most 63", "choose such a name")
    ),
    _schema(f"^{_NAME.pattern}$", "airflow-worker"),
]
TrustDomainKey = Annotated[
    str,
    BeforeValidator(
        _matching(
            _TRUST_DOMAIN,
            "a SPIFFE trust domain of lower-case letters, digits, dots, dashes and underscores",
            "write it without spiffe:// and without a path",
        )
    ),
    _schema(f"^{_TRUST_DOMAIN.pattern}$", "airflow.prod"),
]
Mount = Annotated[
    str,
    BeforeValidator(_matching(_MOUNT, "a Vault mount path", "write it without leading or final slash, as pki_int")),
    _schema(f"^{_MOUNT.pattern}$", "pki_int"),
]
GroupName = Annotated[
    str,
    BeforeValidator(_matching(_GROUP, "the name of a Unix user or group", "write the name, not a number")),
    _schema(None, "rotator"),
]
KubernetesName = Annotated[
    str,
    BeforeValidator(
        _matching(
            re.compile(_DNS_LABEL),
            "a name of lower-case letters, digits and dashes, at most 63, as Kubernetes has them",
            "write the name as it stands there",
        )
    ),
    _schema(f"^{_DNS_LABEL}$", "kuma-system"),
]
OpenText = Annotated[str, BeforeValidator(_open_text), _schema(None, "text", minLength=1)]
KubernetesObjectName = Annotated[
    str,
    BeforeValidator(
        _matching(
            # Nine characters are left for what stands beside an object (-previous).
            re.compile(rf"(?=.{{1,244}}$)(?:{_DNS_LABEL}\.)*{_DNS_LABEL}"),
            "a name of lower-case letters, digits, dashes and dots, at most 244, as Kubernetes has them",
            "write the name as it stands there",
        )
    ),
    _schema(f"^({_DNS_LABEL}[.])*{_DNS_LABEL}$", "airflow-worker-tls", maxLength=244),
]
_QUALIFIED: Final = r"(?:[a-z0-9](?:[a-z0-9.-]{0,251}[a-z0-9])?/)?[A-Za-z0-9](?:[A-Za-z0-9._-]{0,61}[A-Za-z0-9])?"
KubernetesKey = Annotated[
    str,
    BeforeValidator(
        _matching(
            re.compile(rf"(?!rotator\.io/){_QUALIFIED}"),
            "the name of a Kubernetes label or annotation, not below rotator.io/",
            "write PREFIX/NAME or NAME",
        )
    ),
    _schema(f"^{_QUALIFIED}$".replace("?:", ""), "example.com/team"),
]
"""Of a label or annotation."""
LabelValue = Annotated[
    str,
    BeforeValidator(
        _matching(
            re.compile(r"(?:[A-Za-z0-9](?:[A-Za-z0-9._-]{0,61}[A-Za-z0-9])?)?"),
            "a Kubernetes label's value: letters, digits, dots, dashes and underscores, at most 63",
            "shorten it, or make it an annotation",
        )
    ),
    _schema(r"^([A-Za-z0-9]([A-Za-z0-9._-]{0,61}[A-Za-z0-9])?)?$", "platform"),
]
ContentKey = Annotated[
    str,
    BeforeValidator(
        _matching(
            re.compile(r"[-._A-Za-z0-9]{1,253}"),
            "a key of letters, digits, dots, dashes and underscores",
            "write the file name that consumers open",
        )
    ),
    _schema(r"^[-._A-Za-z0-9]{1,253}$", "ca.crt"),
]
