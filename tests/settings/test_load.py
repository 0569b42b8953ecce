"""From a person's file to settings: every mistake with its line, key, what was found, what is allowed, what to do."""

from __future__ import annotations

from datetime import UTC, datetime, time, timedelta
from pathlib import Path

import pytest

from rotator.core.model import AtDeadline, KeyType
from rotator.core.window import Budget, MaintenanceWindow
from rotator.errors import ConfigError
from rotator.settings import (
    authority_policy,
    calendar,
    leaf_policy,
    load,
    managed_certificate,
    policy_sha256,
    rollout_policy,
)

BASE = """\
version: 1
environment: test
store: sqlite:////var/lib/rotator/state.db
socket: /run/rotator/control.sock
ledger: {path: /var/lib/rotator/ledger, origin: example/test, signing_key_file: /etc/rotator/ledger.key}
timing: {skew: 5s}
limits: {threads: 4}
issuers:
  corporate: {vault: {address: "https://vault.example:8200",auth: {token: {token_file: /t}}, mount: pki_int, issuer: c}}
trust_domains:
  prod:
    issuer: corporate
    ca: {mount: pki_prod, role: workload, lifetime: 7d}
    longest_leaf: 12h
    trust_deadline: {after: 2h}
certificates:
  web:
    trust_domain: prod
    identity: spiffe://prod/web
    lifetime: 12h
    publish: [{directory: /etc/web/tls}]
    probes: [{envoy_admin: "http://127.0.0.1:9901"}]
  worker:
    trust_domain: prod
    identity: spiffe://prod/worker
    lifetime: 12h
    publish: [{directory: {path: /etc/worker/tls}}]
    rolls: [workers]
workloads:
  workers:
    processes:
      - {name: one, unit: one.service, node: celery@one}
      - {name: two, command: [/bin/worker], pid_file: /run/two.pid, log_file: /var/log/two.log, node: celery@two}
    drain: {celery: {broker_file: /etc/broker, deadline: 3h}}
"""


def written(tmp_path: Path, *changes: tuple[str, str]) -> Path:
    """Write the good file with *changes* (old text, new text) and return its path."""
    text = BASE
    for old, new in changes:
        assert text.count(old) == 1, f"{old!r} stands {text.count(old)} times in the good file"
        text = text.replace(old, new)
    path = tmp_path / "rotator.yaml"
    path.write_text(text)
    return path


def complaints(path: Path) -> list[str]:
    """Return the lines of the error that loading *path* ends in, without the file's name."""
    with pytest.raises(ConfigError) as caught:
        load(path)
    return [line.removeprefix(f"{path}:") for line in str(caught.value).splitlines()]


