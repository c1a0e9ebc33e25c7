//! The map of all sandboxes.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::Instant;

use tokio::sync::{Semaphore, mpsc, oneshot, watch};

use crate::base::activity::Activity;
use crate::base::command::{Command, Order, Reply};
use crate::base::error::Error;
use crate::base::request::Filter;
use crate::base::share::Share;
use crate::base::view::AppView;
use crate::books::owners::Owners;
use crate::books::tally::{Standing, Tally};
use crate::running::live::Live;
use crate::running::process::table::Processes;
use crate::running::queues::PortQueues;
use model::{External, Record, SandboxId, Status};
use telemetry::Trace;

/// What the driver publishes.
#[derive(Debug, Clone)]
pub(crate) struct Published {
    pub(crate) record: Arc<Record>,
    pub(crate) live: Option<Arc<Live>>,
    pub(crate) app: AppView,
    pub(crate) generation: u64,
}

/// One sandbox, as everybody but its driver knows it.
#[derive(Debug)]
pub(crate) struct Entry {
    pub(crate) id: SandboxId,
    pub(crate) mailbox: mpsc::Sender<Box<Order>>,
    /// Changed by the driver and by what it started.
    pub(crate) state: watch::Sender<Published>,
    pub(crate) activity: Activity,
    pub(crate) processes: Arc<Processes>,
    pub(crate) workspace: PathBuf,
    /// How many more requests may wait for it.
    pub(crate) held: Semaphore,
    pub(crate) queues: PortQueues,
    /// Its share of the threads that wait for disks.
    pub(crate) share: Share,
    pub(crate) count: Count,
}

/// How a sandbox is counted while it is in the registry.
#[derive(Debug)]
pub(crate) struct Count {
    tally: Arc<Tally>,
    standing: Mutex<Option<Standing>>,
}

#[derive(Debug, Default)]
pub(crate) struct Registry {
    maps: RwLock<Maps>,
    tally: Arc<Tally>,
}

#[derive(Debug, Default)]
struct Maps {
    entries: BTreeMap<SandboxId, Arc<Entry>>,
    /// By the time of their creation, which an id that a client has chosen does not tell.
    by_age: BTreeSet<(i64, SandboxId)>,
    owners: Owners,
}

impl Entry {
    pub(crate) fn record(&self) -> Arc<Record> {
        Arc::clone(&self.state.borrow().record)
    }

    pub(crate) fn status(&self) -> Status {
        self.state.borrow().record.status
    }

    fn matches(&self, filter: &Filter) -> bool {
        let record = self.record();
        let is = |wanted: &Option<String>, has: Option<&str>| wanted.is_none() || wanted.as_deref() == has;
        let owner = &record.spec.external;
        is(&filter.external_user_id, owner.user_id()) && is(&filter.external_project_id, owner.project_id())
    }

    /// What runs and can be talked to; nothing while it is frozen.
    pub(crate) fn live(&self) -> Option<Arc<Live>> {
        let published = self.state.borrow();
        published.live.clone().filter(|_| published.record.status != Status::Paused)
    }

    /// What exists of it, running or frozen. Whoever asks it something has to look at the status.
    pub(crate) fn present(&self) -> Option<Arc<Live>> {
        self.state.borrow().live.clone()
    }

    /// Publishes a change.
    pub(crate) fn publish(&self, change: impl FnOnce(&mut Published)) {
        self.state.send_modify(|published| {
            change(published);
            published.generation += 1;
            // In here, since the app's task publishes too.
            self.count.changed(self.id, published);
        });
    }

    /// Says that the time at which it is to sleep may have come nearer.
    pub(crate) fn look_again(&self) {
        self.count.tally.look_at(self.id);
    }
}

impl Count {
    fn changed(&self, id: SandboxId, published: &Published) {
        let mut standing = self.standing();
        let now = published.standing();
        if let Some(before) = standing.filter(|before| *before != now) {
            self.tally.change(id, Some(before), Some(now));
            *standing = Some(now);
        }
    }

