"""A web server of Python's standard library: says hello and counts its visitors."""
import http.server
import os
import pathlib

COUNTER = pathlib.Path("visitors")


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        # Asked whenever the app starts, to see whether it is ready: that is no visitor.
        if self.path == "/health":
            return self.answer("well\n")
        visitors = int(COUNTER.read_text()) + 1 if COUNTER.exists() else 1
        COUNTER.write_text(str(visitors))
        self.answer(f"Hello from {os.uname().nodename}, visitor {visitors}\n")

    def answer(self, text):
        body = text.encode()
        self.send_response(200)
        self.send_header("Content-Type", "text/plain; charset=utf-8")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


http.server.ThreadingHTTPServer(("127.0.0.1", 3000), Handler).serve_forever()