DURATION = "allowed a duration such as 90s, 12h, 7d or 1h30m"
ONE_KEY = {
    "a bare number": (
        ("skew: 5s", "skew: 90"),
        f"6: timing.skew: found 90; {DURATION}; do add the unit, as in 90s",
    ),
    "small unit first": (
        ("skew: 5s", "skew: 30m1h"),
        f"6: timing.skew: found 30m1h; {DURATION}; do write number and unit, the largest unit first",
    ),
    "a negative duration": (
        ("skew: 5s", "skew: -5s"),
        f"6: timing.skew: found -5s; {DURATION}; do write number and unit, the largest unit first",
    ),
    "no time at all": (
        ("longest_leaf: 12h", "longest_leaf: 0s"),
        "14: trust_domains.prod.longest_leaf: found 0s; allowed a duration longer than 0s; do write a longer one",
    ),
    "a part of a second": (
        ("longest_leaf: 12h", "longest_leaf: 1s500ms"),
        (
            "14: trust_domains.prod.longest_leaf: found 1s500ms; allowed whole seconds, because certificates know no "
            "smaller ones; do round it"
        ),
    ),
    "more than a century": (
        ("skew: 5s", "skew: 999999999d"),
        f"6: timing.skew: found 999999999d; {DURATION}; do write number and unit, the largest unit first",
    ),
    "an unknown key": (
        ("{threads: 4}", "{threads: 4, thread: 5}"),
        (
            "7: limits.thread: found an unknown key; allowed threads, vault_requests_per_second, "
            "issuances_per_subject, "
            "stop_within; do write threads"
        ),
    ),
    "a secret in the file": (
        ("token_file: /t", "token: hvs.CAESIJ1234567890abcdefghij"),
        (
            "9: issuers.corporate.vault.auth.token.token: found an unknown key; allowed token_file; "
            "do put the secret into a file and name it as token_file\n"
            "9: issuers.corporate.vault.auth.token.token_file: found nothing; allowed token_file (File that holds "
            "the token; "
            "read again when it changes); do add it"
        ),
    ),
    "a secret as a path": (
        ("token_file: /t", "token_file: hvs.CAESIJ1234567890abcdefghij"),
        (
            "9: issuers.corporate.vault.auth.token.token_file: found [removed]; allowed the path of a file that "
            "holds the "
            "secret; do put the secret into a file and name the file"
        ),
    ),
    "a missing key": (
        ("    longest_leaf: 12h\n", ""),
        (
            "11: trust_domains.prod.longest_leaf: found nothing; allowed longest_leaf (No leaf of this trust domain "
            "lives "
            "longer); do add it"
        ),
    ),
    "no whole number": (
        ("threads: 4", "threads: four"),
        "7: limits.threads: found four; allowed a whole number; do write digits alone",
    ),
    "too many": (
        ("threads: 4", "threads: 1000"),
        "7: limits.threads: found 1000; allowed a number of at most 256; do change it",
    ),
    "another version": (
        ("version: 1", "version: 2"),
        "1: version: found 2; allowed 1; do choose one",
    ),
    "an unknown word": (
        ("{after: 2h}", "{after: 2h, then: explode}"),
        "15: trust_domains.prod.trust_deadline.then: found explode; allowed hold, proceed; do choose one",
    ),
    "a key type that does not exist": (
        ("lifetime: 7d}", "lifetime: 7d, key: dsa}"),
        (
            "13: trust_domains.prod.ca.key: found dsa; allowed ecdsa-p256, ecdsa-p384, rsa-2048, rsa-3072, ed25519; "
            "do choose one"
        ),
    ),
    "a share above one": (
        ("lifetime: 7d}", "lifetime: 7d, renew_at: 150%}"),
        (
            "13: trust_domains.prod.ca.renew_at: found 150%; allowed a share between 0 and 1, as 50% or 0.5; "
            "do choose one in between"
        ),
    ),
    "a mapping where a list stands": (
        ('probes: [{envoy_admin: "http://127.0.0.1:9901"}]', "probes: {read_back: {}}"),
        (
            "22: certificates.web.probes: found a mapping of read_back; allowed a list; do write it in brackets, "
            "as [one, two]"
        ),
    ),
    "text where a mapping stands": (
        ("timing: {skew: 5s}", "timing: fast"),
        "6: timing: found fast; allowed a mapping; do indent its keys below it",
    ),
    "two ways to log in": (
        ("{token: {token_file: /t}}", "{token: {token_file: /t}, cert: {cert_file: /c, key_file: /k}}"),
        (
            "9: issuers.corporate.vault.auth: found a mapping of token, cert; allowed exactly one of approle | token | "
            "kubernetes | jwt | cert; do choose one"
        ),
    ),
    "no way to log in": (
        ("{token: {token_file: /t}}", "{}"),
        (
            "9: issuers.corporate.vault.auth: found an empty mapping; allowed exactly one of approle | token | "
            "kubernetes | "
            "jwt | cert; do name one"
        ),
    ),
    "a relative path": (
        ("directory: /etc/web/tls", "directory: tls"),
        (
            "21: certificates.web.publish[0].directory: found tls; allowed an absolute path; do write the path from "
            "the "
            "root on, as /etc/rotator/..."
        ),
    ),
    "a path upwards": (
        ("directory: /etc/web/tls", "directory: /etc/web/../tls"),
        (
            "21: certificates.web.publish[0].directory: found /etc/web/../tls; allowed a path without ..; do write "
            "where "
            "it really is"
        ),
    ),
    "a key that everybody reads": (
        ("{path: /etc/worker/tls}", "{path: /etc/worker/tls, key_mode: 0644}"),
        (
            "27: certificates.worker.publish[0].directory.key_mode: found 0644; allowed an octal file mode such as "
            "0640, "
            "without rights for others; do take the last digit's rights away: a private key is nobody else's"
        ),
    ),
    "plain http to a Vault elsewhere": (
        ("https://vault.example:8200", "http://vault.example:8200"),
        (
            "9: issuers.corporate.vault.address: found http://vault.example:8200; allowed https://HOST[:PORT], or "
            "http:// "
            "on this machine; do use https: what is said there decides who is trusted"
        ),
    ),
    "a password in an address": (
        ("https://vault.example:8200", "https://me:secret@vault.example:8200"),
        (
            "9: issuers.corporate.vault.address: found https://[removed]@vault.example:8200; allowed "
            "https://HOST[:PORT], "
            "or http:// on this machine, without a user or password; do take them out of the address"
        ),
    ),
    "a password in the store's address": (
        ("sqlite:////var/lib/rotator/state.db", "postgresql+psycopg://me:secret@db.example/rotator"),
        (
            "3: store: found postgresql+psycopg://[removed]@db.example/rotator; allowed a PostgreSQL address without a "
            "password; do put it into a .pgpass file and add ?passfile=/ABSOLUTE/PATH"
        ),
    ),
    "a relative database": (
        ("sqlite:////var", "sqlite:///var"),
        (
            "3: store: found sqlite:///var/lib/rotator/state.db; allowed sqlite:////ABSOLUTE/PATH or "
            "postgresql+psycopg://HOST/DATABASE; do write four slashes and the path from the root on, without options"
        ),
    ),
    "another database": (
        ("sqlite:////var/lib/rotator/state.db", "mysql://db/rotator"),
        (
            "3: store: found mysql://db/rotator; allowed sqlite:////ABSOLUTE/PATH or "
            "postgresql+psycopg://HOST/DATABASE; "
            "do write one of them"
        ),
    ),
    "no SPIFFE ID": (
        ("identity: spiffe://prod/web", "identity: spiffe://Prod/web"),
        (
            "19: certificates.web.identity: found spiffe://Prod/web; allowed a SPIFFE ID, as "
            "spiffe://TRUST-DOMAIN/PATH; "
            "do use letters, digits, dot, dash and underscore between slashes"
        ),
    ),
    "a SPIFFE ID that walks": (
        ("identity: spiffe://prod/web", "identity: spiffe://prod/../web"),
        (
            "19: certificates.web.identity: found spiffe://prod/../web; allowed a SPIFFE ID, as "
            "spiffe://TRUST-DOMAIN/PATH "
            "without empty, . or .. parts; do use letters, digits, dot, dash and underscore between slashes"
        ),
    ),
    "an address as a name": (
        ("identity: spiffe://prod/web", "identity: spiffe://prod/web\n    dns_names: [10.0.0.1]"),
        (
            "20: certificates.web.dns_names[0]: found 10.0.0.1; allowed a lower-case DNS name, at most one * as its "
            "first "
            "label; do write the name, in lower case, without a final dot"
        ),
    ),
    "an empty list of places": (
        ("publish: [{directory: /etc/web/tls}]", "publish: []"),
        "21: certificates.web.publish: found an empty list; allowed at least 1 entries; do change it",
    ),
    "a trust domain with a scheme": (
        ("\n  prod:\n", "\n  spiffe://prod:\n"),
        (
            "11: trust_domains.spiffe://prod: found a mapping of issuer, ca, longest_leaf, trust_deadline; allowed a "
            "SPIFFE "
            "trust domain of lower-case letters, digits, dots, dashes and underscores; do write it without spiffe:// "
            "and "
            "without a path"
        ),
    ),
}


