//! Limits: set at create, changed while the sandbox runs, each tried at its edge.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::Test;
use crate::support::server::Server;
use crate::support::{eventually, tell};

pub(crate) const TESTS: &[Test] = &[
    ("limits::are_checked_and_read_back", checked_and_read_back),
    ("limits::memory_holds_at_its_edge_and_changes_live", memory),
    ("limits::processes_hold_at_their_edge_and_change_live", processes),
    ("limits::processors_hold_and_change_live", processors),
    ("limits::weights_share_the_processors", weights),
    ("limits::the_disk_holds_and_changes_live", disk),
    ("limits::open_files_hold_from_the_next_start", open_files),
];

/// They change settings of the whole machine.
pub(crate) const MACHINE: &[Test] = &[("limits::weights_share_the_disk_and_change_live", disk_weights)];

fn patch(server: &Server, id: &str, limits: Value) -> crate::support::http::Answer {
    server.api("PATCH", &format!("/v1/sandboxes/{id}"), json!({ "limits": limits }))
}

fn stats(server: &Server, id: &str) -> Value {
    server.api("GET", &format!("/v1/sandboxes/{id}/stats"), Value::Null).json()
}

fn checked_and_read_back() {
    let mut server = Server::start(&[]);
    let wanted = json!({
        "memory_max": "200M", "memory_high": "150M", "swap_max": "50M", "oom_group": true, "cpu_max": 0.5, "cpu_weight": 200,
        "io_max": { "read_bps": "1G", "write_bps": null, "read_iops": null, "write_iops": 100_000 }, "io_weight": 50,
        "pids_max": 100, "nofile": 500,
    });
    let id = server.create(json!({ "limits": wanted }));
    let shown = server.api("GET", &format!("/v1/sandboxes/{id}"), Value::Null).json()["limits"].clone();
    for (name, value) in wanted.as_object().unwrap() {
        assert_eq!(&shown[name], value, "{shown}");
    }
    // What the kernel has, not what was asked for.
    let has = stats(&server, &id);
    assert_eq!(
        (has["memory"]["max"].as_u64(), has["pids"]["max"].as_u64()),
        (Some(200 << 20), Some(100)),
        "{has}"
    );
    let lacks: Vec<_> =
        shown["not_enforced"].as_array().unwrap().iter().map(|n| n.as_str().unwrap()).collect();
    assert!(lacks.contains(&"cpu_max") || has["cpu"]["max"] == 0.5, "{has}");
    assert!(lacks.contains(&"swap_max") || has["memory"]["swap_max"] == 50 << 20, "{has}");
    // What the host lacks is named by `check` too.
    let (_, checked) = server.run("check");
    for (limit, feature) in
        [("memory_high", "memory.high"), ("oom_group", "memory.oom.group"), ("io_weight", "io.weight")]
    {
        let line = checked.lines().find(|line| line.contains(feature)).unwrap();
        assert_eq!(lacks.contains(&limit), line.starts_with("weaker"), "{line}");
    }
    for bad in [
        json!({ "memory_max": "31M" }),
        json!({ "memory_max": "9999T" }),
        json!({ "memory_max": -1 }),
        json!({ "memory_max": "18446744073709551616" }),
        json!({ "memory_high": "201M" }),
        json!({ "memory_high": "300M", "memory_max": "256M" }),
        json!({ "cpu_max": 0 }),
        json!({ "cpu_max": -1 }),
        json!({ "cpu_max": 1e9 }),
        json!({ "pids_max": 0 }),
        json!({ "pids_max": 15 }),
        json!({ "pids_max": 4_294_967_296_u64 }),
        json!({ "nofile": 0 }),
        json!({ "nofile": 18_446_744_073_709_551_615_u64 }),
        json!({ "swap_max": "1" , "hugetlb_max": "1G" }),
        json!({ "cpu_weight": 0 }),
        json!({ "io_weight": 10_001 }),
        json!({ "io_max": { "read_bps": "1K" } }),
        json!({ "io_max": { "bps": "1M" } }),
    ] {
        assert_eq!(patch(&server, &id, bad.clone()).status, 400, "{bad}");
        let create = server.api("POST", "/sandbox", json!({ "limits": bad }));
        // On its own a `memory_high` of 201M fits the server's default.
        assert!(create.status == 400 || bad == json!({ "memory_high": "201M" }), "{bad}: {}", create.text());
    }
    let told = patch(&server, &id, json!({ "pids_max": 3 })).text();
    assert!(told.contains("limits.pids_max is from 16 to 32768, not 3"), "{told}");
    // They are recorded.
    server.kill();
    server.boot();
    let again = server.api("GET", &format!("/v1/sandboxes/{id}"), Value::Null).json()["limits"].clone();
    assert_eq!(again, shown);
}

