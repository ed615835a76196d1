"""Pages in headless Chromium: served to it with a script of the test, which reports what it saw."""

from __future__ import annotations

import json
import os
import queue
import shutil
import signal
import subprocess
import tempfile
import threading
from collections.abc import Mapping
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from models.exporting.templates.web import serve

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
PATIENCE = 120  # seconds
CAMERA = ("--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream")
# what scripts of tests may use; they end with `report(what they saw)`
HELPERS = """
const $ = (id) => document.getElementById(id);
const until = async (done) => { while (!done()) await new Promise((go) => setTimeout(go, 10)); };
const ready = () => until(() => $("status").textContent.startsWith("Ready"));
const complaint = async () => { await until(() => !$("problem").hidden); return $("problem").textContent; };
const calm = () => until(() => $("stage").ariaBusy === "false");
const give = async (id, names) => {
  const data = new DataTransfer();
  for (const name of names) {
    const blob = await (await fetch(`given/${name}`)).blob();
    data.items.add(new File([blob], name, { type: blob.type }));
  }
  $(id).files = data.files;
  $(id).dispatchEvent(new Event("change"));
};
const boxes = () => [...document.querySelectorAll("#stage figure")].map((figure) =>
  [...figure.querySelectorAll("tbody tr")].map((row) => [...row.cells].map((cell) => cell.textContent)));
const move = (id, value) => { $(id).value = value; $(id).dispatchEvent(new Event("input")); };
const violations = [];
document.addEventListener("securitypolicyviolation", ({ blockedURI }) => violations.push(blockedURI));
const report = (seen) => fetch("report", { method: "POST", body: JSON.stringify({
  seen, violations, asked: performance.getEntriesByType("resource").map(({ name }) => name),
  address: location.href,
  window: innerWidth, page: document.documentElement.scrollWidth, isolated: crossOriginIsolated,
  status: $("status").textContent, problem: $("problem").textContent }) });
addEventListener("unhandledrejection", ({ reason }) => report(`rejected: ${reason?.stack ?? reason}`));
addEventListener("error", ({ message }) => report(`error: ${message}`));
"""


def probing(
    base: type[SimpleHTTPRequestHandler],
    folder: Path,
    served: Mapping[str, Path],
    probe: str,
    reports: queue.Queue[dict[str, Any]],
) -> type[SimpleHTTPRequestHandler]:
    """What answers a browser: `base`, but the page also loads a script, and what that reports is kept."""

    class Handler(base):  # type: ignore[valid-type, misc]
        def translate_path(self, path: str) -> str:
            return str(served.get(unquote(path), super().translate_path(path)))

        def do_GET(self) -> None:
            page = (folder / "index.html").read_text(encoding="utf-8")
            added = '<script type="module" src="/probe.js"></script></head>'
            texts = {
                "/": ("text/html", page.replace("</head>", added)),
                "/probe.js": ("text/javascript", probe),
            }
            if self.path not in texts:
                super().do_GET()
                return
            kind, text = texts[self.path]
            self.send_response(200)
            self.send_header("Content-Type", f"{kind}; charset=utf-8")
            self.end_headers()
            self.wfile.write(text.encode())

        def do_POST(self) -> None:
            reports.put(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(204)
            self.end_headers()

        def log_message(self, *args: object) -> None:
            pass

    return Handler


def visit(
    folder: Path,
    script: str,
    given: Mapping[str, Path] | None = None,
    *,
    width: int = 1280,
    isolated: bool = False,
    flags: tuple[str, ...] = (),
) -> dict[str, Any]:
    """Open a page, run a script in it, and give what it reported.

    Args:
        folder: of the page.
        script: body of an async function in JavaScript, with `HELPERS`, whose result comes back as `seen`.
        given: files that the script can hand to the page, by their names.
        isolated: served by the folder's own `serve.py` instead of `python -m http.server`.
    """
    reports: queue.Queue[dict[str, Any]] = queue.Queue()
    base = serve.Handler if isolated else SimpleHTTPRequestHandler
    served = {f"/given/{name}": path for name, path in (given or {}).items()}
    probe = f"{HELPERS}(async () => {{{script}}})().then(report);"
    handler = partial(probing(base, folder, served, probe, reports), directory=str(folder))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server, tempfile.TemporaryDirectory() as profile:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        command = [
            str(BROWSER), "--headless", "--no-sandbox", "--disable-gpu", f"--window-size={width},900",
            f"--user-data-dir={profile}", "--disable-background-networking", *flags,
            f"http://127.0.0.1:{server.server_port}/",
        ]  # fmt: skip
        browser = subprocess.Popen(
            command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
        )
        try:
            return reports.get(timeout=PATIENCE)
        finally:
            os.killpg(browser.pid, signal.SIGKILL)
            browser.wait()
            server.shutdown()
            shutil.rmtree(profile, ignore_errors=True)
