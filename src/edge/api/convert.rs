//! From the domain to bodies, and from bodies to checked requests.

use super::error::{ApiError, Style};
use crate::api::app::App;
use model::{
    CpuMax, Environment, External, GitSource, IDS, IoMax, LimitsChange, SandboxSpec, SpecError, Status,
    TemplateName,
};
use sandbox::{
    CreateRequest, Event, LiveView, MemoryUsage, PressureUsage, PreviewStatus, ProcessKind, SleepRequest,
    Snapshot, Stats, UpdateRequest, What,
};

/// Checks everything in a request before anything is made.
pub(super) fn create_request(body: wire::CreateBody) -> Result<CreateRequest, ApiError> {
    let style = Style::Compat;
    let bad = |field: &'static str| move |e: &dyn std::fmt::Display| style.invalid(format!("{field}: {e}"));
    let external = body.external.unwrap_or_default();
    let external = External::new(external.user_id, external.project_id, external.workspace_id);
    let template = template(body.template, body.runtime_preset, style)?;
    let git = body.git.map(|git| GitSource::new(git.repo_url, git.branch)).transpose();
    let host_header = body.preview.and_then(|p| p.host_header);
    Ok(CreateRequest {
        id: parse(body.id).map_err(|e| bad("id")(&e))?,
        ports: SandboxSpec::parse_ports(&body.ports.unwrap_or_default()).map_err(|e| bad("ports")(&e))?,
        env: Environment::new(body.env.unwrap_or_default()).map_err(|e| bad("env")(&e))?,
        template,
        visibility: parse(body.visibility).map_err(|e| bad("visibility")(&e))?.unwrap_or_default(),
        host_header: parse(host_header).map_err(|e| bad("preview.host_header")(&e))?.unwrap_or_default(),
        idle_policy: parse(body.idle_policy).map_err(|e| bad("idle_policy")(&e))?.unwrap_or_default(),
        sleep: body.sleep.map(sleep_request),
        external: external.map_err(|e| bad("external")(&e))?,
        app_id: parse(body.app_id).map_err(|e| bad("app_id")(&e))?,
        git: git.map_err(|e| bad("git")(&e))?,
        limits: limits(body.limits, body.memory_high, style)?,
        isolation: parse(body.isolation).map_err(|e| bad("isolation")(&e))?,
        rootfs: parse(body.rootfs).map_err(|e| bad("rootfs")(&e))?.unwrap_or_default(),
        nested_namespaces: body.nested_namespaces.unwrap_or_default(),
        ports_default: Vec::new(),
        one_per_project: false,
    })
}

/// The same for `/v1`.
pub(super) fn create_v1_request(body: wire::CreateV1Body) -> Result<CreateRequest, ApiError> {
    let style = Style::V1;
    let bad = |field: &'static str| move |e: &dyn std::fmt::Display| style.invalid(format!("{field}: {e}"));
    if body.project.id.is_empty() {
        return Err(style.invalid("project.id is empty"));
    }
    if body.from_snapshot.is_some() {
        return Err(style.invalid("from_snapshot: snapshots are not supported by this server"));
    }
    let external = External::new(Some(body.project.user_id), Some(body.project.id), None);
    let host_header = body.preview.and_then(|p| p.host_header);
    let template = template(body.template, body.runtime_preset, style)?;
    Ok(CreateRequest {
        // The app's port of the former product, which its clients do not name.
        ports_default: vec![3000],
        template,
        visibility: parse(body.visibility).map_err(|e| bad("visibility")(&e))?.unwrap_or_default(),
        idle_policy: parse(body.idle_policy).map_err(|e| bad("idle_policy")(&e))?.unwrap_or_default(),
        sleep: body.sleep.map(sleep_request),
        external: external.map_err(|e| bad("project")(&e))?,
        host_header: parse(host_header).map_err(|e| bad("preview.host_header")(&e))?.unwrap_or_default(),
        limits: limits(body.limits, None, style)?,
        isolation: parse(body.isolation).map_err(|e| bad("isolation")(&e))?,
        rootfs: parse(body.rootfs).map_err(|e| bad("rootfs")(&e))?.unwrap_or_default(),
        nested_namespaces: body.nested_namespaces.unwrap_or_default(),
        one_per_project: true,
        ..CreateRequest::default()
    })
}

