"""A page that gives the worker something to do and shows what became of it."""

import html
import http.server
import random

from jobs import queue

PAGE = """<!doctype html>
<meta charset="utf-8">
<meta http-equiv="refresh" content="2">
<title>worker</title>
<h1>Hello from the worker</h1>
<form method="post"><button>Add a job</button></form>
<ol>{rows}</ol>
"""


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        with queue() as jobs:
            found = jobs.execute("SELECT * FROM jobs ORDER BY id DESC LIMIT 20").fetchall()
        rows = "".join(f"<li value={job['id']}>{html.escape(job['result'] or 'waiting')}" for job in found)
        body = PAGE.format(rows=rows).encode()
        self.send_response(200)
        self.send_header("Content-Type", "text/html; charset=utf-8")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_POST(self):
        with queue() as jobs:
            jobs.execute("INSERT INTO jobs (number) VALUES (?)", (random.randint(2, 99),))
        self.send_response(303)
        self.send_header("Location", "/")
        self.end_headers()


http.server.ThreadingHTTPServer(("127.0.0.1", 3000), Handler).serve_forever()
