"""The queue between the page and the worker: a table of SQLite in this directory."""

import contextlib
import sqlite3


@contextlib.contextmanager
def queue():
    connection = sqlite3.connect("jobs.sqlite", timeout=10, isolation_level=None)
    connection.row_factory = sqlite3.Row
    try:
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("CREATE TABLE IF NOT EXISTS jobs (id INTEGER PRIMARY KEY, number INTEGER, result TEXT)")
        yield connection
    finally:
        connection.close()
