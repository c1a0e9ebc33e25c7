//! Bodies of the compatible routes, which may have fields that the server does not know.
//!
//! Such a field is ignored and named in the answer. A field that has another name here is refused: a client that
//! asks for a preset or for a limit by the name of the command line must not get a sandbox without it.

use axum::extract::{FromRequest, Request};
use serde::de::DeserializeOwned;
use wire::{ClaimBody, CreateBody, ExecBody, KeepaliveBody};

use super::error::{ApiError, Style};
use super::extract::{is_absent, parse_noting, read};
use super::unknown::Ignored;

/// A JSON body of a compatible route, and what the answer has to say about its unknown fields.
#[derive(Debug)]
pub(super) struct Tolerant<T> {
    pub(super) body: T,
    pub(super) warnings: Vec<String>,
}

/// A body of a compatible route.
pub(super) trait Compatible: DeserializeOwned {
    /// Fields that the command line, `/v1` or an answer calls by another name, each with its name in this body.
    const OTHER_NAMES: &'static [(&'static str, &'static str)];

    /// What stands for a body that is left out; `None` where there has to be one.
    fn absent() -> Option<Self> {
        None
    }
}

impl Compatible for CreateBody {
    const OTHER_NAMES: &'static [(&'static str, &'static str)] = &[
        ("preset", "runtime_preset"),
        ("port", "ports"),
        ("memory", "limits.memory_max"),
        ("memory_max", "limits.memory_max"),
        ("swap_max", "limits.swap_max"),
        ("oom_group", "limits.oom_group"),
        ("cpu_max", "limits.cpu_max"),
        ("cpu_weight", "limits.cpu_weight"),
        ("io_max", "limits.io_max"),
        ("io_weight", "limits.io_weight"),
        ("pids_max", "limits.pids_max"),
        ("nofile", "limits.nofile"),
        ("limit", "limits"),
        ("user", "external.user_id"),
        ("external_user_id", "external.user_id"),
        ("project", "external.project_id"),
        ("external_project_id", "external.project_id"),
        ("external_workspace_id", "external.workspace_id"),
        ("private", "visibility"),
        ("always_on", "idle_policy"),
        ("host_header", "preview.host_header"),
    ];

    fn absent() -> Option<Self> {
        Some(Self::default())
    }
}

impl Compatible for KeepaliveBody {
    const OTHER_NAMES: &'static [(&'static str, &'static str)] = &[("keepalive_until", "until")];

    fn absent() -> Option<Self> {
        Some(Self::default())
    }
}

impl Compatible for ExecBody {
    const OTHER_NAMES: &'static [(&'static str, &'static str)] = &[("command", "cmd")];
}

impl Compatible for ClaimBody {
    const OTHER_NAMES: &'static [(&'static str, &'static str)] = &[
        ("user", "external_user_id"),
        ("user_id", "external_user_id"),
        ("project", "external_project_id"),
        ("project_id", "external_project_id"),
        ("workspace_id", "external_workspace_id"),
        ("external", "external_user_id"),
    ];
}

impl<S: Send + Sync, T: Compatible> FromRequest<S> for Tolerant<T> {
    type Rejection = ApiError;

    async fn from_request(request: Request, state: &S) -> Result<Self, Self::Rejection> {
        let (bytes, _turn) = read(request, state, Style::Compat).await?;
        if is_absent(&bytes)
            && let Some(body) = T::absent()
        {
            return Ok(Self { body, warnings: Vec::new() });
        }
        tolerate(&bytes)
    }
}

fn tolerate<T: Compatible>(bytes: &[u8]) -> Result<Tolerant<T>, ApiError> {
    let mut ignored = Ignored::looking_for(T::OTHER_NAMES);
    let parsed = parse_noting(bytes, Style::Compat, &mut ignored);
    // Before a field that is missing: the body may have it under its other name.
    if let Some((name, right)) = ignored.other() {
        return Err(Style::Compat.invalid(format!("{name}: this field is called {right} here")));
    }
    Ok(Tolerant { body: parsed?, warnings: ignored.warnings() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::unknown::{NAME_BYTES_MAX, WARNINGS_MAX};

    fn warned<T: Compatible>(text: &str) -> Vec<String> {
        tolerate::<T>(text.as_bytes()).map(|body| body.warnings).unwrap()
    }

    #[test]
    fn unknown_fields_are_named_wherever_they_are() {
        assert!(warned::<CreateBody>(r#"{"ports":[80.0],"limits":{"pids_max":64}}"#).is_empty());
        let found = warned::<CreateBody>(r#"{"colour":{"a":1},"ports":[80.0],"external":{"name":"x"}}"#);
        assert_eq!(found, ["colour: unknown field, ignored", "external.name: unknown field, ignored"]);
    }

    #[test]
    fn a_field_of_another_name_is_refused_with_its_own() {
        let refused = |text: &str| tolerate::<CreateBody>(text.as_bytes()).unwrap_err().message().to_owned();
        assert_eq!(refused(r#"{"preset":"x"}"#), "preset: this field is called runtime_preset here");
        let error = tolerate::<ExecBody>(br#"{"command":["true"]}"#).unwrap_err();
        assert_eq!(error.message(), "command: this field is called cmd here");
        // Only the field itself, not one within something unknown.
        assert_eq!(warned::<CreateBody>(r#"{"x":{"preset":1}}"#).len(), 1);
        assert_eq!(warned::<CreateBody>(r#"{"git":{"repo_url":"https://x","preset":1}}"#).len(), 1);
    }

    #[test]
    fn every_other_name_is_none_of_the_body_itself() {
        for (name, _) in CreateBody::OTHER_NAMES {
            assert!(tolerate::<CreateBody>(format!("{{\"{name}\":null}}").as_bytes()).is_err(), "{name}");
        }
    }

    #[test]
    fn an_answer_names_only_so_many_and_so_much() {
        let fields: Vec<String> = (0..100).map(|n| format!("\"{}{n}\":0", "é".repeat(1000))).collect();
        let found = warned::<CreateBody>(&format!("{{{}}}", fields.join(",")));
        assert_eq!(found.len(), WARNINGS_MAX + 1);
        assert!(found.iter().all(|text| text.len() < NAME_BYTES_MAX + 40));
        assert_eq!(found.last().unwrap(), "84 more unknown fields were ignored");
    }
}