/// The template, or else the preset's; both are checked, whichever wins. An empty name is none.
fn template(
    template: Option<String>,
    preset: Option<String>,
    style: Style,
) -> Result<Option<TemplateName>, ApiError> {
    let read = |field: &'static str, name: Option<String>| {
        let name = name.filter(|name| !name.is_empty());
        parse::<TemplateName>(name).map_err(|e| style.invalid(format!("{field}: {e}")))
    };
    let (template, preset) = (read("template", template)?, read("runtime_preset", preset)?);
    Ok(template.or(preset))
}

/// What a client wants to change.
pub(super) fn update_request(body: wire::PatchBody) -> Result<UpdateRequest, ApiError> {
    let idle_policy =
        parse(body.idle_policy).map_err(|e: SpecError| Style::V1.invalid(format!("idle_policy: {e}")))?;
    let limits = limits(body.limits, None, Style::V1)?;
    Ok(UpdateRequest { idle_policy, sleep: body.sleep.map(|sleep| sleep.map(sleep_request)), limits })
}

/// What a client says of limits; whether the host has as much is the core's to say.
fn limits(
    body: Option<wire::LimitsBody>,
    memory_high: Option<String>,
    style: Style,
) -> Result<LimitsChange, ApiError> {
    let body = body.unwrap_or_default();
    let bad = |field: &'static str| move |e: &dyn std::fmt::Display| style.invalid(format!("{field}: {e}"));
    let cpu_max = body.cpu_max.map(|cpu| cpu.map(CpuMax::from_processors).transpose()).transpose();
    Ok(LimitsChange {
        memory_max: parse(body.memory_max).map_err(|e| bad("limits.memory_max")(&e))?,
        memory_high: parse(body.memory_high.or(memory_high)).map_err(|e| bad("memory_high")(&e))?,
        swap_max: parse(body.swap_max).map_err(|e| bad("limits.swap_max")(&e))?,
        oom_group: body.oom_group,
        cpu_max: cpu_max.map_err(|e| style.invalid(e.to_string()))?,
        cpu_weight: body.cpu_weight,
        io_max: body.io_max.map(|io| io_max(io.unwrap_or_default(), style)).transpose()?,
        io_weight: body.io_weight,
        pids_max: body.pids_max,
        nofile: body.nofile,
    })
}

fn io_max(body: wire::IoMaxBody, style: Style) -> Result<IoMax, ApiError> {
    let bad = |field: &'static str| move |e: &dyn std::fmt::Display| style.invalid(format!("{field}: {e}"));
    Ok(IoMax {
        read_bps: parse(body.read_bps).map_err(|e| bad("limits.io_max.read_bps")(&e))?,
        write_bps: parse(body.write_bps).map_err(|e| bad("limits.io_max.write_bps")(&e))?,
        read_iops: body.read_iops,
        write_iops: body.write_iops,
    })
}

fn sleep_request(body: wire::SleepBody) -> SleepRequest {
    SleepRequest { after: body.after, then_stop_after: body.then_stop_after }
}

/// Whether it is root whom a request names; an error says who it may be.
pub(super) fn is_root(user: Option<&str>) -> Result<bool, String> {
    match user {
        None | Some("sandbox") => Ok(false),
        Some("root") => Ok(true),
        Some(other) => Err(format!("\"user\" is \"sandbox\" or \"root\", not {other:?}")),
    }
}

