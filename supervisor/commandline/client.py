"""Asks a running supervisor, gives it commands, and prints what it says.

Knows: the API's addresses and documents, how they read on a terminal.
Does not know: how the documents are made.
Invariants: one request, a bounded wait, a bounded answer; no proxy stands between us and
loopback; no redirect is followed, a token goes nowhere else; control characters in what comes
back never reach the terminal.
"""

from __future__ import annotations

import http.client
import urllib.error
import urllib.request
from typing import Any

import msgspec

from fsmv2.supervisor.core.secret import Secret

ANSWER_BYTES_MAX = 64 << 20
ERROR_BYTES_MAX = 1 << 16
WAIT_S = 5.0


class RefusedError(Exception):
    """The supervisor was asked and says no: its own words."""


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *_args: Any, **_kwargs: Any) -> None:
        """Ours never redirects, and another's must not be given the token."""


def fetch(listen: str, path: str) -> Any:
    """The JSON document at ``path`` of the supervisor at ``HOST:PORT``.

    Raises OSError with a clear text when nobody answers, or not with a document.
    """
    base = base_url(listen)
    try:
        return _ask(urllib.request.Request(base + path), base)
    except urllib.error.HTTPError as error:
        error.close()
        raise OSError(f"cannot ask {base}{path}: got HTTP {error.code}, want 200") from None


def command(listen: str, path: str, token: Secret, wait_s: float) -> Any:
    """Give the command at ``path`` to the supervisor at ``HOST:PORT``; what it answers.

    Raises `RefusedError` when it refuses, OSError when nobody answers, or not in time.
    """
    base = base_url(listen)
    headers = {"Authorization": f"Bearer {token.reveal()}"}
    request = urllib.request.Request(base + path, data=b"", headers=headers, method="POST")
    return _answer(request, base, wait_s)


def question(listen: str, path: str, wait_s: float) -> Any:
    """Ask the supervisor at ``HOST:PORT`` what is at ``path``; raises as `command` does."""
    base = base_url(listen)
    return _answer(urllib.request.Request(base + path), base, wait_s)


def _answer(request: urllib.request.Request, base: str, wait_s: float) -> Any:
    try:
        return _ask(request, base, wait_s)
    except urllib.error.HTTPError as error:
        with error:
            why = _error_text(error)
        if error.code >= 500:
            raise OSError(why) from None
        raise RefusedError(why) from None


def base_url(listen: str) -> str:
    """``http://HOST:PORT``."""
    return listen if "://" in listen else f"http://{listen}"


def _ask(request: urllib.request.Request, base: str, wait_s: float = WAIT_S) -> Any:
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}), _NoRedirect())
    try:
        with opener.open(request, timeout=wait_s) as answer:
            return msgspec.json.decode(answer.read(ANSWER_BYTES_MAX))
    except urllib.error.HTTPError:
        raise
    except (OSError, ValueError, http.client.HTTPException, msgspec.DecodeError) as error:
        why = getattr(error, "reason", None) or error
        raise OSError(
            f"cannot ask the supervisor at {base}: {why}; is it running? "
            "name its address with --http HOST:PORT"
        ) from None


def _error_text(error: urllib.error.HTTPError) -> str:
    try:
        return printable(str(msgspec.json.decode(error.read(ERROR_BYTES_MAX))["error"]))
    except (OSError, KeyError, TypeError, http.client.HTTPException, msgspec.DecodeError):
        return f"got HTTP {error.code} and no word why, want 200"


def tree_text(root: dict[str, Any]) -> str:
    """The tree, one node a line: name, type, state, since, reason, action in flight with the
    number that `fsmv2 kill` takes; below each its children, then those that are declared and not
    there."""
    rows: list[tuple[str, str, str, str, str]] = []

    def walk(node: dict[str, Any], indent: str, branch: str) -> None:
        action = node.get("action")
        doing = ""
        if action:
            doing = f"  [#{action['attempt_id']} {action['type']} {action['running_s']:.1f} s]"
        rows.append(
            (
                f"{indent}{branch}{node['name']}",
                node["worker_type"],
                node["state"]
                + ("" if node["circuit"] == "closed" else f" (circuit {node['circuit']})"),
                duration(node["since_s"]),
                f"{node['reason']}{doing}",
            )
        )
        below = indent + {"": "", "├─ ": "│  ", "└─ ": "   "}[branch]
        children, absent = node["children"], node["absent"]
        last = len(children) + len(absent) - 1
        for index, child in enumerate(children):
            walk(child, below, "└─ " if index == last else "├─ ")
        for index, child in enumerate(absent, len(children)):
            name, why = child["name"], child["why"].replace("_", " ")
            end = "└─ " if index == last else "├─ "
            more = f"{why}, see fsmv2 explain {node['path']}/{name}"
            rows.append((f"{below}{end}{name}", child["worker_type"], "absent", "", more))

    walk(root, "", "")
    return table(("NAME", "TYPE", "STATE", "SINCE", "REASON"), rows)