@pytest.mark.parametrize(("change", "expected"), ONE_KEY.values(), ids=ONE_KEY)
def test_one_wrong_key_is_one_line(tmp_path: Path, change: tuple[str, str], expected: str) -> None:
    """A wrong value is one line: where, what was found, what is allowed, what to do; never a secret."""
    assert expected.splitlines() == complaints(written(tmp_path, change))


CROSS = {
    "an unknown issuer": (
        ("issuer: corporate", "issuer: corp"),
        (
            "12: trust_domains.prod.issuer: found corp; allowed what stands under issuers (corporate); do mend the "
            "name or "
            "add it there"
        ),
    ),
    "an unknown workload": (
        ("rolls: [workers]", "rolls: [workers, others]"),
        (
            "28: certificates.worker.rolls[1]: found others; allowed what stands under workloads (workers); do mend "
            "the "
            "name or add it there"
        ),
    ),
    "an unknown further trust domain": (
        ("identity: spiffe://prod/web", "identity: spiffe://prod/web\n    also_trust: [batch]"),
        (
            "20: certificates.web.also_trust[0]: found batch; allowed what stands under trust_domains (prod); do "
            "mend the "
            "name or add it there"
        ),
    ),
    "its own trust domain again": (
        ("identity: spiffe://prod/web", "identity: spiffe://prod/web\n    also_trust: [prod]"),
        "20: certificates.web.also_trust[0]: found prod again; allowed further trust domains, each once; do remove it",
    ),
    "an identity outside": (
        ("identity: spiffe://prod/web", "identity: spiffe://other/web"),
        (
            "19: certificates.web.identity: found spiffe://other/web; allowed an identity in spiffe://prod/; do mend "
            "it or "
            "the trust_domain"
        ),
    ),
    "a leaf that lives too long": (
        ("identity: spiffe://prod/web\n    lifetime: 12h", "identity: spiffe://prod/web\n    lifetime: 13h"),
        (
            "20: certificates.web.lifetime: found 13h; allowed at most longest_leaf 12h of prod; do shorten it, or "
            "lengthen "
            "longest_leaf and the CA (law 4)"
        ),
    ),
    "the issuer's own mount": (
        ("mount: pki_prod", "mount: pki_int"),
        (
            "13: trust_domains.prod.ca.mount: found pki_int, the mount of issuer corporate; allowed a mount of its "
            "own; "
            "do make one for this trust domain, so that its policy can fix path length and lifetime"
        ),
    ),
    "proceeding without a number": (
        ("{after: 2h}", "{after: 2h, then: proceed}"),
        (
            "15: trust_domains.prod.trust_deadline.at_most: found 0 with then: proceed; allowed a number from 1 on; "
            "do say "
            "how many may be left behind, or write then: hold"
        ),
    ),
    "holding with a number": (
        ("{after: 2h}", "{after: 2h, at_most: 3}"),
        (
            "15: trust_domains.prod.trust_deadline.at_most: found 3 with then: hold; allowed 0; do write then: "
            "proceed, or "
            "remove it"
        ),
    ),
    "one directory for two": (
        ("/etc/worker/tls", "/etc/web//tls"),
        (
            "27: certificates.worker.publish[0].directory: found /etc/web/tls, which certificate web uses; allowed a "
            "directory for each certificate; do choose another directory"
        ),
    ),
    "nothing proves its use": (
        ('    probes: [{envoy_admin: "http://127.0.0.1:9901"}]\n', ""),
        (
            "17: certificates.web: found neither probes nor rolls; allowed at least one; do name a probe, because "
            "nothing "
            "could prove that a new certificate is in use (law 16)"
        ),
    ),
    "nothing sees the bundle": (
        ('{envoy_admin: "http://127.0.0.1:9901"}', "{tls: 127.0.0.1:8443}"),
        (
            "22: certificates.web.probes: found nothing that sees which CAs the consumer trusts; allowed envoy_admin, "
            "report, read_back, or tls with presents; do add one, because every CA rotation would wait for its "
            "acknowledgement (law 1)"
        ),
    ),
    "presents a stranger": (
        (
            '{envoy_admin: "http://127.0.0.1:9901"}',
            "{tls: {address: 127.0.0.1:8443, presents: spiffe://other/x}}",
        ),
        (
            "22: certificates.web.probes[0].tls.presents: found spiffe://other/x; allowed an identity in a trust "
            "domain "
            "that the consumer trusts (prod); do name one that it admits"
        ),
    ),
    "the log's key in the log": (
        ("signing_key_file: /etc/rotator/ledger.key", "signing_key_file: /var/lib/rotator/ledger/key"),
        (
            "5: ledger.signing_key_file: found a file inside the log's directory; allowed one outside; do move it, "
            "because "
            "the log is given away"
        ),
    ),
    "a name outside the constraints": (
        (
            "lifetime: 7d}\n    longest_leaf: 12h\n    trust_deadline: {after: 2h}\ncertificates:\n  web:\n",
            (
                "lifetime: 7d, name_constraints: {permitted_dns: [example]}}\n    longest_leaf: 12h\n"
                "    trust_deadline: {after: 2h}\ncertificates:\n  web:\n    dns_names: [a.example, notexample]\n"
            ),
        ),
        (
            "18: certificates.web.dns_names[1]: found notexample; allowed what is in or below example; do mend it or "
            "the "
            "CA's name_constraints"
        ),
    ),
    "a drain longer than the leaf": (
        ("deadline: 3h", "deadline: 7h"),
        (
            "23: certificates.worker.renew_at: found that a leaf of 12h would open for renewal 6h after issue, but its "
            "safety line is 12h - max(1h12m, budget 7h5m40s) = 4h54m20s after issue (budget: issue 5s + publish 5s + "
            "drain "
            "7h + proof 30s + retry_budget 5m = 7h5m40s); allowed an opening before the safety line; do renew earlier, "
            "lengthen lifetime, or shorten timing or the drain's deadline"
        ),
    ),
    "a breaker for ordinary renewals": (
        ("{threads: 4}", "{issuances_per_subject: {count: 2, within: 1d}}"),
        (
            "7: limits.issuances_per_subject.count: found 2 within 1d; allowed at least 10, because web is renewed "
            "every 4h48m or later and reissued when what signs it changes; do raise it, or the breaker would stop "
            "ordinary renewals"
        ),
    ),
    "a Secret": (
        ("{directory: /etc/web/tls}", "{kubernetes_secret: {namespace: a, name: b}}"),
        (
            "21: certificates.web.publish[0].kubernetes_secret: found an object of a cluster, and no cluster; "
            "allowed with cluster; do add cluster, which may be empty ({}) in a pod"
        ),
    ),
    "a Lease beside a file": (
        ("limits: {threads: 4}", "cluster: {lease: {}}"),
        (
            "7: cluster.lease: found a Lease beside a SQLite file, which no other replica can reach; allowed with "
            "PostgreSQL; do remove it (the file's own lock is enough), or move the store to PostgreSQL"
        ),
    ),
    "approvals by number of words": (
        ("limits: {threads: 4}", "approval: {rules: [{name: n, approvals: 0}]}"),
        "7: approval.rules[0].approvals: found 0; allowed a number of at least 1; do change it",
    ),
    "approvals for nobody": (
        ("limits: {threads: 4}", "approval: {rules: [{name: n, subjects: [we*, mail]}]}"),
        (
            "7: approval.rules[0].subjects[1]: found mail; allowed what stands under certificates, trust_domains, "
            "tokens or signing_keys "
            "(prod, web, worker); do mend the name or add it there"
        ),
    ),
    "two rules of one name": (
        ("limits: {threads: 4}", "approval: {rules: [{name: n}, {name: n}]}"),
        "7: approval.rules[1].name: found n again; allowed each name once; do rename one of them",
    ),
    "a rule for no operation": (
        ("limits: {threads: 4}", "approval: {rules: [{name: n, operations: []}]}"),
        ("7: approval.rules[0].operations: found nothing; allowed at least one; do name it, or leave the key out"),
    ),
    "thresholds the wrong way round": (
        ("limits: {threads: 4}", "alerts: {expiry_ratio_warning: 96%}"),
        "7: alerts.expiry_ratio_warning: found 0.96; allowed less than expiry_ratio_critical 0.95; do lower it",
    ),
    "a window for nobody": (
        ("limits: {threads: 4}", "windows: [{name: n, subjects: [prod, mail], from: 01:00, for: 4h}]"),
        (
            "7: windows[0].subjects[1]: found mail; allowed what stands under certificates, trust_domains, "
            "tokens or signing_keys (prod, "
            "web, "
            "worker); do mend the name or add it there"
        ),
    ),
    "a freeze that ends before it begins": (
        (
            "limits: {threads: 4}",
            "freezes: [{name: n, from: 2030-01-02T00:00:00Z, until: 2030-01-01T00:00:00Z}]",
        ),
        "7: freezes[0].until: found a moment that is not after from; allowed a later one; do mend it",
    ),
    "a command without its files": (
        (", pid_file: /run/two.pid", ""),
        (
            "33: workloads.workers.processes[1].pid_file: found nothing; allowed an absolute path; do add it: a "
            "command "
            "needs one"
        ),
    ),
    "both unit and command": (
        ("unit: one.service", "unit: one.service, command: [/bin/x], pid_file: /p, log_file: /l"),
        "32: workloads.workers.processes[0]: found both unit and command; allowed exactly one of them; do choose one",
    ),
    "a secret for a process": (
        ("command: [/bin/worker]", "command: [/bin/worker], environment: {DB_PASSWORD: x}"),
        (
            "33: workloads.workers.processes[1].environment.DB_PASSWORD: found a variable that is named like a secret; "
            "allowed open text; do let the program read the secret from a file"
        ),
    ),
    "no Celery node": (
        ("node: celery@one", "node: one"),
        (
            "32: workloads.workers.processes[0].node: found one; allowed a Celery node name, as celery@worker-1; do "
            "write "
            "the name that the worker is started with"
        ),
    ),
    "one process id file for two": (
        ("{name: one, unit: one.service,", "{name: one, command: [/bin/x], log_file: /l, pid_file: /run/two.pid,"),
        (
            "33: workloads.workers.processes[1].pid_file: found /run/two.pid, which workers/one has; allowed each "
            "once; "
            "do mend one of them"
        ),
    ),
    "a workload that nobody rolls": (
        ("    rolls: [workers]\n", "    probes: [{read_back: {}}]\n"),
        (
            "30: workloads.workers: found a workload that no certificate rolls; allowed those in use; do name it in "
            "rolls, "
            "or remove it"
        ),
    ),
    "a cluster's workload": (
        ("    processes:\n", "    statefulset: {namespace: a, name: b}\n    processes:\n"),
        (
            "30: workloads.workers: found processes and statefulset; allowed exactly one of processes, statefulset, "
            "deployment; "
            "do choose one\n"
            "31: workloads.workers.statefulset: found a statefulset, and no cluster; allowed with cluster; do add "
            "cluster, which may be empty ({}) in a pod"
        ),
    ),
    "more of what nobody makes": (
        ("    processes:\n", "    surge: 1\n    processes:\n"),
        (
            "31: workloads.workers.surge: found 1 and 0 processes with spare: true; allowed at most as many as those; "
            "do mark a process that runs only for the time of a roll, or lower it"
        ),
    ),
    "a roll that never begins": (
        ("    processes:\n", "    max_unavailable: 0\n    processes:\n"),
        (
            "31: workloads.workers.max_unavailable: found 0 without surge; allowed 1 or more, or 0 with a surge of 1 "
            "or more; do raise one of them: no member could ever be replaced"
        ),
    ),
    "a shared name": (
        ("  web:\n", "  prod:\n"),
        (
            "17: certificates.prod: found prod, also a trust domain's name; allowed names of their own; do rename "
            "one of "
            "them"
        ),
    ),
}