/// A sandbox for the compatible routes.
pub(super) fn row(app: &App, snapshot: &Snapshot) -> wire::Row {
    let record = &snapshot.record;
    let spec = &record.spec;
    let workspace = snapshot.workspace.display().to_string();
    let owned = |text: Option<&str>| text.map(str::to_owned);
    let live = snapshot.live.as_ref();
    wire::Row {
        id: spec.id.to_string(),
        status: record.status.as_str(),
        image: app.config.image.clone(),
        workspace_img: workspace.clone(),
        workspace_mnt: workspace,
        container_id: live.map(|_| spec.id.lower()),
        cgroup_path: live.map(|l| l.cgroup_path.clone()),
        memory_high: spec.limits.memory_high.to_string(),
        error_message: record.error_message.clone(),
        ports: spec.ports.clone(),
        created_at: time(record.created_at),
        updated_at: time(record.updated_at),
        last_active_at: record.last_active_at.max(last_use(snapshot)) / 1000,
        stopped_at: record.stopped_at.map(time),
        keepalive_until: record.keepalive_until.map(|ms| ms / 1000),
        container_ip: live.map_or(String::new(), |l| l.address.to_string()),
        external_user_id: owned(spec.external.user_id()),
        external_project_id: owned(spec.external.project_id()),
        external_workspace_id: owned(spec.external.workspace_id()),
        visibility: spec.visibility.as_str(),
        idle_policy: spec.idle_policy.as_str(),
        idle_for_s: snapshot.idle_for.map(|d| d.as_secs()),
        sleeps_at: snapshot.sleeps_at.map(|ms| ms / 1000),
        stops_at: snapshot.stops_at.map(|ms| ms / 1000),
        isolation: spec.isolation.as_str(),
        rootfs: spec.rootfs.as_str(),
        nested_namespaces: spec.nested_namespaces,
        warnings: Vec::new(),
    }
}

/// A sandbox with what runs in it.
pub(super) fn detail(app: &App, snapshot: &Snapshot) -> wire::SandboxDetail {
    let live_state = snapshot.live.as_ref().map(|live: &LiveView| wire::LiveState {
        running: snapshot.record.status == Status::Running,
        pid: live.init_pid,
        started_at: time(live.started_at),
        container_ip: live.address.to_string(),
        memory_current_bytes: live.memory_current,
        throttled: live.is_throttled,
        user_namespace: live.ids.map(|ids| wire::UserNamespace {
            first_id: ids.first,
            ids: IDS,
            root: ids.has_root,
            rootfs_mapped: ids.maps_rootfs,
        }),
    });
    let has_app = snapshot.app.preview.status != PreviewStatus::None || !snapshot.app.processes.is_empty();
    let runtime = has_app
        .then(|| wire::RuntimeState { preview: preview(app, snapshot), processes: processes(snapshot) });
    wire::SandboxDetail { row: row(app, snapshot), live_state, runtime }
}

/// A sandbox for `/v1`.
pub(super) fn sandbox(app: &App, snapshot: &Snapshot) -> wire::Sandbox {
    let record = &snapshot.record;
    wire::Sandbox {
        id: record.spec.id.to_string(),
        status: record.status.as_str(),
        preview: preview(app, snapshot),
        processes: processes(snapshot),
        active_task_id: None,
        template: record.spec.template.as_ref().map_or_else(|| "blank".to_owned(), ToString::to_string),
        created_at: time(record.created_at),
        updated_at: Some(time(record.updated_at)),
        idle_policy: record.spec.idle_policy.as_str(),
        sleep: wire::Sleep {
            after: snapshot.sleep.after().as_secs(),
            then_stop_after: snapshot.sleep.then_stop_after().map(|d| d.as_secs()),
        },
        limits: shown_limits(snapshot),
        idle_for_s: snapshot.idle_for.map(|d| d.as_secs()),
        sleeps_at: snapshot.sleeps_at.map(time),
        stops_at: snapshot.stops_at.map(time),
        isolation: record.spec.isolation.as_str(),
        rootfs: record.spec.rootfs.as_str(),
        nested_namespaces: record.spec.nested_namespaces,
    }
}

fn shown_limits(snapshot: &Snapshot) -> wire::Limits {
    let limits = &snapshot.record.spec.limits;
    wire::Limits {
        memory_max: limits.memory_max.to_string(),
        memory_high: limits.memory_high.to_string(),
        swap_max: limits.swap_max.to_string(),
        oom_group: limits.oom_group,
        cpu_max: limits.cpu_max.map(CpuMax::processors),
        cpu_weight: limits.cpu_weight,
        io_max: wire::IoMax {
            read_bps: limits.io_max.read_bps.map(|size| size.to_string()),
            write_bps: limits.io_max.write_bps.map(|size| size.to_string()),
            read_iops: limits.io_max.read_iops,
            write_iops: limits.io_max.write_iops,
        },
        io_weight: limits.io_weight,
        pids_max: limits.pids_max,
        nofile: limits.nofile,
        not_enforced: snapshot.not_enforced.clone(),
    }
}

