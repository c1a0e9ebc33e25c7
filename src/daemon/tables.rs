//! The machine's tables that all sandboxes share: made large enough at the start, and told of by `sandboxd check`.

use model::Finding;
use sys::memory;
use sys::tables::{self, Table};

/// Makes room in the machine's tables for what its memory can hold, so that no sandbox can fill one.
pub(super) fn make_room() {
    for mut table in small() {
        let (name, size, wanted) = (table.name, table.size, table.wanted);
        match table.enlarge() {
            Ok(()) => tracing::info!(name, size, wanted, "a table of the machine is enlarged"),
            Err(error) => tracing::warn!(
                %error, name, size, wanted,
                "failed to enlarge a table of the machine: some sandboxes can fill it together"
            ),
        }
    }
}

/// What `sandboxd check` says of them.
pub(super) fn finding() -> Finding {
    let stays_small: Vec<_> = small().into_iter().filter(|table| !table.can_be_enlarged()).collect();
    let detail = match &*stays_small {
        [] => format!("open files, processes, threads: memory is the bound{}", enlarged()),
        tables => tables.iter().map(told).collect::<Vec<_>>().join(", "),
    };
    Finding {
        feature: "shared tables",
        found: stays_small.is_empty(),
        detail,
        consequence: "some sandboxes together can fill them, and then nobody's program opens a file or starts a process; limits.nofile times limits.pids_max is held to half of fs.file-max",
        remedy: "sysctl fs.file-max, kernel.pid_max and kernel.threads-max to these; in a container of its own user namespace, on the host",
        required: false,
    }
}

fn small() -> Vec<Table> {
    let tables = memory::host().map(|host| tables::all(host.total_bytes)).unwrap_or_default();
    tables.into_iter().filter(|table| !table.is_large()).collect()
}

/// What the next start changes.
fn enlarged() -> String {
    let small = small();
    if small.is_empty() {
        return String::new();
    }
    format!(", once the start has enlarged {}", small.iter().map(told).collect::<Vec<_>>().join(", "))
}

fn told(table: &Table) -> String {
    format!("{} {} of {}", table.name, table.size, table.wanted)
}