    fn begin(&self, id: SandboxId, now: Standing) {
        *self.standing() = Some(now);
        self.tally.change(id, None, Some(now));
    }

    fn end(&self, id: SandboxId) {
        let before = self.standing().take();
        self.tally.change(id, before, None);
    }

    fn standing(&self) -> std::sync::MutexGuard<'_, Option<Standing>> {
        self.standing.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Published {
    fn standing(&self) -> Standing {
        Standing { status: self.record.status, is_present: self.live.is_some() }
    }
}

impl Registry {
    pub(crate) fn find(&self, id: SandboxId) -> Option<Arc<Entry>> {
        self.read().entries.get(&id).cloned()
    }

    /// Adds a sandbox unless its id, or its project when `unique_project` says so, is taken; then the
    /// one that has it is returned as the error.
    pub(crate) fn insert(&self, entry: Arc<Entry>, unique_project: bool) -> Result<(), Arc<Entry>> {
        let record = entry.record();
        let mut maps = self.write();
        if let Some(taken) = maps.entries.get(&entry.id) {
            return Err(Arc::clone(taken));
        }
        let owner = &record.spec.external;
        if unique_project
            && let Some(project) = owner.project_id()
            && let Some(taken) = maps.owners.of_project(project).next()
            && let Some(taken) = maps.entries.get(&taken)
        {
            return Err(Arc::clone(taken));
        }
        maps.owners.add(entry.id, owner);
        maps.by_age.insert((record.created_at, entry.id));
        // Nothing is changed: this only keeps others from publishing meanwhile.
        entry.state.send_if_modified(|published| {
            entry.count.begin(entry.id, published.standing());
            false
        });
        maps.entries.insert(entry.id, entry);
        Ok(())
    }

    /// Notes that a sandbox belongs to somebody else now.
    pub(crate) fn move_owner(&self, id: SandboxId, from: &External, to: &External) {
        let mut maps = self.write();
        maps.owners.remove(id, from);
        maps.owners.add(id, to);
    }