fn memory() {
    let server = Server::start(&[]);
    let id = server.create(json!({ "limits": { "memory_max": "128M" } }));
    // Written, so that it is there; freed when the program ends.
    let uses = |mib: u32| server.exec(&id, &format!("python3 -c 'x = bytearray({mib} << 20)'")).1 == 0;
    assert!(uses(80) && !uses(160), "128M");
    assert_eq!(patch(&server, &id, json!({ "memory_max": "256M" })).status, 200);
    assert!(uses(160) && !uses(300), "256M");
    assert_eq!(stats(&server, &id)["memory"]["max"], 256 << 20);
    // Below what is in use and cannot be given back: refused, and nothing is killed for it.
    server.sh(&id, "head -c 100M /dev/zero > /tmp/x");
    let refused = patch(&server, &id, json!({ "memory_max": "64M" }));
    assert_eq!(refused.status, 409, "{}", refused.text());
    assert_eq!(server.sh(&id, "stat -c %s /tmp/x"), "104857600\n");
    assert_eq!(stats(&server, &id)["memory"]["max"], 256 << 20);
    server.sh(&id, "rm /tmp/x");
    assert_eq!(patch(&server, &id, json!({ "memory_max": "64M" })).status, 200);
    assert!(!uses(80));
    assert_eq!(server.sh(&id, "echo alive"), "alive\n");
}

fn processes() {
    let server = Server::start(&[]);
    let id = server.create(json!({ "limits": { "pids_max": 40 } }));
    let forks = |server: &Server| -> u32 {
        let script = "import os, time\nn = 0\ntry:\n  while n < 500:\n    if os.fork() == 0:\n      time.sleep(0.5); os._exit(0)\n    n += 1\nexcept OSError: pass\nprint(n)";
        let body = json!({ "cmd": ["python3", "-c", script] });
        let answer = server.api("POST", &format!("/sandbox/{id}/exec"), body).json();
        let made = answer["stdout"].as_str().unwrap().trim().parse().unwrap();
        eventually("the processes are gone", Duration::from_secs(20), || {
            stats(server, &id)["pids"]["current"].as_u64().unwrap() < 8
        });
        made
    };
    let few = forks(&server);
    assert!((30..40).contains(&few), "{few}");
    assert_eq!(patch(&server, &id, json!({ "pids_max": 200 })).status, 200);
    let more = forks(&server);
    assert!((180..200).contains(&more), "{more}");
}

fn processors() {
    let server = Server::start(&[]);
    let id = server.create(json!({ "limits": { "cpu_max": 0.2 } }));
    // How many processors one busy second gets.
    let share = || -> f64 {
        let script = "import time\nbegun, used = time.monotonic(), time.process_time()\nwhile time.monotonic() < begun + 1.5: pass\nprint((time.process_time() - used) / (time.monotonic() - begun))";
        let body = json!({ "cmd": ["python3", "-c", script] });
        let answer = server.api("POST", &format!("/sandbox/{id}/exec"), body).json();
        answer["stdout"].as_str().unwrap().trim().parse().unwrap()
    };
    let little = share();
    assert!(little < 0.3, "{little}");
    assert_eq!(patch(&server, &id, json!({ "cpu_max": 0.05 })).status, 200);
    assert_eq!(stats(&server, &id)["cpu"]["max"], 0.05);
    let less = share();
    assert!(less < 0.12 && less < little, "{less}");
    assert_eq!(patch(&server, &id, json!({ "cpu_max": null })).status, 200);
    assert_eq!(stats(&server, &id)["cpu"]["max"], Value::Null);
    assert!(share() > 1.5 * less);
}

