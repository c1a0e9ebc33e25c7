//! How a sandbox is asked for: checked, entered into the books, and given a driver.

use std::sync::Arc;

use crate::base::activity::now_ms;
use crate::base::command::Command;
use crate::base::error::Error;
use crate::base::request::{CreateRequest, SleepRequest};
use crate::base::tasks::blocking;
use crate::books::registry::{Entry, ask};
use crate::launch::admission::Purpose;
use crate::launch::ground::Ground;
use crate::launch::host::Host;
use crate::launch::ids;
use crate::launch::limits::ceiling;
use crate::life::driver;
use crate::life::lives::Life;
use crate::life::rules::SleepRules;
use engine::Engine;
use metadata::Durability;
use model::{External, Record, SandboxId, SandboxSpec, SleepPolicy, Status};

/// What is said of a sandbox of which only the workspace was left.
const FOUND: &str = "the record of this sandbox was lost; its files are as they were, and its owner, ports and environment are not known";

/// How many sandboxes there may be.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Bounds {
    pub(crate) sandboxes_max: usize,
}

/// What came of a create.
#[derive(Debug)]
pub(crate) enum Birth {
    New(Arc<Entry>),
    /// The project has one already.
    Existing(Arc<Entry>),
}

/// Creates a sandbox and waits until it can take an exec.
///
/// # Errors
/// The id or owner conflicts, memory is short, or a step failed, in which case nothing is left of it.
pub(crate) async fn create(
    life: &Arc<Life>,
    bounds: &Bounds,
    mut request: CreateRequest,
) -> Result<Birth, Error> {
    let Ground { host, books, .. } = &life.ground;
    if books.registry.len() >= bounds.sandboxes_max {
        let text = format!("the limit of {} sandboxes is reached; purge some", bounds.sandboxes_max);
        return Err(Error::Exhausted(text));
    }
    host.storage.check_room().map_err(Error::Storage)?;
    request.ports = ports_of(host, &request).await?;
    let (git, one_per_project) = (request.git.clone(), request.one_per_project);
    let record = new_record(life, request)?;
    let (id, engine) = (record.spec.id, Engine::of(record.spec.isolation));
    ids::check_rootfs(host, record.spec.rootfs, record.spec.isolation)?;
    ids::check_nested(host, &record.spec)?;
    engine.admit(&record.spec.limits).map_err(Error::Invalid)?;
    if engine.is_program() {
        let runtime = host.runtime.clone();
        blocking(move || runtime.probe(engine).map_err(Error::Conflict)).await?;
    }
    let exists = || Error::Conflict(format!("sandbox {id} exists already"));
    // Looked at before its workspace is: nobody is to be told to purge one that is in use.
    if books.registry.find(id).is_some() {
        return Err(exists());
    }
    check_workspace_owner(&life.ground, id, &record.spec.external)?;
    let (entry, mailbox) = books.entry(record, host.storage.workspace_path(id));
    if let Err(taken) = books.registry.insert(Arc::clone(&entry), one_per_project) {
        if taken.id == id {
            return Err(exists());
        }
        return Ok(Birth::Existing(taken));
    }
    // Admitted only now: a project's second request must find the first one's sandbox, not a refusal.
    let _admitted = match life.launching.admission.admit(Purpose::Create) {
        Ok(admitted) => admitted,
        Err(refused) => {
            books.registry.remove(id);
            return Err(refused);
        }
    };
    driver::drive(life, Arc::clone(&entry), mailbox);
    ask(&entry, |reply| Command::Create { git, reply }).await?;
    books.forget_kept(id).await?;
    Ok(Birth::New(entry))
}

/// A workspace without a sandbox is given back to its owner only.
fn check_workspace_owner(ground: &Ground, id: SandboxId, owner: &External) -> Result<(), Error> {
    let kept = ground.books.kept.owner(id);
    match kept {
        Some(kept) if kept == *owner => Ok(()),
        Some(_) => Err(Error::Conflict(format!("the workspace of {id} belongs to another owner"))),
        None if ground.host.storage.has_workspace(id) => Err(Error::Conflict(format!(
            "there is a workspace of {id} whose owner is not known; purge it first"
        ))),
        None => Ok(()),
    }
}

/// The ports of a new sandbox: those that the client names, else those of the template's manifest, so
/// that a sandbox that sleeps is woken by its preview also when nobody has read its manifest yet.
async fn ports_of(host: &Arc<Host>, request: &CreateRequest) -> Result<Vec<u16>, Error> {
    if !request.ports.is_empty() {
        return Ok(request.ports.clone());
    }
    let declared = match request.template.clone().filter(|t| !t.is_blank()) {
        Some(template) => {
            let host = Arc::clone(host);
            blocking(move || Ok(host.storage.template_info(&template))).await?
        }
        None => None,
    };
    let declared = declared.map(|info| info.ports).unwrap_or_default();
    Ok(if declared.is_empty() { request.ports_default.clone() } else { declared })
}

fn new_record(life: &Life, request: CreateRequest) -> Result<Record, Error> {
    let limits = life.ground.host.config.limits.with(&request.limits, &ceiling());
    let limits = limits.map_err(|e| Error::Invalid(e.to_string()))?;
    let now = now_ms();
    let spec = SandboxSpec {
        id: request.id.unwrap_or_else(SandboxId::generate),
        ports: request.ports,
        env: request.env,
        template: request.template,
        visibility: request.visibility,
        idle_policy: request.idle_policy,
        host_header: request.host_header,
        sleep: request.sleep.map(|sleep| sleep_policy(&life.sleep, sleep)).transpose()?,
        limits,
        external: request.external,
        app_id: request.app_id,
        git: request.git,
        isolation: request.isolation.unwrap_or_default(),
        rootfs: request.rootfs,
        nested_namespaces: request.nested_namespaces,
    };
    Ok(Record::new(spec, now))
}

pub(crate) fn sleep_policy(rules: &SleepRules, request: SleepRequest) -> Result<SleepPolicy, Error> {
    let rest = rules.idle_threshold.as_secs().saturating_sub(request.after);
    let then_stop_after = request.then_stop_after.unwrap_or(Some(rest));
    SleepPolicy::new(request.after, then_stop_after).map_err(|e| Error::Invalid(e.to_string()))
}

/// Gives workspaces whose records are lost records again, so that their files can be reached: of sandboxes that are
/// stopped, of nobody, with nothing that was set.
pub(crate) async fn found(life: &Life, workspaces: Vec<SandboxId>) -> Result<Vec<Record>, Error> {
    let mut found = Vec::new();
    for id in workspaces {
        let request = CreateRequest { id: Some(id), ..CreateRequest::default() };
        let mut record = new_record(life, request)?;
        record.status = Status::Stopped;
        record.stopped_at = Some(record.created_at);
        record.error_message = Some(FOUND.to_owned());
        life.ground.books.records.put(record.clone(), Durability::Power).await?;
        found.push(record);
    }
    Ok(found)
}