    pub(crate) fn remove(&self, id: SandboxId) {
        let mut maps = self.write();
        if let Some(entry) = maps.entries.remove(&id) {
            let record = entry.record();
            maps.owners.remove(id, &record.spec.external);
            maps.by_age.remove(&(record.created_at, id));
            entry.state.send_if_modified(|_published| {
                entry.count.end(id);
                false
            });
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.read().entries.len()
    }

    /// All of them; for what happens seldom.
    pub(crate) fn all(&self) -> Vec<Arc<Entry>> {
        self.read().entries.values().cloned().collect()
    }

    /// Those of which there are processes, running or frozen.
    pub(crate) fn present(&self) -> Vec<Arc<Entry>> {
        let ids = self.tally.present();
        let maps = self.read();
        ids.iter().filter_map(|id| maps.entries.get(id)).cloned().collect()
    }

    /// Those that match, the newest first.
    pub(crate) fn matching(&self, filter: &Filter) -> Vec<Arc<Entry>> {
        let maps = self.read();
        let owned: Option<Vec<SandboxId>> = match (&filter.external_user_id, &filter.external_project_id) {
            (Some(user), _) => Some(maps.owners.of_user(user).collect()),
            (None, Some(project)) => Some(maps.owners.of_project(project).collect()),
            (None, None) => None,
        };
        let mut found: Vec<Arc<Entry>> = match owned {
            Some(ids) => ids.iter().filter_map(|id| maps.entries.get(id)).cloned().collect(),
            None => maps.by_age.iter().rev().filter_map(|(_, id)| maps.entries.get(id)).cloned().collect(),
        };
        drop(maps);
        found.retain(|entry| entry.matches(filter));
        if filter.external_user_id.is_some() || filter.external_project_id.is_some() {
            found.sort_by_key(|entry| Reverse((entry.record().created_at, entry.id)));
        }
        found
    }

    /// At most `limit` whose ids come before one, the greatest id first.
    pub(crate) fn page(
        &self,
        status: Option<Status>,
        before: Option<SandboxId>,
        limit: usize,
    ) -> Vec<Arc<Entry>> {
        let end = before.map_or(Bound::Unbounded, Bound::Excluded);
        let maps = self.read();
        let ids = maps.entries.range((Bound::Unbounded, end)).rev().map(|(_, entry)| entry);
        ids.filter(|entry| status.is_none_or(|s| entry.status() == s)).take(limit).cloned().collect()
    }

    pub(crate) fn of_user(&self, user: &str) -> Vec<SandboxId> {
        self.read().owners.of_user(user).collect()
    }

    pub(crate) fn of_project(&self, project: &str) -> Vec<SandboxId> {
        self.read().owners.of_project(project).collect()
    }

    pub(crate) fn tally(&self) -> &Tally {
        &self.tally
    }

    /// For a sandbox that is not in here yet.
    pub(crate) fn count(&self) -> Count {
        Count { tally: Arc::clone(&self.tally), standing: Mutex::default() }
    }

    // A panic ends the process, so a lock that a panic left is never seen.
    fn read(&self) -> RwLockReadGuard<'_, Maps> {
        self.maps.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Maps> {
        self.maps.write().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Asks a sandbox's driver and waits for its answer.
pub(crate) async fn ask<T>(entry: &Entry, command: impl FnOnce(Reply<T>) -> Command) -> Result<T, Error> {
    let (sender, receiver) = oneshot::channel();
    // A driver that has gone has deleted its sandbox, or the daemon is ending.
    // Boxed: a channel sets aside room for 32 messages from the beginning, and each sandbox has one.
    let trace = Trace::current().unwrap_or_else(Trace::new);
    let order = Box::new(Order { command: command(sender), trace, asked: Instant::now() });
    entry.mailbox.send(order).await.map_err(|_closed| Error::NotFound(entry.id))?;
    receiver.await.map_err(|_closed| Error::Ending)?
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::base::view::Counts;
    use crate::running::process::table::ProcessHost;
    use model::{ByteSize, Environment, HostHeader, IdlePolicy, Isolation, Limits, SandboxSpec, Visibility};

    fn processes(id: SandboxId, activity: &Activity) -> Processes {
        let config = crate::running::process::nouns::Config {
            running_max: 1,
            output_bytes: 1,
            stall: Duration::ZERO,
            input: Duration::ZERO,
            hang_up: Duration::ZERO,
        };
        let rings = Arc::new(crate::running::process::rings::Rings::within(std::path::Path::new("/")));
        let host = ProcessHost { tasks: crate::base::tasks::Tasks::default(), config, rings };
        Processes::new(id, activity.clone(), Arc::new(host))
    }

    fn entry(registry: &Registry, number: u64) -> Arc<Entry> {
        let now = crate::base::activity::now_ms();
        let spec = SandboxSpec {
            id: SandboxId::generate(),
            isolation: Isolation::default(),
            rootfs: model::RootFs::default(),
            nested_namespaces: false,
            ports: Vec::new(),
            env: Environment::default(),
            template: None,
            visibility: Visibility::Private,
            idle_policy: IdlePolicy::Sleep,
            host_header: HostHeader::Upstream,
            sleep: None,
            limits: Limits::with_memory(ByteSize::mib(512)),
            external: External::new(Some(format!("user-{}", number % 1000)), None, None).unwrap(),
            app_id: None,
            git: None,
        };
        let record = Record { status: Status::Stopped, ..Record::new(spec, now) };
        let published =
            Published { record: Arc::new(record), live: None, app: AppView::default(), generation: 0 };
        let (id, activity) = (published.record.spec.id, Activity::new(now));
        Arc::new(Entry {
            id,
            mailbox: mpsc::channel(1).0,
            state: watch::Sender::new(published),
            processes: Arc::new(processes(id, &activity)),
            activity,
            workspace: PathBuf::new(),
            held: Semaphore::new(1),
            queues: PortQueues::default(),
            share: crate::base::share::Threads::new(&tokio_util::task::TaskTracker::new()).share(),
            count: registry.count(),
        })
    }

    fn filled(number: u64) -> Registry {
        let registry = Registry::default();
        for number in 0..number {
            registry.insert(entry(&registry, number), false).unwrap();
        }
        registry
    }

    fn set_status(entry: &Entry, status: Status) {
        entry.publish(|published| {
            published.record = Arc::new(Record { status, ..(*published.record).clone() });
        });
    }

    #[test]
    fn what_is_counted_follows_what_is_published() {
        let registry = filled(3);
        let newcomer = entry(&registry, 3);
        set_status(&newcomer, Status::Creating);
        assert_eq!(registry.tally().counts(), Counts { stopped: 3, ..Counts::default() }, "not in it yet");
        registry.insert(Arc::clone(&newcomer), false).unwrap();
        set_status(&newcomer, Status::Running);
        set_status(&newcomer, Status::Running);
        assert_eq!(registry.tally().counts(), Counts { stopped: 3, running: 1, ..Counts::default() });
        registry.remove(newcomer.id);
        set_status(&newcomer, Status::Error);
        assert_eq!(registry.tally().counts(), Counts { stopped: 3, ..Counts::default() });
    }

    #[test]
    fn pages_and_lists_have_their_order() {
        let registry = filled(5);
        let ids = |entries: Vec<Arc<Entry>>| entries.iter().map(|entry| entry.id).collect::<Vec<_>>();
        let all = ids(registry.page(None, None, 9));
        assert!(all.len() == 5 && all.is_sorted_by(|a, b| a > b));
        assert_eq!(ids(registry.page(None, Some(all[1]), 2)), all[2..4]);
        assert!(registry.page(Some(Status::Running), None, 9).is_empty());
        assert_eq!(ids(registry.matching(&Filter::default())).len(), 5);
        let of_one = Filter { external_user_id: Some("user-2".to_owned()), ..Filter::default() };
        assert_eq!(ids(registry.matching(&of_one)), registry.of_user("user-2"));
        let (from, to) = (registry.find(all[0]).unwrap().record().spec.external.clone(), External::default());
        registry.move_owner(all[0], &from, &to);
        assert!(registry.of_user(from.user_id().unwrap()).is_empty());
    }

    /// The least time of a few batches, since other programs run beside this one.
    fn cost(work: impl Fn()) -> Duration {
        let batch = || {
            let begun = Instant::now();
            (0..200).for_each(|_| work());
            begun.elapsed()
        };
        (0..20).map(|_| batch()).min().unwrap_or_default()
    }

    #[test]
    fn nothing_on_a_hot_path_grows_with_the_number_of_sandboxes() {
        let [few, many] = [50, 5000].map(filled);
        let id = |registry: &Registry| registry.page(None, None, 1)[0].id;
        let (in_few, in_many) = (id(&few), id(&many));
        let compare = |what: &str, work: &dyn Fn(&Registry, SandboxId)| {
            let (little, much) = (cost(|| work(&few, in_few)), cost(|| work(&many, in_many)));
            // A hundred times as many: what is linear would take a hundred times as long.
            assert!(much < little * 10 + Duration::from_micros(200), "{what}: {little:?}, then {much:?}");
        };
        compare("find", &|registry, id| assert!(registry.find(id).is_some()));
        compare("count", &|registry, _| assert!(registry.tally().counts().stopped >= 50));
        compare("look for those that run", &|registry, _| assert!(registry.present().is_empty()));
        compare("a page", &|registry, id| assert_eq!(registry.page(None, Some(id), 20).len(), 20));
        compare("those of a user", &|registry, _| assert!(!registry.of_user("user-7").is_empty()));
        compare("publish", &|registry, id| {
            if let Some(entry) = registry.find(id) {
                set_status(&entry, Status::Stopped);
            }
        });
        compare("come and go", &|registry, _| {
            let entry = entry(registry, 1_000_000);
            let id = entry.id;
            assert!(registry.insert(entry, false).is_ok());
            registry.remove(id);
        });
    }
}