/// Two sandboxes that want all processors: how much each gets is by weight, not by how many ask.
fn weights() {
    let server = Server::start(&[]);
    let [light, heavy] =
        [100, 1000].map(|weight| server.create(json!({ "limits": { "cpu_weight": weight } })));
    let cores = std::thread::available_parallelism().unwrap().get();
    for (id, processes) in [(&light, cores * 4), (&heavy, cores)] {
        let spin = format!(
            "for i in $(seq {processes}); do (setsid sh -c 'while :; do :; done' > /dev/null 2>&1 < /dev/null &); done"
        );
        server.sh(id, &spin);
    }
    let used = |id: &str| stats(&server, id)["cpu"]["usage_seconds"].as_f64().unwrap();
    let ratio = || {
        let before = (used(&light), used(&heavy));
        eventually("processors were used", Duration::from_secs(60), || used(&light) - before.0 > 0.5);
        (used(&heavy) - before.1) / (used(&light) - before.0)
    };
    let shared = ratio();
    assert!(shared > 2.0, "{shared} to 1, of 10 to 1");
    assert_eq!(patch(&server, &heavy, json!({ "cpu_weight": 100 })).status, 200);
    let equal = ratio();
    // A busy machine deals out by the moment; that weights count is what is shown.
    assert!(equal < 2.0 && equal < shared / 2.0, "{equal} to 1, of 1 to 1; {shared} before");
}

/// A file system on a disk of its own, in the place of the server's data.
struct DiskOf(Option<String>);

fn run(program: &str, arguments: &[&str]) -> String {
    let output = std::process::Command::new(program).args(arguments).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program} {arguments:?}: {said}");
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

impl DiskOf {
    /// Where the tests' directories lie on none.
    fn mount_if_needed(server: &Server) -> Self {
        let on = server.directory.path().to_str().unwrap();
        let kind = run("stat", &["-f", "-c", "%T", on]);
        if ["tmpfs", "overlayfs"].contains(&kind.as_str()) { Self::mount(server) } else { Self(None) }
    }

    fn mount(server: &Server) -> Self {
        let on = server.directory.path().to_str().unwrap();
        let (file, data) = (format!("{on}/disk"), format!("{on}/data"));
        std::fs::File::create(&file).unwrap().set_len(256 << 20).unwrap();
        std::fs::create_dir(&data).unwrap();
        run("mkfs.ext4", &["-q", &file]);
        run("mount", &["-o", "loop", &file, &data]);
        Self(Some(data))
    }
}

impl Drop for DiskOf {
    fn drop(&mut self) {
        if let Some(data) = &self.0 {
            let _left = std::process::Command::new("umount").args(["--lazy", data]).status();
        }
    }
}

fn disk() {
    let mut server = Server::prepare(&[]);
    let _disk = DiskOf::mount_if_needed(&server);
    server.boot();
    let id = server.create(json!({ "limits": { "io_max": { "write_bps": "1M", "read_iops": 20 } } }));
    let timed = |command: &str| -> Duration {
        let begun = Instant::now();
        server.sh(&id, command);
        begun.elapsed()
    };
    // Past the cache, so that version 1 can hold it too.
    let writes = || timed("dd if=/dev/zero of=x bs=64k count=32 oflag=direct conv=notrunc status=none");
    let reads = || timed("dd if=x of=/dev/null bs=4k count=40 iflag=direct status=none");
    let (slow_write, slow_read) = (writes(), reads());
    // 2 MiB and 40 requests; the kernel lets some go ahead at once.
    assert!(slow_write > Duration::from_millis(1500), "{slow_write:?}");
    assert!(slow_read > Duration::from_millis(1500), "{slow_read:?}");
    let io = stats(&server, &id)["io"].clone();
    assert!(io["write_bytes"].as_u64() >= Some(2 << 20) && io["reads"].as_u64() >= Some(40), "{io}");
    assert_eq!(patch(&server, &id, json!({ "io_max": null })).status, 200);
    let (quick_write, quick_read) = (writes(), reads());
    assert!(quick_write < slow_write / 2 && quick_read < slow_read / 2, "{quick_write:?} {quick_read:?}");
    drop(server);
}