@pytest.mark.parametrize(("change", "expected"), CROSS.values(), ids=CROSS)
def test_what_cannot_work_together_is_refused(tmp_path: Path, change: tuple[str, str], expected: str) -> None:
    """References, arithmetic and what is not built yet: refused, one line each."""
    assert expected.splitlines() == complaints(written(tmp_path, change))


def test_task_pods_need_a_deadline_that_outlasts_their_certificate(tmp_path: Path) -> None:
    """A new CA has to wait until their certificates have ended: a shorter deadline would hold every rotation."""
    asked = ("    rolls: [workers]\n", "    rolls: [workers]\n    task_pods: true\n")
    (found,) = [each for each in complaints(written(tmp_path, asked)) if "task_pods" in each]
    assert "prod has a trust_deadline of 2h; allowed a deadline of at least lifetime and skew, " in found
    longer = ("{after: 2h}", "{after: 13h}")
    assert [True] == [
        each.task_pods for each in load(written(tmp_path, asked, longer)).certificates.values() if each.rolls
    ]


def test_a_drained_deployment_has_no_surge(tmp_path: Path) -> None:
    """Which pod goes with the number is its controller's choice; a StatefulSet's is known."""
    for kind in ("deployment", "statefulset"):
        surging = f"    surge: 1\n    max_unavailable: 0\n    {kind}: {{namespace: a, name: b}}\n    processes:\n"
        found = [each for each in complaints(written(tmp_path, ("    processes:\n", surging))) if "drained" in each]
        assert (kind == "deployment") == bool(found)


