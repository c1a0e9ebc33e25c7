//! Which threads go first on the processors: man 2 setpriority, "C library/kernel differences".

use rustix::process::{getpriority_process, setpriority_process};

/// A thread of this niceness gets a tenth of the time that one of niceness 0 gets beside it, and all of it where
/// nobody else wants any (`sched_prio_to_weight` in the kernel: 110 and 1024).
const NICENESS: i32 = 10;

/// While this value lives, the calling thread lets other threads go first.
#[derive(Debug)]
pub struct Yielding {
    before: Option<i32>,
    /// It belongs to the thread that made it.
    _thread: std::marker::PhantomData<*const ()>,
}

impl Yielding {
    /// Lowers the priority of the calling thread. Where the kernel refuses, nothing changes.
    #[must_use]
    pub fn begin() -> Self {
        // Linux keeps a niceness for each thread, and no process names the calling one.
        let before = getpriority_process(None).ok().filter(|now| *now < NICENESS);
        let before = before.filter(|_| setpriority_process(None, NICENESS).is_ok());
        Self { before, _thread: std::marker::PhantomData }
    }
}

impl Drop for Yielding {
    fn drop(&mut self) {
        if let Some(before) = self.before {
            // Refused only without CAP_SYS_NICE, which the daemon has: the thread goes on, and is slower at worst.
            let _refused: rustix::io::Result<()> = setpriority_process(None, before);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::thread::{Builder, JoinHandle};

    use super::*;

    fn on_a_thread<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> JoinHandle<T> {
        Builder::new().name("priority".to_owned()).spawn(work).unwrap()
    }

    #[test]
    fn a_thread_yields_for_as_long_as_it_is_told_to() {
        let work = on_a_thread(|| {
            let before = getpriority_process(None).unwrap();
            let neighbour = on_a_thread(|| {
                std::thread::sleep(std::time::Duration::from_millis(50));
                getpriority_process(None).unwrap()
            });
            let yielding = Yielding::begin();
            assert_eq!(getpriority_process(None).unwrap(), before.max(NICENESS));
            assert_eq!(neighbour.join().unwrap(), before, "another thread is slowed down");
            drop(yielding);
            // Only who may raise a priority gets it back.
            assert_eq!(getpriority_process(None).unwrap(), before);
        });
        work.join().unwrap();
    }
}