/// What a sandbox uses; of one that is stopped, what it may use.
pub(super) fn stats(stats: &Stats) -> wire::Stats {
    let Stats { snapshot, usage } = stats;
    let limits = &snapshot.record.spec.limits;
    wire::Stats {
        status: snapshot.record.status.as_str(),
        memory: memory(&usage.memory, limits.memory_max.as_u64()),
        cpu: wire::CpuStats {
            usage_seconds: usage.cpu.unwrap_or_default().as_secs_f64(),
            max: usage
                .cpu_max_milli
                .and_then(|milli| u32::try_from(milli).ok())
                .map(|milli| f64::from(milli) / 1000.0),
            throttled_seconds: usage.cpu_held.map(|held| held.as_secs_f64()),
        },
        pids: wire::PidsStats {
            current: usage.pids.unwrap_or(0),
            max: usage.pids_max.unwrap_or_else(|| limits.pids_max.into()),
            refused: usage.pids_refused,
        },
        io: usage.io.map(|io| wire::IoStats {
            read_bytes: io.read_bytes,
            write_bytes: io.written_bytes,
            reads: io.reads,
            writes: io.writes,
        }),
        pressure: pressure(&usage.pressure),
        idle_for_s: snapshot.idle_for.map(|d| d.as_secs()),
        sleeps_at: snapshot.sleeps_at.map(time),
        stops_at: snapshot.stops_at.map(time),
        throttled: snapshot.live.as_ref().is_some_and(|live| live.is_throttled),
    }
}

fn pressure(usage: &PressureUsage) -> Option<wire::PressureStats> {
    let one = |(some, full)| wire::Pressure { some, full };
    let PressureUsage { cpu, memory, io } = *usage;
    let stats = wire::PressureStats { cpu: cpu.map(one), memory: memory.map(one), io: io.map(one) };
    (cpu.is_some() || memory.is_some() || io.is_some()).then_some(stats)
}

fn memory(usage: &MemoryUsage, max: u64) -> wire::MemoryStats {
    wire::MemoryStats {
        current: usage.current.unwrap_or(0),
        peak: usage.peak,
        max: usage.max.unwrap_or(max),
        high: usage.high,
        swap: usage.swap,
        swap_max: usage.swap_max,
        events: wire::MemoryEvents {
            high: usage.high_events,
            max: usage.max_events,
            oom: usage.oom_events,
            oom_kill: usage.oom_kills,
        },
    }
}

/// What has happened to a sandbox.
pub(super) fn event(event: &Event) -> wire::EventData {
    let mut data = wire::EventData {
        sandbox_id: event.id.to_string(),
        at: time(event.at),
        reason: None,
        purged: None,
        killed: None,
        memory: None,
        message: None,
    };
    match &event.what {
        What::Created => {}
        What::Running(why) | What::Paused(why) => data.reason = Some(why.as_str()),
        What::Stopped(why, message) => {
            data.reason = Some(why.as_str());
            data.message.clone_from(message);
        }
        What::Deleted { purged } => data.purged = Some(*purged),
        What::Oom { killed, memory: usage } => {
            data.killed = Some(*killed);
            data.memory = Some(memory(usage, usage.current.unwrap_or_default()));
        }
        What::Error { message } => data.message = Some(message.clone()),
    }
    data
}

/// RFC 3339, UTC, of unix milliseconds.
pub(super) fn time(ms: i64) -> String {
    let (days, of_day) = (ms.div_euclid(86_400_000), ms.rem_euclid(86_400_000));
    let (year, month, day) = date(days);
    let (seconds, millis) = (of_day / 1000, of_day % 1000);
    let (hour, minute, second) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{millis:03}Z")
}