def test_law_04_arithmetic_is_shown_at_load(tmp_path: Path) -> None:
    """A CA too short for its leaves is refused at load, and the line holds the numbers."""
    found = complaints(written(tmp_path, ("lifetime: 7d}", "lifetime: 2d}")))
    assert (
        "13: trust_domains.prod.ca: found that lifetime 2d is less than 6 x longest_leaf 12h = 3d; allowed what keeps "
        "law 4 (a leaf never outlives its CA); do lengthen the CA's lifetime, or shorten longest_leaf, trust_deadline "
        "or timing"
    ) == found[0]


def test_law_04_successor_has_time(tmp_path: Path) -> None:
    """A trust deadline that leaves a new CA too little life is refused with both sums."""
    found = "\n".join(complaints(written(tmp_path, ("{after: 2h}", "{after: 3d}"))))
    assert "2 x longest_leaf 12h + 2 x trust_deadline 3d + skew 5s + retry_budget 5m = 7d5m5s are needed" in found


def test_everything_is_said_at_once(tmp_path: Path) -> None:
    """Three mistakes in three places are three lines, in the file's order."""
    path = written(tmp_path, ("skew: 5s", "skew: 5"), ("threads: 4", "threads: 0"), ("lifetime: 7d}", "lifetime: x}"))
    assert ["6: timing.skew", "7: limits.threads", "13: trust_domains.prod.ca.lifetime"] == [
        line.partition(": found")[0] for line in complaints(path)
    ]


