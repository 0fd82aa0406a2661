"""How what a supervisor says reads on a terminal.

Knows: the documents' keys that `answers` has checked, columns, units.
Does not know: where a document comes from.
Invariants: control characters never reach the terminal; a tree may be as deep as it likes.
"""

from __future__ import annotations

from typing import Any

from fsmv2.supervisor.core.counting import several

Row = tuple[str, str, str, str, str]
Node = dict[str, Any]


def tree_text(root: Node) -> str:
    """The tree, one node a line: name, type, state, since, reason, action in flight with the
    number that `fsmv2 kill` takes; below each its children, then those that are declared and not
    there. Above all, that the root is silent and how old this is."""
    rows: list[Row] = []
    todo: list[tuple[Node, str, str] | Row] = [(root, "", "")]
    while todo:
        item = todo.pop()
        if len(item) == 5:
            rows.append(item)
            continue
        node, indent, branch = item
        rows.append(_row(node, f"{indent}{branch}"))
        below = indent + {"": "", "├─ ": "│  ", "└─ ": "   "}[branch]
        children, absent = node["children"], node["absent"]
        branches = ["├─ "] * (len(children) + len(absent))
        branches[-1:] = ["└─ "] * bool(branches)
        end = len(children)
        todo += reversed(
            [
                *((child, below, to) for child, to in zip(children, branches, strict=False)),
                *(
                    _absent_row(node, child, f"{below}{to}")
                    for child, to in zip(absent, branches[end:], strict=True)
                ),
            ]
        )
    shown = table(("NAME", "TYPE", "STATE", "SINCE", "REASON"), rows)
    silence = silence_of(root)
    return f"{silence}; this is what it said then\n{shown}" if silence else shown


def _row(node: Node, before: str) -> Row:
    action = node["action"]
    circuit = "" if node["circuit"] == "closed" else f" (circuit {node['circuit']})"
    return (
        f"{before}{node['name']}",
        node["worker_type"],
        f"{node['state']}{circuit}",
        duration(node["since_s"]),
        f"{node['reason']}{f'  [{_doing(action)}]' if action else ''}",
    )


def _doing(action: dict[str, Any]) -> str:
    """``#7 Match 12.0 s`` of one that runs, ``#7 Match waits 12 s`` of one that does not yet."""
    waits_s = action.get("waits_s")
    doing = f"{action['running_s']:.1f} s" if waits_s is None else f"waits {duration(waits_s)}"
    return f"#{action['attempt_id']} {action['type']} {doing}"


def _absent_row(parent: Node, child: Node, before: str) -> Row:
    why = f"{child['why'].replace('_', ' ')}, see fsmv2 explain {parent['path']}/{child['name']}"
    return (f"{before}{child['name']}", child["worker_type"], "absent", "", why)


def silence_of(document: dict[str, Any]) -> str:
    """That the root is silent; empty if it is not."""
    age_s = document.get("last_word_s")
    return "" if age_s is None else f"the root has been silent for {duration(age_s)}"


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
        ("procs", f"{len(pool['procs'])}, {busy} busy, {several(pool['queued'], 'action')} queued"),
        ("deaths", f"{several(pool['deaths'], 'proc')} since the start"),
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
        parts.append(f"{several(record['waiting'], 'action')} waiting for a turn")
    if missing:
        parts.append(f"no reading of {', '.join(missing)}")
    return "; ".join(parts)


def _circuit(record: dict[str, Any]) -> str:
    """``site: open, p1 has failed (fresh: it cannot be observed), 2 attempts, next in 3.1 s``."""
    parts = [f"{record['path']}: {record['circuit']}, {record['why']}"]
    if record["attempts"] is not None:
        parts.append(several(record["attempts"], "attempt"))
    if record["escalated"]:
        parts.append("a person has to help")
    elif record["next_attempt_in_s"] is not None:
        parts.append(f"next in {duration(record['next_attempt_in_s'])}")
    return ", ".join(parts)


def _quarantine(record: dict[str, Any]) -> str:
    again = f"again in {record['retry_in_s']:.1f} s"
    return (
        f"{several(record['deaths'], 'time')} {record['verdict']}, {record['held']} held, {again}"
    )


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
