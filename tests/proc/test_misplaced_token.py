"""A token that was put into the wrong setting: who looks for it finds the setting."""

from __future__ import annotations

from pathlib import Path

from running import Running, until

from fsmv2.communicator.testing.relay import Relay

TOKEN = "a-misplaced-t0ken/that+must-not-show"
PAGES = ("/metrics", "/api/v1/tree", "/api/v1/status", "/api/v1/actions", "/api/v1/changes?since=0")
TOLD = {
    "file": "auth_token_file (no part of it found, so it is not shown): No such file",
    "folder": "(2 more, not found, so not shown): No such file",
    "url": "API_URL begins with no http(s)://",
    "tls": f"ALLOW_INSECURE_TLS has {len(TOKEN)} characters that are neither yes nor no",
}


def config(folder: Path, relay: Relay) -> Path:
    here = f"relay_url: {relay.url}, auth_token: x"
    of = {
        "file": f"relay_url: {relay.url}, auth_token_file: {TOKEN}",
        "folder": f"relay_url: {relay.url}, auth_token_file: {folder}/{TOKEN}",
        "url": "auth_token: x",
        "tls": here,
    }
    lines = ["name: site", "plugins: [fsmv2.communicator]", "log: {level: debug}"]
    lines += [f"store: {{kind: sqlite, path: {folder}/store.db}}", "workers:"]
    for name, settings in of.items():
        lines.append(f"  - {{name: {name}, type: communicator, config: {{{settings}}}}}")
    path = folder / "site.yaml"
    path.write_text("\n".join(lines))
    return path


def test_a_token_in_the_wrong_setting_is_shown_nowhere(tmp_path: Path) -> None:
    """Its place is named in the reason, by the API and in the log."""
    with Relay() as relay:
        variables = {"API_URL": TOKEN, "ALLOW_INSECURE_TLS": TOKEN}
        with Running(config(tmp_path, relay), env=variables) as root:
            for name, told in TOLD.items():
                page = f"/api/v1/workers/site/{name}"
                until(lambda p=page, t=told: t in str(root.get(p)), f"{name} says what is wrong")
            pages = [*PAGES, *(f"/api/v1/explain/site/{name}" for name in TOLD)]
            pages += [f"/api/v1/workers/site/{name}" for name in TOLD]
            texts = {page: str(root.get(page)) for page in pages}
            assert root.end() == 0
            texts["log"] = root.log_text()
        assert relay.requests() == []
    for file in tmp_path.glob("store.db*"):
        texts[file.name] = file.read_bytes().decode("latin-1")
    for name, told in TOLD.items():
        assert told in texts["log"], name
    for page, text in texts.items():
        assert len(text) > 4 or not page.startswith("/"), page
        at = text.find("t0ken")
        assert at < 0, (page, text[max(0, at - 300) : at + 60])