def test_a_good_file_becomes_what_the_core_works_with(tmp_path: Path) -> None:
    """Certificates, policies, calendars and rollouts are what the file says."""
    settings = load(
        written(
            tmp_path,
            ("{after: 2h}", "{after: 2h, then: proceed, at_most: 2}"),
            (
                "limits: {threads: 4}",
                (
                    "windows: [{name: n, subjects: [web], days: [mon], from: 00:30, for: 4h, zone: +02:00}]\n"
                    "freezes: [{name: f, subjects: [web], from: 2030-01-01T00:00:00+01:00, until: "
                    "2030-01-02T00:00:00Z}]"
                ),
            ),
        )
    )
    want = managed_certificate(settings, "worker")
    assert ("worker", "prod", timedelta(hours=12), KeyType.ECDSA_P256, ("workers",)) == (
        want.name,
        want.trust_domain,
        want.lifetime,
        want.key,
        want.rolls,
    )
    budget = Budget(
        issue=timedelta(seconds=5),
        publish=timedelta(seconds=5),
        drain=timedelta(hours=3),
        proof=timedelta(seconds=30),
        retry=timedelta(minutes=5),
    )
    assert budget == leaf_policy(settings, "worker").budget
    authority = authority_policy(settings, "prod")
    assert (AtDeadline.PROCEED, 2, timedelta(hours=2)) == (
        authority.at_deadline,
        authority.at_most_left_behind,
        authority.trust_deadline,
    )
    window = MaintenanceWindow(days=frozenset({6}), start=time(22, 30), length=timedelta(hours=4))
    assert (window,) == calendar(settings, "web").windows
    assert datetime(2029, 12, 31, 23, tzinfo=UTC) == calendar(settings, "web").freezes[0].since
    assert () == calendar(settings, "prod").windows
    assert timedelta(hours=3) == rollout_policy(settings.workloads["workers"]).drain_deadline


