//! The task that changes one sandbox; nobody else does.
//!
//! What takes time is work beside which the driver goes on to listen: nothing waits in a handler. What happens to the
//! sandbox itself (its first process ends) comes before what is asked of it.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Instant;

use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::base::command::{Command, Doing, MAILBOX, Meanwhile, Order};
use crate::books::registry::Entry;
use crate::life::charge::Charge;
use crate::life::lives::Life;
use crate::life::obey::{self, Outcome};
use crate::life::revive::Revive;
use model::{IdlePolicy, Status};

/// Boxed, so that a driver with nothing to do is small.
type BoxedWork = Pin<Box<dyn Future<Output = Outcome> + Send>>;

/// Gives a sandbox its driver.
pub(crate) fn drive(life: &Arc<Life>, entry: Arc<Entry>, mailbox: mpsc::Receiver<Box<Order>>) {
    let charge = Arc::new(Charge::new(Arc::clone(life), entry));
    life.ground.tasks.spawn(run(charge, mailbox));
}

/// Work that is under way.
struct Work {
    doing: Doing,
    /// Cuts it short.
    hurry: CancellationToken,
    future: BoxedWork,
}

struct Driver {
    charge: Arc<Charge>,
    revive: Revive,
    work: Option<Work>,
    /// A change of the record beside it.
    aside: Option<BoxedWork>,
    /// Commands that came meanwhile, in their order.
    waiting: VecDeque<Box<Order>>,
}

/// Runs until the sandbox is deleted or the daemon ends; work that was begun is finished first.
async fn run(charge: Arc<Charge>, mut mailbox: mpsc::Receiver<Box<Order>>) {
    let mut driver =
        Driver { charge, revive: Revive::default(), work: None, aside: None, waiting: VecDeque::new() };
    loop {
        let charge = Arc::clone(&driver.charge);
        let live = charge.entry.present();
        let revive_at = driver.revive_at();
        let is_idle = driver.work.is_none() && driver.aside.is_none();
        let is_paused = charge.entry.status() == Status::Paused;
        let has_waiting = !driver.waiting.is_empty();
        let listens = driver.aside.is_none() && driver.waiting.len() < MAILBOX;
        let lost = async {
            match &live {
                Some(live) => live.wait().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            () = charge.ground().tasks.ending.cancelled(), if is_idle => return,
            outcome = done(driver.work.as_mut().map(|work| &mut work.future)) => {
                driver.work = None;
                if driver.settle(outcome).is_gone() { return }
            }
            outcome = done(driver.aside.as_mut()) => {
                driver.aside = None;
                if driver.settle(outcome).is_gone() { return }
            }
            () = lost, if is_idle => driver.begin(Doing::Stop, obey::lost(charge)),
            () = charge.entry.activity.wanted(), if is_paused && is_idle => {
                driver.begin(Doing::Start, obey::wanted(Arc::clone(&charge)));
            }
            () = std::future::ready(()), if is_idle && has_waiting => driver.next(),
            order = mailbox.recv(), if listens => match order {
                Some(order) => driver.take(order),
                None => return,
            },
            // Last: whatever is asked during the pause is answered first and may end the revival.
            () = at(revive_at), if is_idle => {
                driver.revive.at = None;
                driver.begin(Doing::Start, obey::revive(Arc::clone(&charge)));
            }
        }
    }
}

/// Waits for what is under way; for ever without it.
async fn done(work: Option<&mut BoxedWork>) -> Outcome {
    match work {
        Some(future) => future.await,
        None => std::future::pending().await,
    }
}

/// Waits for an instant; for ever without one.
async fn at(instant: Option<Instant>) {
    match instant {
        Some(instant) => tokio::time::sleep_until(instant.into()).await,
        None => std::future::pending().await,
    }
}

impl Driver {
    /// Begins work; there is none.
    fn begin(&mut self, doing: Doing, work: impl Future<Output = Outcome> + Send + 'static) {
        self.work = Some(Work { doing, hurry: CancellationToken::new(), future: Box::pin(work) });
    }

    /// Takes a command: it is begun, done beside what is under way, or waits.
    fn take(&mut self, order: Box<Order>) {
        let Some(work) = &self.work else {
            self.waiting.push_back(order);
            return;
        };
        match order.command.meanwhile(work.doing) {
            Meanwhile::Beside => {
                let obeyed = obey::obey(Arc::clone(&self.charge), *order, CancellationToken::new());
                self.aside = Some(Box::pin(obeyed));
            }
            Meanwhile::After => self.waiting.push_back(order),
            Meanwhile::Hasten => {
                work.hurry.cancel();
                self.waiting.push_back(order);
            }
        }
    }

    /// Begins what has waited longest.
    fn next(&mut self) {
        let Some(order) = self.waiting.pop_front() else { return };
        if matches!(order.command, Command::Stop { .. }) {
            // Also of one that is down already: whoever stops it does not want it back.
            self.revive.at = None;
        }
        let (doing, hurry) = (order.command.doing(), CancellationToken::new());
        if self.waiting.iter().any(|waiting| waiting.command.meanwhile(doing) == Meanwhile::Hasten) {
            hurry.cancel();
        }
        let future = Box::pin(obey::obey(Arc::clone(&self.charge), *order, hurry.clone()));
        self.work = Some(Work { doing, hurry, future });
    }

    /// Draws the consequences of what is done.
    fn settle(&mut self, outcome: Outcome) -> Outcome {
        let is_always_on = self.charge.entry.record().spec.idle_policy == IdlePolicy::AlwaysOn;
        match outcome {
            Outcome::Unstarted => self.revive.schedule(),
            Outcome::Lost(ran_for) if is_always_on => self.revive.after_loss(ran_for),
            Outcome::Stays | Outcome::Gone | Outcome::Lost(_) => {}
        }
        if !is_always_on {
            self.revive.at = None;
        }
        outcome
    }

    /// When it is to be started again. Not if it runs, is no longer to be always on, or the server ends.
    fn revive_at(&self) -> Option<Instant> {
        let entry = &self.charge.entry;
        let is_down = entry.status() == Status::Stopped && entry.present().is_none();
        let is_wanted = entry.record().spec.idle_policy == IdlePolicy::AlwaysOn;
        self.revive.at.filter(|_| is_down && is_wanted && !self.charge.ground().tasks.closing.is_cancelled())
    }
}
