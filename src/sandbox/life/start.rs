//! How a sandbox is started: launched, thawed, told of.

use std::sync::Arc;
use std::time::Instant;

use crate::base::error::{Error, chain};
use crate::base::events::{What, Why};
use crate::base::lifecycle::{Decision, Request, decide};
use crate::base::tasks::blocking;
use crate::launch::admission::Purpose;
use crate::launch::provision::{self, Occasion, Provisioned};
use crate::launch::undo::tear_down;
use crate::life::announce::{Began, How};
use crate::life::charge::Charge;
use crate::life::end::{self, refused};
use crate::life::pause::{self, Thawed};
use crate::running::live::{Grace, Live};
use model::{GitSource, Record, Status};
use storage::Prepared;

pub(crate) async fn create(charge: &Charge, git: Option<GitSource>) -> Result<(), Error> {
    let begun = Instant::now();
    let record = charge.entry.record();
    let result = provision::provision(&charge.life.launching, &record, Occasion::Create).await;
    let result = match result {
        Ok(provisioned) => begin(charge, provisioned, Why::Request, git).await,
        Err(error) => Err(error),
    };
    match &result {
        Ok(()) => charge.books().metrics.observe_create(begun.elapsed()),
        // The id is free again only now that nothing of it is left.
        Err(_) => charge.books().registry.remove(charge.entry.id),
    }
    result
}

pub(crate) async fn start(charge: &Charge, why: Why) -> Result<bool, Error> {
    let status = charge.entry.status();
    match decide(status, Request::Start) {
        Decision::Already => return Ok(false),
        Decision::Launch => {}
        Decision::Thaw => match pause::thaw(charge, why).await? {
            Thawed::Awake => return Ok(true),
            Thawed::Lost => {}
        },
        Decision::Freeze | Decision::Stop | Decision::Delete | Decision::Refuse => {
            return Err(refused(Request::Start, status));
        }
    }
    let begun = Instant::now();
    let result = launch_again(charge, why).await;
    let outcome = match &result {
        Ok(()) => "ok",
        Err(Error::Refused { .. }) => "refused",
        Err(_) => "failed",
    };
    charge.books().metrics.count_wake(outcome, begun.elapsed());
    result.map(|()| true)
}

pub(crate) async fn launch_again(charge: &Charge, why: Why) -> Result<(), Error> {
    if charge.ground().tasks.closing.is_cancelled() {
        // Here, since it is no failure of the sandbox that its record should tell of.
        return Err(Error::Ending);
    }
    let _admitted = charge.life.launching.admission.admit(Purpose::Wake)?;
    end::make_room(charge).await?;
    let record = charge.entry.record();
    match provision::provision(&charge.life.launching, &record, Occasion::Wake).await {
        Ok(provisioned) => begin(charge, provisioned, why, None).await,
        Err(error) => {
            // The workspace is untouched: it is stopped as before, and may be tried again.
            let change = |record: &mut Record| {
                record.address_index = None;
                record.error_message = Some(format!("the last start failed: {}", error.message()));
            };
            if let Err(unwritten) = charge.note(change).await {
                tracing::error!(id = %charge.entry.id, error = %chain(&unwritten), "cannot record a failed start");
            }
            Err(error)
        }
    }
}

/// Records and publishes that the sandbox runs, and starts watching its app.
pub(crate) async fn begin(
    charge: &Charge,
    provisioned: Provisioned,
    why: Why,
    git: Option<GitSource>,
) -> Result<(), Error> {
    let Provisioned { live, record, workspace } = provisioned;
    let is_empty = workspace == Prepared::Made && record.spec.template.is_none() && git.is_none();
    let live = Arc::new(live);
    let is_new = charge.entry.status() == Status::Creating;
    if !is_new && let Err(error) = provision::record_running(charge.ground(), record.clone()).await {
        return Err(abandon(charge, &live, error).await);
    }
    if workspace == Prepared::Made {
        note_recorded(charge);
    }
    charge.entry.activity.mark();
    charge.entry.publish(|published| {
        published.record = Arc::new(record);
        published.live = Some(Arc::clone(&live));
    });
    if is_new {
        charge.books().tell(charge.entry.id, What::Created);
    }
    charge.books().tell(charge.entry.id, What::Running(why));
    let how = How::Launched { git, is_empty };
    charge.life.announce.began(Began { entry: Arc::clone(&charge.entry), live, how });
    Ok(())
}

/// Tells the storage that the record is on the disk; nobody waits for it.
pub(crate) fn note_recorded(charge: &Charge) {
    let (host, id) = (Arc::clone(charge.host()), charge.entry.id);
    charge.ground().tasks.spawn(async move {
        if let Err(error) = blocking(move || host.storage.is_recorded(id).map_err(Error::Storage)).await {
            tracing::warn!(%id, error = %chain(&error), "a workspace stays marked as new until the next start");
        }
    });
}

/// Ends a sandbox that was woken and could not be recorded.
pub(crate) async fn abandon(charge: &Charge, live: &Live, cause: Error) -> Error {
    // Whether or not it ended: what is left of it is told by the tear-down.
    let _ended: bool = live.end(&Grace::none()).await;
    match tear_down(charge.ground(), live).await {
        Ok(()) => cause,
        Err(error) => Error::Leftovers { cause: Box::new(cause), cleanup: vec![chain(&error)] },
    }
}