def test_policy_hash_is_of_what_is_in_force(tmp_path: Path) -> None:
    """Another way to write the same settings has the same hash; another setting has another one."""
    first = policy_sha256(load(written(tmp_path)))
    same = policy_sha256(load(written(tmp_path, ("timing: {skew: 5s}", "# unchanged\ntiming: {skew: 5000ms}"))))
    other = policy_sha256(load(written(tmp_path, ("skew: 5s", "skew: 6s"))))
    assert (first, 64, True) == (same, len(first), first != other)


POSTGRESQL = ("sqlite:////var/lib/rotator/state.db", "postgresql+psycopg://r@db/r")


@pytest.mark.parametrize(
    ("lease", "complaint"),
    [
        ("{renew_deadline: 15s}", "renew_deadline: found 15s; allowed less than duration 15s"),
        ("{retry: 9s}", "retry: found 9s; allowed less than renew_deadline 10s divided by 1.2"),
        ("{duration: 15s500ms}", "duration: found 15.5s; allowed whole seconds"),
    ],
)
def test_law_14_a_lease_that_two_could_believe_in_is_refused(tmp_path: Path, lease: str, complaint: str) -> None:
    """A leader stops before its successor begins, and one lost renewal ends nobody: else the file is refused."""
    with pytest.raises(ConfigError, match=rf"cluster\.lease\.{complaint}"):
        load(written(tmp_path, POSTGRESQL, ("limits: {threads: 4}", f"cluster: {{lease: {lease}}}")))


