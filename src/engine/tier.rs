//! The seam between the tiers: what the core has to know of each, and what each cannot do.
//!
//! Each tier of isolation has an engine. It gets the same bundle, runs the same `sandbox-init`, in the same cgroup and network, and is watched
//! by one pidfd. Where two differ stands here, so that a third one is an arm of each `match` and a launch in the
//! worker (see [`super::runsc`]).

use std::path::{Path, PathBuf};

use super::connection::Way;
use model::{ByteSize, Isolation, Limits};

/// What gVisor's kernel takes of a sandbox's memory before anything runs in it, with as much again to work with.
const GVISOR_MEMORY_MIN: ByteSize = ByteSize::mib(128);
/// The threads of gVisor's kernel and of its file server, which count as the sandbox's, twice.
const GVISOR_PIDS_MIN: u32 = 128;

/// One of the ways to run a sandbox.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Engine(Isolation);

impl Engine {
    pub const fn of(isolation: Isolation) -> Self {
        Self(isolation)
    }

    pub const fn isolation(self) -> Isolation {
        self.0
    }

    /// How its `sandbox-init` is reached.
    pub const fn way(self) -> Way {
        match self.0 {
            Isolation::Container => Way::Accepting,
            Isolation::Gvisor => Way::Given,
        }
    }

    /// Whether it can be launched before it is anybody's, and be given its workspace and host name later. What is
    /// mounted into gVisor is fixed when it starts.
    pub const fn begins_nameless(self) -> bool {
        match self.0 {
            Isolation::Container => true,
            Isolation::Gvisor => false,
        }
    }

    /// Whether it runs in the user namespace that was made for its launch. gVisor has users of its own, who are
    /// nobody to the host's kernel.
    pub const fn has_users(self) -> bool {
        match self.0 {
            Isolation::Container => true,
            Isolation::Gvisor => false,
        }
    }

    /// Whether the launcher puts together what it is made of. gVisor has file systems, locks and watches of its own.
    pub const fn is_staged(self) -> bool {
        match self.0 {
            Isolation::Container => true,
            Isolation::Gvisor => false,
        }
    }

    /// Whether a file is closed when whoever wrote it closes it. gVisor's kernel keeps it open for the next one.
    pub const fn closes_files(self) -> bool {
        match self.0 {
            Isolation::Container => true,
            Isolation::Gvisor => false,
        }
    }

    /// Why it ended by itself, as far as what its cgroup has counted tells: kills for want of memory, and processes that
    /// could not be made. gVisor's kernel is one of those processes, and does not go on without.
    pub const fn reason_of_end(self, oom_kills: Option<u64>, pids_refused: Option<u64>) -> &'static str {
        match (self.0, oom_kills, pids_refused) {
            (Isolation::Gvisor, Some(1..), _) => {
                "memory has run out (limits.memory_max), which with the isolation \"gvisor\" ends the whole sandbox"
            }
            (Isolation::Gvisor, _, Some(1..)) => {
                "processes have run out (limits.pids_max), which with the isolation \"gvisor\" ends the whole sandbox"
            }
            (Isolation::Container | Isolation::Gvisor, _, _) => {
                "the sandbox's first process ended unexpectedly"
            }
        }
    }

    /// Whether a program of the host's launches it, which may be missing or too old.
    pub const fn is_program(self) -> bool {
        match self.0 {
            Isolation::Container => false,
            Isolation::Gvisor => true,
        }
    }

    /// Where, in a launch's run directory, the workspace is mounted for one that does not begin nameless; in
    /// the worker's mount namespace only.
    pub fn workspace(run_directory: &Path) -> PathBuf {
        run_directory.join("workspace")
    }

    /// Says why it cannot keep such limits.
    ///
    /// # Errors
    /// The reason, for clients.
    pub fn admit(self, limits: &Limits) -> Result<(), String> {
        match self.0 {
            Isolation::Container => Ok(()),
            Isolation::Gvisor if limits.memory_max < GVISOR_MEMORY_MIN => Err(format!(
                "isolation \"gvisor\" needs a limits.memory_max of {GVISOR_MEMORY_MIN} or more: its kernel's own memory counts"
            )),
            Isolation::Gvisor if limits.pids_max < GVISOR_PIDS_MIN => Err(format!(
                "isolation \"gvisor\" needs a limits.pids_max of {GVISOR_PIDS_MIN} or more: its kernel's own threads count"
            )),
            Isolation::Gvisor => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_tier_cannot_keep_is_refused_with_its_reason() {
        let ample = Limits::with_memory(GVISOR_MEMORY_MIN);
        let narrow = Limits { pids_max: GVISOR_PIDS_MIN - 1, ..ample.clone() };
        let small = Limits::with_memory(ByteSize::mib(127));
        let gvisor = Engine::of(Isolation::Gvisor);
        assert_eq!(gvisor.admit(&ample), Ok(()));
        assert!(gvisor.admit(&narrow).is_err_and(|reason| reason.contains("pids_max of 128")));
        assert!(gvisor.admit(&small).is_err_and(|reason| reason.contains("memory_max of 128M")));
        assert_eq!(Engine::of(Isolation::Container).admit(&small), Ok(()));
    }

    #[test]
    fn an_end_has_the_reason_that_its_cgroup_tells() {
        let [container, gvisor] = [Isolation::Container, Isolation::Gvisor].map(Engine::of);
        for (engine, kills, refused, expected) in [
            (gvisor, Some(1), Some(7), "memory_max"),
            (gvisor, Some(0), Some(7), "pids_max"),
            (gvisor, None, None, "unexpectedly"),
            // There it was some other process that was killed, or not made.
            (container, Some(1), Some(7), "unexpectedly"),
        ] {
            let reason = engine.reason_of_end(kills, refused);
            assert!(reason.contains(expected), "{engine:?}: {reason}");
        }
    }
}
