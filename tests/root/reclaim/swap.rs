//! Swap of the whole machine, for as long as a test needs it.

use std::path::{Path, PathBuf};
use std::process::Command;

const ZRAM: &str = "/sys/block/zram0";
const ZSWAP: &str = "/sys/module/zswap/parameters/enabled";

/// A swap that is taken away with the value.
pub(super) struct Swap {
    device: PathBuf,
    kind: Kind,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Zram,
    File,
    /// A file with compressed memory before it.
    Zswap,
}

impl Swap {
    /// Memory that is compressed.
    pub(super) fn compressed(mib: u64) -> Self {
        if !Path::new(ZRAM).exists() {
            run("modprobe", &["zram", "num_devices=1"]);
        }
        std::fs::write(format!("{ZRAM}/disksize"), format!("{mib}M")).unwrap();
        Self::on("/dev/zram0", Kind::Zram)
    }

    pub(super) fn file(mib: u64) -> Self {
        Self::in_file(mib, Kind::File)
    }

    /// A file, and what goes there is kept compressed in memory as long as that has room.
    pub(super) fn zswap(mib: u64) -> Self {
        std::fs::write(ZSWAP, "Y").unwrap();
        Self::in_file(mib, Kind::Zswap)
    }

    fn in_file(mib: u64, kind: Kind) -> Self {
        let path = "/var/tmp/sandboxd-test-swap";
        // Written, since a swap file may have no holes.
        run("dd", &["if=/dev/zero", &format!("of={path}"), "bs=1M", &format!("count={mib}"), "status=none"]);
        run("chmod", &["600", path]);
        Self::on(path, kind)
    }

    fn on(device: &str, kind: Kind) -> Self {
        run("mkswap", &[device]);
        run("swapon", &[device]);
        Self { device: device.into(), kind }
    }

    /// How many bytes are in compressed memory, and what that takes; `None`: nothing is compressed.
    pub(super) fn cost(&self) -> Option<(u64, u64)> {
        match self.kind {
            Kind::File => None,
            Kind::Zram => {
                let text = std::fs::read_to_string(format!("{ZRAM}/mm_stat")).ok()?;
                let mut fields = text.split_whitespace().map(|field| field.parse().ok());
                Some((fields.next()??, fields.nth(1)??))
            }
            Kind::Zswap => {
                let text = std::fs::read_to_string("/proc/meminfo").ok()?;
                let field = |name: &str| {
                    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
                    line.split_whitespace().next()?.parse::<u64>().ok().map(|kib| kib * 1024)
                };
                Some((field("Zswapped:")?, field("Zswap:")?))
            }
        }
    }
}

impl Drop for Swap {
    fn drop(&mut self) {
        let _left = Command::new("swapoff").arg(&self.device).status();
        let _left = match self.kind {
            Kind::Zram => std::fs::write(format!("{ZRAM}/reset"), "1"),
            Kind::File | Kind::Zswap => std::fs::remove_file(&self.device),
        };
        if self.kind == Kind::Zswap {
            let _left = std::fs::write(ZSWAP, "N");
        }
    }
}

fn run(program: &str, arguments: &[&str]) {
    let output = Command::new(program).args(arguments).output().unwrap();
    assert!(output.status.success(), "{program} {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
}