def test_a_lease_in_postgresql_needs_no_word_more(tmp_path: Path) -> None:
    """`lease: {}` is a lease of 15 s that is renewed every 2 s; `stand_by` beside it is refused."""
    lease = ("limits: {threads: 4}", "cluster: {lease: {}}")
    cluster = load(written(tmp_path, POSTGRESQL, lease)).cluster
    assert cluster is not None
    assert cluster.lease is not None
    assert (timedelta(seconds=15), timedelta(seconds=2)) == (cluster.lease.duration, cluster.lease.retry)
    with pytest.raises(ConfigError, match=r"stand_by: found it beside cluster\.lease"):
        load(written(tmp_path, POSTGRESQL, lease, ("version: 1\n", "version: 1\nstand_by: 2s\n")))


IN_CLUSTER = (
    ("limits: {threads: 4}", "cluster: {}"),
    (BASE[BASE.index("    processes:") :], "    statefulset: {namespace: a, name: b, serves: {port: 8443}}\n"),
)


def test_a_port_is_asked_for_one_certificate_only(tmp_path: Path) -> None:
    """Pods that are asked what they serve prove one certificate; rolled by two, the file is refused, both named."""
    load(written(tmp_path, *IN_CLUSTER))
    rolled_too = ("    probes: [{envoy_admin", "    rolls: [workers]\n    probes: [{envoy_admin")
    expected = (
        "32: workloads.workers.statefulset.serves: found it on a workload that web and worker roll; allowed where one "
        "certificate does, because a port serves one; do prove the others by probes of their own"
    )
    assert [expected] == complaints(written(tmp_path, *IN_CLUSTER, rolled_too))


def test_one_workload_of_the_cluster_has_one_name(tmp_path: Path) -> None:
    """Two names for one StatefulSet would roll it twice: refused, and the other name is told."""
    again = ("serves: {port: 8443}}\n", "serves: {port: 8443}}\n  again:\n    statefulset: {namespace: a, name: b}\n")
    rolled_too = ("    rolls: [workers]", "    rolls: [workers, again]")
    expected = (
        "33: workloads.again.statefulset: found a/b, which workload workers is; allowed each once; do let certificates "
        "share one"
    )
    assert [expected] == complaints(written(tmp_path, *IN_CLUSTER, again, rolled_too))
