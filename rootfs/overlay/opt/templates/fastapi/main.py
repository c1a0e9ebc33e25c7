"""A web API with FastAPI; its interactive documentation is at /docs."""

import datetime

from fastapi import FastAPI
from fastapi.responses import HTMLResponse

app = FastAPI(title="fastapi")


@app.get("/", response_class=HTMLResponse)
def index() -> str:
    return """<!doctype html>
<title>fastapi</title>
<h1>Hello from FastAPI</h1>
<p>Try <a href="/api/time">/api/time</a>.</p>"""


@app.get("/api/time")
def time() -> dict[str, str]:
    return {"now": datetime.datetime.now(datetime.UTC).isoformat()}
