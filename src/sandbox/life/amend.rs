//! What is changed of a sandbox by request, whatever it is doing.

use std::sync::Arc;

use crate::base::command::Update;
use crate::base::error::Error;
use crate::launch::limits;
use crate::life::adjust;
use crate::life::charge::Charge;
use engine::Engine;
use model::{External, Record};

pub(crate) async fn claim(charge: &Charge, owner: External) -> Result<(), Error> {
    let record = charge.entry.record();
    let old = record.spec.external.clone();
    if let Some(user) = old.user_id()
        && owner.user_id() != Some(user)
    {
        return Err(Error::Conflict("the sandbox is claimed by another user".to_owned()));
    }
    let new = owner.clone();
    charge.amend(move |record| record.spec.external = owner).await?;
    charge.books().registry.move_owner(charge.entry.id, &old, &new);
    Ok(())
}

/// Changes what was asked for; limits hold before they are recorded, and as before when they cannot be.
pub(crate) async fn update(charge: &Charge, update: Update) -> Result<(), Error> {
    let before = charge.entry.record();
    let limits = before.spec.limits.with(&update.limits, &limits::ceiling());
    let limits = limits.map_err(|e| Error::Invalid(e.to_string()))?;
    Engine::of(before.spec.isolation).admit(&limits).map_err(Error::Invalid)?;
    let live = charge.entry.present().filter(|_| limits != before.spec.limits);
    if let Some(live) = &live {
        adjust::apply(charge.host(), Arc::clone(live), &before.spec.limits, &limits).await?;
    }
    let change = |record: &mut Record| {
        record.spec.idle_policy = update.idle_policy.unwrap_or(record.spec.idle_policy);
        record.spec.sleep = update.sleep.unwrap_or(record.spec.sleep);
        record.spec.limits = limits.clone();
    };
    let recorded = charge.amend(change).await;
    if let (Err(_), Some(live)) = (&recorded, live) {
        adjust::apply(charge.host(), live, &limits, &before.spec.limits).await?;
    }
    recorded
}
