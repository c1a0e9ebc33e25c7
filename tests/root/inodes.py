"""Looks for what two sandboxes have in common.

inodes.py list FILE         writes the device and inode number of everything that can be seen here, and its path
inodes.py watch FILE        watches everything in WATCHED until the file FILE.end appears; prints what happened
inodes.py use               uses everything in WATCHED
inodes.py hold FILE         locks everything in LOCKED in every way until the file FILE.end appears
inodes.py lock              says which of LOCKED could not be locked
"""
import ctypes, errno, fcntl, os, struct, subprocess, sys, time

DIRECTORIES = ["/", "/usr/bin", "/usr/lib", "/etc", "/dev", "/proc", "/sys"]
FILES = ["/usr/bin/git", "/usr/bin/bash", "/etc/passwd", "/etc/hosts", "/etc/resolv.conf", "/dev/null", "/dev/zero",
         "/dev/urandom", "/proc/version", "/proc/self/ns/time", "/proc/self/fd/0"]
WATCHED = DIRECTORIES + FILES
LOCKED = ["/usr/bin/git", "/etc/passwd", "/etc/hosts", "/etc/resolv.conf", "/dev/null", "/dev/zero", "/proc/version",
          "/sys/devices/system/cpu/online", "/proc/self/ns/time", "/usr/bin", "/"]
ALL_EVENTS = 0xFFF
libc = ctypes.CDLL(None, use_errno=True)


def entries():
    stack = ["/"]
    while stack:
        directory = stack.pop()
        try:
            found = list(os.scandir(directory))
        except OSError:
            continue
        for entry in found:
            path = entry.path
            # Its own processes; the workspace is one of a kind by its name.
            if (directory == "/proc" and entry.name.isdigit()) or path == "/home/sandbox":
                continue
            try:
                yield entry.stat(follow_symlinks=False), path
                if entry.is_dir(follow_symlinks=False):
                    stack.append(path)
            except OSError:
                continue
    # What is reached by links of procfs alone.
    for place in ["/proc/self/ns", "/proc/self/fd"]:
        for name in os.listdir(place):
            try:
                yield os.stat(f"{place}/{name}"), f"{place}/{name}"
            except OSError:
                continue
    yield os.stat("/"), "/"


def list_all(path):
    with open(path, "w") as out:
        for found, name in entries():
            out.write(f"{found.st_dev} {found.st_ino} {name}\n")


def wait_for_end(path):
    print("ready", flush=True)
    open(path, "w").close()
    for _ in range(400):
        if os.path.exists(path + ".end"):
            return
        time.sleep(0.02)


def watch(path):
    watches = {}
    instance = libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
    for name in WATCHED:
        number = libc.inotify_add_watch(instance, name.encode(), ALL_EVENTS)
        if number >= 0:
            watches[number] = name
    assert len(watches) >= 15, watches
    wait_for_end(path)
    seen = set()
    while True:
        try:
            data = os.read(instance, 65536)
        except BlockingIOError:
            break
        at = 0
        while at < len(data):
            number, mask, _, length = struct.unpack_from("iIII", data, at)
            seen.add(watches[number])
            at += 16 + length
    print("\n".join(sorted(seen)))


def present(names):
    """gVisor's kernel has not every file."""
    return [name for name in names if os.path.exists(name)]


def use():
    subprocess.run(["/usr/bin/git", "--version"], stdout=subprocess.DEVNULL)
    subprocess.run(["/usr/bin/bash", "-c", "cat /etc/passwd /etc/hosts /etc/resolv.conf > /dev/null"])
    for name in present(FILES):
        with open(name, "rb", buffering=0) as file:
            if not name.startswith("/proc/"):
                file.read(16)
    for name in DIRECTORIES:
        os.listdir(name)
    open("/dev/null", "w").write("x")


def attempts(name):
    """How a file was locked: each way, and whether it worked."""
    flock = struct.pack("hhqqi4x", fcntl.F_RDLCK, 0, 0, 0, 0)
    exclusive = struct.pack("hhqqi4x", fcntl.F_WRLCK, 0, 0, 0, 0)
    file = os.open(name, os.O_RDONLY)
    return file, flock, exclusive


def hold(path):
    held = []
    for name in present(LOCKED):
        file, shared, _ = attempts(name)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            # gVisor's kernel has files that cannot be locked.
            if error.errno != errno.ENOLCK:
                raise
            continue
        if not os.path.isdir(name):
            try:
                fcntl.fcntl(file, fcntl.F_OFD_SETLK, shared)
            except OSError:
                # gVisor's kernel knows only those of processes.
                fcntl.fcntl(file, fcntl.F_SETLK, shared)
        held.append(file)
    wait_for_end(path)


def lock():
    for name in present(LOCKED):
        file, _, exclusive = attempts(name)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print("flock", name)
        except OSError as error:
            if error.errno != errno.ENOLCK:
                raise
            continue
        if not os.path.isdir(name):
            # Asked for and not set: nothing here is open for writing.
            answer = fcntl.fcntl(file, fcntl.F_GETLK, exclusive)
            if struct.unpack("hhqqi4x", answer)[0] != fcntl.F_UNLCK:
                print("fcntl", name)
        os.close(file)


{"list": list_all, "watch": watch, "use": use, "hold": hold, "lock": lock}[sys.argv[1]](*sys.argv[2:])