def status_text(document: dict[str, Any]) -> str:
    """The status as facts, one a line, each figure with its unit."""
    pool = document["pool"]
    workers = ", ".join(f"{n} {phase}" for phase, n in document["workers"].items() if n)
    actions = ", ".join(f"{n} {name}" for name, n in document["actions"].items() if n)
    busy = sum(proc["action"] is not None for proc in pool["procs"])
    p50, p99 = _ms(document["tick_p50_ms"]), _ms(document["tick_p99_ms"])
    facts = [
        ("supervisor", f"{document['name']}, pid {document['pid']}, version {document['version']}"),
        ("ready", f"{'yes' if document['ready'] else 'no'}: {document['reason']}"),
        ("machine", _infrastructure(document["infrastructure"])),
        ("uptime", duration(document["uptime_s"])),
        ("workers", workers or "none"),
        ("actions", actions or "none yet"),
        ("ticks", f"{document['ticks']}, p50 {p50}, p99 {p99}"),
        ("procs", f"{len(pool['procs'])}, {busy} busy, {pool['queued']} actions queued"),
        ("deaths", f"{pool['deaths']} procs since the start"),
        *(("circuit", _circuit(record)) for record in document["circuits"]),
        *(
            ("quarantined", f"{name}: {_quarantine(record)}")
            for name, record in pool["quarantined"].items()
        ),
    ]
    if document.get("store_trouble"):
        facts.append(("store", f"saves nothing: {document['store_trouble']}"))
    width = max(len(name) for name, _fact in facts)
    return "\n".join(f"{name:<{width}}  {printable(fact)}" for name, fact in facts)


def _infrastructure(record: dict[str, Any]) -> str:
    """``breaker open for 12 s: memory at 97%, limit 95%``."""
    words = [f"breaker {record['state'].replace('_', ' ')}"]
    if record["mode"] != "enforce":
        words.append(f"({record['mode']} only)" if record["mode"] == "report" else "(off)")
    if record["forced"]:
        words.append(f"(held by an operator, {duration(record['forced_for_s'])} to go)")
    if record["down_s"] and record["state"] != "closed":
        words.append(f"for {duration(record['down_s'])}")
    text = " ".join(words)
    # What an operator holds is said already.
    causes = "; ".join(cause for cause in record["causes"] if not cause.startswith("held "))
    missing = [
        f"{limit['reading']} ({limit['missing']})"
        for limit in record["limits"]
        if limit["value"] is None
    ]
    parts = [f"{text}: {causes}" if causes else text]
    if record["waiting"]:
        parts.append(f"{record['waiting']} actions wait for their turn")
    if missing:
        parts.append(f"no reading of {', '.join(missing)}")
    return "; ".join(parts)


def _circuit(record: dict[str, Any]) -> str:
    """``site: open, p1 has failed (fresh: it cannot be observed), 2 attempts, next in 3.1 s``."""
    parts = [f"{record['path']}: {record['circuit']}, {record['why']}"]
    if record["attempts"] is not None:
        parts.append(f"{record['attempts']} attempts")
    if record["escalated"]:
        parts.append("a person has to help")
    elif record["next_attempt_in_s"] is not None:
        parts.append(f"next in {duration(record['next_attempt_in_s'])}")
    return ", ".join(parts)


def _quarantine(record: dict[str, Any]) -> str:
    again = f"again in {record['retry_in_s']:.1f} s"
    return f"{record['deaths']} times {record['verdict']}, {record['held']} held, {again}"


def table(head: tuple[str, ...], rows: list[tuple[str, ...]] | list[Any]) -> str:
    """Rows in columns, two spaces apart; the last column is not padded."""
    cells = [tuple(printable(cell) for cell in row) for row in (head, *rows)]
    widths = [max(len(row[i]) for row in cells) for i in range(len(head) - 1)]
    return "\n".join(
        "  ".join([*(f"{row[i]:<{width}}" for i, width in enumerate(widths)), row[-1]]).rstrip()
        for row in cells
    )


def duration(seconds: float) -> str:
    """``0.4 s``, ``12 s``, ``3 min 05 s``, ``2 h 10 min``."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    whole = int(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02} min"


def printable(text: str) -> str:
    """``text`` without control characters: a reason must not drive the terminal."""
    return "".join(c if c.isprintable() else "�" for c in text)


def _ms(value: float | None) -> str:
    return "not known yet" if value is None else f"{value:.2f} ms"