/// The kernel's cost model of a disk: by what is told here it does 50 reads in a second, and these are dealt out by weight.
struct CostModel(String);

impl CostModel {
    fn of(disk: &str) -> Self {
        let this = Self(run("findmnt", &["-n", "-o", "MAJ:MIN", "--mountpoint", disk]));
        this.set("cost.model", "ctrl=user model=linear rbps=67108864 rseqiops=50 rrandiops=50 wbps=67108864 wseqiops=50 wrandiops=50");
        this.set("cost.qos", "enable=1 ctrl=user rpct=0 wpct=0 min=100 max=100");
        this
    }

    fn set(&self, file: &str, text: &str) {
        std::fs::write(format!("/sys/fs/cgroup/io.{file}"), format!("{} {text}", self.0)).unwrap();
    }
}

impl Drop for CostModel {
    fn drop(&mut self) {
        self.set("cost.qos", "enable=0");
    }
}

fn disk_weights() {
    let mut server = Server::prepare(&[]);
    let disk = DiskOf::mount(&server);
    let _model = CostModel::of(disk.0.as_ref().unwrap());
    server.boot();
    let [light, heavy] =
        [100, 1000].map(|weight| server.create(json!({ "limits": { "io_weight": weight } })));
    let view = server.api("GET", &format!("/v1/sandboxes/{heavy}"), Value::Null).json();
    assert_eq!(view["limits"]["not_enforced"], json!([]), "{view}");
    // Each wants more than there is, the light one from more processes.
    let reads = "import mmap, os\nf, m = os.open('x', os.O_RDONLY | os.O_DIRECT), mmap.mmap(-1, 4096)\nwhile True: os.preadv(f, [m], 0)";
    for (id, processes) in [(&light, 8), (&heavy, 4)] {
        server.sh(id, "head -c 64K /dev/urandom > x; sync x");
        for _ in 0..processes {
            let body = json!({ "cmd": ["python3", "-c", reads], "detach": true });
            let answer = server.api("POST", &format!("/v1/sandboxes/{id}/processes"), body);
            assert_eq!(answer.status, 201, "{}", answer.text());
        }
    }
    let done = |id: &str| stats(&server, id)["io"]["reads"].as_u64().unwrap();
    let both = || (done(&light), done(&heavy));
    let begun = both();
    eventually("both read", Duration::from_secs(60), || {
        let (l, h) = both();
        l > begun.0 + 10 && h > begun.1 + 10
    });
    let ratio = || {
        let before = both();
        eventually("the disk was used", Duration::from_secs(60), || done(&heavy) > before.1 + 100);
        let after = both();
        (after.1 - before.1) as f64 / (after.0 - before.0).max(1) as f64
    };
    let shared = ratio();
    assert!(shared > 3.0, "{shared} to 1, of 10 to 1");
    assert_eq!(patch(&server, &heavy, json!({ "io_weight": 100 })).status, 200);
    let equal = ratio();
    assert!(equal < 2.0 && equal < shared / 2.0, "{equal} to 1, of 1 to 1; {shared} before");
    tell(&format!("  io_weight: {shared:.1} to 1 of 10 to 1, then {equal:.1} to 1 of 1 to 1"));
    drop(server);
}

fn open_files() {
    let server = Server::start(&[]);
    let id = server.create(json!({ "limits": { "nofile": 100 } }));
    let opens = || -> u32 {
        let script = "import os\nn = 0\ntry:\n  while n < 2000:\n    os.open('/dev/null', 0); n += 1\nexcept OSError: pass\nprint(n)";
        let body = json!({ "cmd": ["python3", "-c", script] });
        let answer = server.api("POST", &format!("/sandbox/{id}/exec"), body).json();
        answer["stdout"].as_str().unwrap().trim().parse().unwrap()
    };
    assert_eq!(opens(), 97, "and the three that every program has");
    assert_eq!(patch(&server, &id, json!({ "nofile": 300 })).status, 200);
    assert_eq!(opens(), 97);
    server.api("POST", &format!("/v1/sandboxes/{id}/stop"), Value::Null);
    assert_eq!(opens(), 297);
}
