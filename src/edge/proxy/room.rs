//! How many connections there may be: of a listener, of one client, to apps, to one sandbox's apps.
//!
//! A connection is a descriptor, and descriptors are what creates, execs, the firewall and the record need too. So
//! connections have a share of the process's limit on open files, and the rest is left to everything else:
//!
//! ```text
//! limit on open files ─┬─ 1/8  API connections ─┐ of these at most half forward to a preview
//!                      ├─ 1/5  preview connections
//!                      ├─ 1/5  connections to apps: at most 1/4 of them to one sandbox
//!                      └─ the rest: sandboxes, record, firewall, files, and what is being refused
//! ```
//!
//! Where room is short the connection whose last request ended longest ago is closed for a new one; where none is at
//! rest the new one is told so.

use std::collections::{BTreeMap, HashMap};
use std::net::{IpAddr, Ipv6Addr};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;

use super::requests::Requests;
use model::SandboxId;

/// The most connections of one kind, however many descriptors there are: each costs some 15 KiB.
const CONNECTIONS_MAX: usize = 16_384;
/// The fewest: with fewer descriptors than this needs nothing works.
const CONNECTIONS_MIN: usize = 8;
const API_PART: u64 = 8;
const PREVIEWS_PART: u64 = 5;
const APPS_PART: u64 = 5;
/// So many sandboxes have to work together to take all connections to apps.
const SANDBOX_PART: usize = 4;
/// How long a connection that was chosen may take to go before another one is chosen too.
const LEAVE_PAUSE: Duration = Duration::from_millis(20);
/// How many connections are closed for a new one before that is refused.
const LEAVERS_MAX: usize = 50;

/// How many connections of each kind there may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Parts {
    pub(super) api: usize,
    pub(super) previews: usize,
    pub(super) apps: usize,
}

impl Parts {
    /// Divides a limit on open files.
    pub(super) fn of(open_files: u64) -> Self {
        let part = |parts: u64| {
            let part = usize::try_from(open_files / parts).unwrap_or(usize::MAX);
            part.clamp(CONNECTIONS_MIN, CONNECTIONS_MAX)
        };
        Self { api: part(API_PART), previews: part(PREVIEWS_PART), apps: part(APPS_PART) }
    }
}

/// A number that is taken from a total and given back.
#[derive(Debug)]
pub(super) struct Quota {
    max: usize,
    taken: AtomicUsize,
}

/// One of a [`Quota`], until it is dropped.
#[derive(Debug)]
pub(super) struct Taken(Arc<Quota>);

impl Quota {
    pub(super) fn new(max: usize) -> Arc<Self> {
        Arc::new(Self { max, taken: AtomicUsize::new(0) })
    }

    pub(super) fn take(self: &Arc<Self>) -> Option<Taken> {
        let more = |taken: usize| (taken < self.max).then_some(taken + 1);
        self.taken.fetch_update(Ordering::AcqRel, Ordering::Acquire, more).ok()?;
        Some(Taken(Arc::clone(self)))
    }
}

impl Drop for Taken {
    fn drop(&mut self) {
        self.0.taken.fetch_sub(1, Ordering::AcqRel);
    }
}

/// Connections to apps, and how many of them go to which sandbox.
#[derive(Debug)]
pub(super) struct Apps {
    all: Arc<Quota>,
    sandbox_max: usize,
    sandboxes: Mutex<HashMap<SandboxId, usize>>,
}

/// Why there is no connection to an app.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Short {
    /// This sandbox has as many as it may.
    Sandbox,
    /// All have, together.
    All,
}

/// One connection to an app, until it is dropped.
#[derive(Debug)]
pub(super) struct Share {
    apps: Arc<Apps>,
    id: SandboxId,
    _one: Taken,
}

impl Apps {
    /// Allows `max` connections, and to one sandbox `sandbox_max`, but no more than a part of all.
    pub(super) fn new(max: usize, sandbox_max: usize) -> Arc<Self> {
        let sandbox_max = sandbox_max.min(max / SANDBOX_PART).max(1);
        Arc::new(Self { all: Quota::new(max), sandbox_max, sandboxes: Mutex::default() })
    }

    /// Takes a connection to an app of a sandbox.
    ///
    /// # Errors
    /// There is none left.
    pub(super) fn take(self: &Arc<Self>, id: SandboxId) -> Result<Share, Short> {
        let mut sandboxes = self.sandboxes.lock().unwrap_or_else(PoisonError::into_inner);
        let taken = sandboxes.get(&id).copied().unwrap_or_default();
        if taken >= self.sandbox_max {
            return Err(Short::Sandbox);
        }
        let one = self.all.take().ok_or(Short::All)?;
        sandboxes.insert(id, taken + 1);
        Ok(Share { apps: Arc::clone(self), id, _one: one })
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        let mut sandboxes = self.apps.sandboxes.lock().unwrap_or_else(PoisonError::into_inner);
        give_back(&mut sandboxes, self.id);
    }
}

