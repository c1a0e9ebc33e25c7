"""Opens a page in a headless Chromium that is driven over its pipes, prints what a script in the page has made, and what
the browser says of its own sandbox. Arguments: the page, then options for the browser."""
import json, os, signal, subprocess, sys, time

STATUS = ("Layer 1 Sandbox", "PID namespaces", "Network namespaces", "Seccomp-BPF sandbox")
page, options = sys.argv[1], sys.argv[2:]
(in_read, in_write), (out_read, out_write) = os.pipe(), os.pipe()


def pipes():
    # By numbers that cannot be in the way of one another.
    os.dup2(in_read, 23), os.dup2(out_write, 24)
    os.dup2(23, 3), os.dup2(24, 4)


log = open("/tmp/chromium.log", "wb")
common = "--headless --disable-gpu --no-first-run --disable-background-networking --disable-component-update --disable-sync"
browser = subprocess.Popen(
    ["chromium", *common.split(), "--remote-debugging-pipe", "--user-data-dir=/tmp/profile", *options],
    preexec_fn=pipes, close_fds=False, stdout=log, stderr=log,
)
os.close(in_read), os.close(out_write)
signal.alarm(90)
received, number = b"", 0


def message():
    global received
    while b"\0" not in received:
        more = os.read(out_read, 1 << 16)
        if not more:
            text = open("/tmp/chromium.log", errors="replace").read()
            sys.exit("No usable sandbox" if "No usable sandbox" in text else text[-2000:])
        received += more
    first, received = received.split(b"\0", 1)
    return json.loads(first)


def call(method, session=None, **params):
    global number
    number += 1
    os.write(in_write, json.dumps({"id": number, "method": method, "params": params} | ({"sessionId": session} if session else {})).encode() + b"\0")
    while (answer := message()).get("id") != number:
        pass
    return answer["result"]


def seen(url, script):
    """What the script returns once that is something."""
    target = call("Target.createTarget", url=url)["targetId"]
    session = call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
    while not (value := call("Runtime.evaluate", session, expression=script)["result"].get("value")):
        time.sleep(0.05)
    return value


print(seen(page, "document.getElementById('x')?.textContent"))
status = "[...document.querySelectorAll('tr')].map(row => [...row.cells].map(c => c.textContent.trim()).join('=')).join('\\n')"
for line in seen("chrome://sandbox", status).split("\n"):
    if line.split("=")[0] in STATUS:
        print(line)
call("Browser.close")
browser.wait()
