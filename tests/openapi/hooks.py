"""What a schema of JSON cannot say, so that requests that are made of it are as the description's words have them."""

import time

import schemathesis

# What such a field may be depends on the host, or on what is in the sandbox.
OF_THE_HOST = {"memory_max", "memory_high", "swap_max", "read_bps", "write_bps", "nofile", "cpu_max"}


@schemathesis.serializer("application/x-tar")
def tar(ctx, value):
    return value if isinstance(value, bytes) else str(value).encode()


@schemathesis.hook
def filter_body(ctx, body):
    if not isinstance(body, dict):
        return True
    if isinstance(body.get("until"), (int, float)) and body["until"] <= time.time() + 60:
        return False  # a time that has passed
    limits = body.get("limits")
    if isinstance(limits, dict) and (OF_THE_HOST & limits.keys() or isinstance(limits.get("io_max"), dict)):
        return False
    if "memory_high" in body or body.get("template") or body.get("runtime_preset") or body.get("from_snapshot"):
        return False  # what the host has, and which templates and snapshots there are
    if body.get("isolation") == "gvisor" or body.get("nested_namespaces") or body.get("rootfs") == "overlay":
        return False  # what this server offers
    if isinstance(body.get("env"), dict) and body["env"]:
        return False  # names are described in words
    # Whether a program exists is a matter of the sandbox's files.
    return "cmd" not in body or "stream" in body or not ctx.operation.path.endswith("/processes")