/// The connections of one listener.
#[derive(Debug)]
pub(super) struct Room {
    max: usize,
    client_max: usize,
    state: Mutex<State>,
    /// Tells that a connection has gone.
    left: Notify,
}

#[derive(Debug, Default)]
struct State {
    open: usize,
    /// The most since it was asked for.
    most: usize,
    clients: HashMap<IpAddr, usize>,
    /// Counts the times that a connection came to rest.
    rests: u64,
    /// Connections without a request, the one that came to rest first at the front.
    resting: BTreeMap<u64, (IpAddr, Arc<Leave>)>,
}

/// Tells one connection to go.
#[derive(Debug, Default)]
pub(super) struct Leave {
    told: Notify,
    /// Whether it has had a request: then the end of an answer may still be on its way.
    has_served: AtomicBool,
}

impl Leave {
    pub(super) async fn told(&self) {
        self.told.notified().await;
    }

    pub(super) fn has_served(&self) -> bool {
        self.has_served.load(Ordering::Relaxed)
    }
}

/// The room of one connection, until it is dropped with the descriptor.
#[derive(Debug)]
pub(super) struct Place {
    room: Arc<Room>,
    client: IpAddr,
}

/// Whether one connection has a request.
#[derive(Debug)]
pub(super) struct Rest {
    room: Arc<Room>,
    client: IpAddr,
    leave: Arc<Leave>,
    /// The number of its rest, while it rests.
    number: Mutex<Option<u64>>,
    /// Tells that a request has come.
    begun: Notify,
}

/// A request of a connection, until its answer has ended.
#[derive(Debug)]
pub(super) struct Working {
    rest: Arc<Rest>,
    requests: Arc<Requests>,
}

impl Room {
    /// Makes room for `max` connections, `client_max` of them from one address.
    pub(super) fn new(max: usize, client_max: usize) -> Arc<Self> {
        Arc::new(Self { max, client_max, state: Mutex::default(), left: Notify::new() })
    }

    /// How many connections have gone since there were most of them; from now on that is counted anew if `anew` says
    /// so of the number.
    pub(super) fn gone(&self, anew: impl FnOnce(usize) -> bool) -> usize {
        let mut state = self.state();
        let gone = state.most - state.open;
        if anew(gone) {
            state.most = state.open;
        }
        gone
    }

    /// Finds room for a connection that was accepted: where it is short others that are at rest are closed. `None` if
    /// there is none.
    ///
    /// # Cancel safety
    /// Cancel safe; a connection that was told to go goes.
    pub(super) async fn enter(self: &Arc<Self>, client: IpAddr) -> Option<Place> {
        let client = network_of(client);
        for _ in 0..LEAVERS_MAX {
            // Made first, so that one that goes in between is not missed.
            let left = self.left.notified();
            let is_short_for = {
                let mut state = self.state();
                let of_client = state.clients.get(&client).copied().unwrap_or_default();
                if state.open < self.max && of_client < self.client_max {
                    state.open += 1;
                    state.most = state.most.max(state.open);
                    state.clients.insert(client, of_client + 1);
                    return Some(Place { room: Arc::clone(self), client });
                }
                if of_client < self.client_max { None } else { Some(client) }
            };
            if !self.send_away(is_short_for) {
                return None;
            }
            let _too_slow = tokio::time::timeout(LEAVE_PAUSE, left).await;
        }
        None
    }

