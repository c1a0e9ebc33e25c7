"""Takes jobs from the queue, one after the other. What it prints is in the log `worker`."""

import time

from jobs import queue


def work(number: int) -> str:
    return f"{number} squared is {number * number}"


print("worker: waiting for jobs")
with queue() as jobs:
    while True:
        for job in jobs.execute("SELECT * FROM jobs WHERE result IS NULL ORDER BY id").fetchall():
            result = work(job["number"])
            jobs.execute("UPDATE jobs SET result = ? WHERE id = ?", (result, job["id"]))
            print(f"worker: job {job['id']}: {result}")
        time.sleep(1)