/// The Gregorian date of a day since 1970: H. Hinnant, "chrono-Compatible Low-Level Date Algorithms".
fn date(days: i64) -> (i64, i64, i64) {
    let shifted = days + 719_468;
    let (era, of_era) = (shifted.div_euclid(146_097), shifted.rem_euclid(146_097));
    let year_of_era = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * of_year + 2) / 153;
    let day = of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 { shifted_month + 3 } else { shifted_month - 9 };
    (year_of_era + era * 400 + i64::from(month <= 2), month, day)
}

/// Unix milliseconds of the last use that is not recorded yet.
fn last_use(snapshot: &Snapshot) -> i64 {
    let Some(idle) = snapshot.idle_for else { return 0 };
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    i64::try_from(now.saturating_sub(idle).as_millis()).unwrap_or_default()
}

fn preview(app: &App, snapshot: &Snapshot) -> wire::Preview {
    let view = &snapshot.app.preview;
    let spec = &snapshot.record.spec;
    let port = view.port.or_else(|| spec.ports.first().copied()).unwrap_or(3000);
    let config = &app.config;
    let (scheme, own_port) = if config.preview_tls { ("https", 443) } else { ("http", 80) };
    let suffix =
        if config.public_port == own_port { String::new() } else { format!(":{}", config.public_port) };
    let host = format!("{}-{port}.preview.{}{suffix}", spec.id.host_name(), config.preview_domain);
    wire::Preview {
        url: format!("{scheme}://{host}"),
        port,
        status: match view.status {
            PreviewStatus::None => "none",
            PreviewStatus::Down => "down",
            PreviewStatus::Starting => "starting",
            PreviewStatus::Ready => "ready",
            PreviewStatus::Error => "error",
        },
        last_http_status: view.last_http_status,
        last_checked_at: view.last_checked_at.map(time),
        build_error_message: view.build_error_message.clone(),
    }
}

fn processes(snapshot: &Snapshot) -> Vec<wire::Process> {
    let convert = |process: &sandbox::ProcessView| wire::Process {
        name: process.name.clone(),
        kind: match process.kind {
            ProcessKind::Web => "web",
            ProcessKind::Worker => "worker",
        },
        running: process.running,
        pid: process.pid,
        restarts: process.restarts,
        given_up: process.given_up,
        last_exit_code: process.last_exit_code,
    };
    snapshot.app.processes.iter().map(convert).collect()
}

fn parse<T: std::str::FromStr>(text: Option<String>) -> Result<Option<T>, T::Err> {
    text.map(|t| t.parse()).transpose()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_rfc_3339() {
        assert_eq!(time(0), "1970-01-01T00:00:00.000Z");
        assert_eq!(time(951_782_400_000), "2000-02-29T00:00:00.000Z");
        assert_eq!(time(1_796_083_199_999), "2026-11-30T23:59:59.999Z");
        assert_eq!(time(-1), "1969-12-31T23:59:59.999Z");
    }

    #[test]
    fn everything_in_a_create_is_checked() {
        let check = |text: &str| create_request(serde_json::from_str(text).unwrap());
        assert!(check("{}").is_ok());
        assert!(check(r#"{"unknown":1,"ports":[3000],"env":{"A":"b"},"memory_high":"64M"}"#).is_ok());
        for bad in [
            r#"{"ports":[0]}"#,
            r#"{"ports":[70000]}"#,
            r#"{"id":"../../etc"}"#,
            r#"{"env":{"A=":"b"}}"#,
            r#"{"env":{"A":"b\u0000"}}"#,
            r#"{"template":"../x"}"#,
            r#"{"visibility":"secret"}"#,
            r#"{"idle_policy":"never"}"#,
            r#"{"memory_high":"lots"}"#,
            r#"{"limits":{"memory_max":"-1"}}"#,
            r#"{"limits":{"cpu_max":0}}"#,
            r#"{"external":{"user_id":"a\nb"}}"#,
            r#"{"isolation":"none"}"#,
            r#"{"rootfs":"writable"}"#,
            r#"{"git":{"repo_url":"ext::sh -c id"}}"#,
        ] {
            assert!(check(bad).is_err(), "{bad}");
        }
    }
}