    /// Tells the connection to go that has been at rest for longest, of one client or of all; false if none is.
    pub(super) fn send_away(&self, client: Option<IpAddr>) -> bool {
        let mut state = self.state();
        let mut resting = state.resting.iter();
        let chosen = resting.find(|(_, (of, _))| client.is_none_or(|client| client == *of)).map(|(n, _)| *n);
        let Some((_, leave)) = chosen.and_then(|number| state.resting.remove(&number)) else { return false };
        drop(state);
        leave.told.notify_one();
        true
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Place {
    /// Begins to follow whether the connection has a request; it has none yet.
    pub(super) fn rest(&self) -> Arc<Rest> {
        let rest = Arc::new(Rest {
            room: Arc::clone(&self.room),
            client: self.client,
            leave: Arc::default(),
            number: Mutex::new(None),
            begun: Notify::new(),
        });
        rest.begin();
        rest
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut state = self.room.state();
        state.open -= 1;
        give_back(&mut state.clients, self.client);
        drop(state);
        self.room.left.notify_one();
    }
}

impl Rest {
    pub(super) fn leave(&self) -> &Leave {
        &self.leave
    }

    pub(super) fn is_working(&self) -> bool {
        self.number.lock().unwrap_or_else(PoisonError::into_inner).is_none()
    }

    /// Waits until there is a request.
    pub(super) async fn working(&self) {
        while !self.is_working() {
            self.begun.notified().await;
        }
    }

    /// Notes that a request has come.
    pub(super) fn work(self: &Arc<Self>, requests: Arc<Requests>) -> Working {
        self.leave.has_served.store(true, Ordering::Relaxed);
        self.end();
        self.begun.notify_one();
        Working { rest: Arc::clone(self), requests }
    }

    fn begin(&self) {
        let mut state = self.room.state();
        state.rests += 1;
        let number = state.rests;
        state.resting.insert(number, (self.client, Arc::clone(&self.leave)));
        drop(state);
        *self.number.lock().unwrap_or_else(PoisonError::into_inner) = Some(number);
    }

    fn end(&self) {
        let number = self.number.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(number) = number {
            self.room.state().resting.remove(&number);
        }
    }
}

impl Drop for Rest {
    fn drop(&mut self) {
        self.end();
    }
}

impl Drop for Working {
    fn drop(&mut self) {
        self.requests.end();
        self.rest.begin();
    }
}

/// Counts one less; what is at none is forgotten.
fn give_back<K: std::hash::Hash + Eq>(counts: &mut HashMap<K, usize>, key: K) {
    if let std::collections::hash_map::Entry::Occupied(mut entry) = counts.entry(key) {
        *entry.get_mut() -= 1;
        if *entry.get() == 0 {
            entry.remove();
        }
    }
}

/// What counts as one client: an IPv4 address, or an IPv6 network of 64 bits, which one client has for itself.
fn network_of(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V4(address) => address.into(),
        IpAddr::V6(address) => {
            let [a, b, c, d, ..] = address.segments();
            Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0).into()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ONE: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 1));
    const OTHER: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 2));

    #[test]
    fn most_descriptors_are_left_to_everything_else() {
        for files in [64, 256, 1024, 20_000, 1 << 20, u64::MAX] {
            let Parts { api, previews, apps } = Parts::of(files);
            let all = (api + previews + apps) as u128;
            assert!(all * 100 <= u128::from(files) * 55, "{files}: {all}");
            assert!(Apps::new(apps, 100_000).sandbox_max <= apps / SANDBOX_PART);
        }
    }

    #[tokio::test]
    async fn the_one_at_rest_for_longest_goes_and_one_that_works_stays() {
        let room = Room::new(3, 3);
        let places =
            [room.enter(ONE).await.unwrap(), room.enter(ONE).await.unwrap(), room.enter(ONE).await.unwrap()];
        let rests = places.each_ref().map(Place::rest);
        let _working = rests[0].work(Arc::default());
        // The second came to rest again after the third.
        drop(rests[1].work(Arc::default()));
        let [_first, _second, third] = places;
        let gone = async {
            rests[2].leave().told().await;
            drop(third);
        };
        let (place, ()) = tokio::join!(room.enter(OTHER), gone);
        assert!(place.is_some());
        assert_eq!(room.state().open, 3);
    }

    #[tokio::test]
    async fn nobody_enters_where_all_work() {
        let room = Room::new(2, 1);
        let place = room.enter(ONE).await.unwrap();
        let working = place.rest().work(Arc::default());
        // By its own bound, and then by that of all.
        assert!(room.enter(ONE).await.is_none());
        let other = room.enter(OTHER).await.unwrap();
        let third = "192.0.2.3".parse().unwrap();
        let _rests = other.rest().work(Arc::default());
        assert!(room.enter(third).await.is_none());
        drop((working, place));
        assert_eq!((room.gone(|gone| gone > 0), room.gone(|_| false)), (1, 0));
        assert!(room.enter(third).await.is_some());
    }

    #[test]
    fn one_sandbox_has_its_share() {
        let apps = Apps { all: Quota::new(3), sandbox_max: 2, sandboxes: Mutex::default() };
        let apps = Arc::new(apps);
        let (a, b) = (SandboxId::generate(), SandboxId::generate());
        let first = apps.take(a).unwrap();
        let _second = apps.take(a).unwrap();
        assert_eq!(apps.take(a).unwrap_err(), Short::Sandbox);
        let _third = apps.take(b).unwrap();
        assert_eq!(apps.take(b).unwrap_err(), Short::All);
        drop(first);
        assert!(apps.take(b).is_ok());
        assert_eq!(apps.sandboxes.lock().unwrap().len(), 2);
    }

    #[test]
    fn a_client_of_ipv6_is_its_network() {
        let of = |text: &str| network_of(text.parse().unwrap());
        assert_eq!(of("2001:db8:1:2:3:4:5:6"), of("2001:db8:1:2::1"));
        assert_ne!(of("2001:db8:1:2::1"), of("2001:db8:1:3::1"));
        assert_eq!(of("::ffff:192.0.2.1"), ONE);
    }
}
