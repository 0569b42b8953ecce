"""
Whether Envoy's role-based access control lets a caller in, read off the filters of one inbound.

Rules that must stay true here:

- Pure, and three answers: yes, no, and not to be told from here. What is not understood is never taken for a yes.
- Every filter of the chain has its say: one that refuses is enough.
- A certificate of several URIs counts with each of them, as Envoy has it.

Both forms are read: ``rules`` (policies of principals), and ``matcher`` (a tree over the certificate's URIs), which
Kuma writes for ``rules`` of a MeshTrafficPermission.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from rotator.adapters.kuma.dump import TYPE, get, is_there, items, value
from rotator.platform.call import Decision

_RBAC = ("network.rbac.v3.RBAC", "http.rbac.v3.RBAC")
_URIS = ("UriSanInput",)


def rbac_filters(chain: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Return the configuration of every filter for access control in a filter chain, those for HTTP too."""
    found = []
    for each in items(chain, "filters"):
        typed = get(each, "typed_config")
        if str(typed.get(TYPE, "")).endswith(_RBAC):
            found.append(typed)
        for inner in items(typed, "http_filters"):
            within = get(inner, "typed_config")
            if str(within.get(TYPE, "")).endswith(_RBAC):
                found.append(within)
    return found


def decision(filters: Sequence[Mapping[str, Any]], names: Sequence[str]) -> Decision | None:
    """Return what *filters* say of a caller with *names* in its certificate; None: there are none, or who knows."""
    found = [_filter(each, names) for each in filters]
    refused = next((each for each in found if each is not None and not each.admitted), None)
    if refused is not None:
        return refused
    if not found or any(each is None for each in found):
        return None
    return Decision(admitted=True, by=tuple(name for each in found if each is not None for name in each.by))


def _filter(rbac: Mapping[str, Any], names: Sequence[str]) -> Decision | None:
    if is_there(rbac, "matcher"):
        return _matched(get(rbac, "matcher"), names)
    if not is_there(rbac, "rules"):
        return Decision(admitted=True)
    rules = get(rbac, "rules")
    denies = str(rules.get("action", "ALLOW")) == "DENY"
    policies = get(rules, "policies")
    answers = {str(name): _policy(policy, names) for name, policy in policies.items() if isinstance(policy, Mapping)}
    hits = tuple(name for name, answer in answers.items() if answer)
    if not hits and None in answers.values():
        return None
    if denies:
        return Decision(admitted=not hits, by=hits, denied=bool(hits))
    return Decision(admitted=bool(hits), by=hits)


def _policy(policy: Mapping[str, Any], names: Sequence[str]) -> bool | None:
    permissions = items(policy, "permissions")
    # What is permitted is everything; narrower permissions hang on the request, which nobody has seen.
    if not any(each.get("any") is True for each in permissions):
        return None
    return _any(_principal(each, names) for each in items(policy, "principals"))


def _principal(principal: Mapping[str, Any], names: Sequence[str]) -> bool | None:
    if principal.get("any") is True:
        return True
    if is_there(principal, "authenticated"):
        wanted = get(get(principal, "authenticated"), "principal_name")
        return True if not wanted else _any(_text(wanted, name) for name in names)
    if is_there(principal, "and_ids"):
        return _all(_principal(each, names) for each in items(get(principal, "and_ids"), "ids"))
    if is_there(principal, "or_ids"):
        return _any(_principal(each, names) for each in items(get(principal, "or_ids"), "ids"))
    if is_there(principal, "not_id"):
        return _not(_principal(get(principal, "not_id"), names))
    return None


# --- trees of matchers ------------------------------------------------------------------------------------------------


def _matched(matcher: Mapping[str, Any], names: Sequence[str]) -> Decision | None:
    for each in items(get(matcher, "matcher_list"), "matchers"):
        answer = _predicate(get(each, "predicate"), names)
        if answer is None:
            return None
        if answer:
            return _action(get(each, "on_match"), names)
    if not is_there(matcher, "on_no_match"):
        return Decision(admitted=False)
    return _action(get(matcher, "on_no_match"), names)


def _action(said: Mapping[str, Any], names: Sequence[str]) -> Decision | None:
    if is_there(said, "matcher"):
        return _matched(get(said, "matcher"), names)
    typed = get(get(said, "action"), "typed_config")
    if not typed:
        return None
    admitted = str(typed.get("action", "ALLOW")) == "ALLOW"
    name = str(typed.get("name", ""))
    named = (name,) if name and name != "default" else ()
    return Decision(admitted=admitted, by=named, denied=not admitted and bool(named))


def _predicate(predicate: Mapping[str, Any], names: Sequence[str]) -> bool | None:
    if is_there(predicate, "single_predicate"):
        single = get(predicate, "single_predicate")
        if not str(get(get(single, "input"), "typed_config").get(TYPE, "")).endswith(_URIS):
            return None
        return _any(_text(get(single, "value_match"), name) for name in names)
    if is_there(predicate, "or_matcher"):
        return _any(_predicate(each, names) for each in items(get(predicate, "or_matcher"), "predicate"))
    if is_there(predicate, "and_matcher"):
        return _all(_predicate(each, names) for each in items(get(predicate, "and_matcher"), "predicate"))
    if is_there(predicate, "not_matcher"):
        return _not(_predicate(get(predicate, "not_matcher"), names))
    return None


def _text(wanted: Mapping[str, Any], text: str) -> bool | None:
    for key, holds in (("exact", text.__eq__), ("prefix", text.startswith), ("suffix", text.endswith)):
        said = value(wanted, key)
        if isinstance(said, str):
            return bool(holds(said))
    contained = value(wanted, "contains")
    if isinstance(contained, str):
        return contained in text
    pattern = get(wanted, "safe_regex").get("regex")
    if isinstance(pattern, str):
        try:
            return re.fullmatch(pattern, text) is not None
        except re.error:
            return None
    return None


# --- three answers ----------------------------------------------------------------------------------------------------


def _any(answers: Iterable[bool | None]) -> bool | None:
    unknown = False
    for each in answers:
        if each:
            return True
        unknown = unknown or each is None
    return None if unknown else False


def _all(answers: Iterable[bool | None]) -> bool | None:
    return _not(_any(_not(each) for each in answers))


def _not(answer: bool | None) -> bool | None:  # noqa: FBT001 -- one of three answers
    return None if answer is None else not answer
