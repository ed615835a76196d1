"""Serves this folder to this machine: `python serve.py`, then open the address that it prints.

`python -m http.server` does, too. This one sends two more headers, which let the page use several threads,
and types of files that do not depend on what is installed.
"""

import functools
import sys
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path


class Handler(SimpleHTTPRequestHandler):
    """Sends files with the headers that isolate a page from others, the condition for threads."""

    extensions_map = {
        **SimpleHTTPRequestHandler.extensions_map,
        ".html": "text/html; charset=utf-8",
        ".js": "text/javascript",
        ".mjs": "text/javascript",
        ".css": "text/css",
        ".json": "application/json",
        ".wasm": "application/wasm",
    }

    def end_headers(self) -> None:
        self.send_header("Cross-Origin-Opener-Policy", "same-origin")
        self.send_header("Cross-Origin-Embedder-Policy", "require-corp")
        self.send_header("Cache-Control", "no-cache")
        super().end_headers()


def main() -> None:
    """Serve until Ctrl-C; the port may be given."""
    port = sys.argv[1] if len(sys.argv) > 1 else "8000"
    handler = functools.partial(Handler, directory=str(Path(__file__).resolve().parent))
    try:
        server = ThreadingHTTPServer(("127.0.0.1", int(port)), handler)
    except (ValueError, OverflowError, OSError) as error:
        sys.exit(f"port {port}: {error}; give another one: python serve.py 8001")
    with server:
        print(f"http://127.0.0.1:{server.server_port}  (Ctrl-C ends it)", flush=True)
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            print()


if __name__ == "__main__":
    main()
