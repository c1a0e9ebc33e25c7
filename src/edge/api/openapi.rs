//! The API's description, generated from the handlers.

use std::sync::LazyLock;

use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use bytes::Bytes;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use utoipa::openapi::path::Operation;
use utoipa::openapi::schema::{KnownFormat, SchemaFormat, Type};
use utoipa::openapi::security::{HttpAuthScheme, HttpBuilder, SecurityScheme};
use utoipa::openapi::{ContentBuilder, ObjectBuilder, PathItem, Ref, RefOr, ResponseBuilder, Schema};
use utoipa::{Modify, OpenApi};

use super::files::names_tag;
use super::{apps, events, exec, files, processes, sandboxes, system, v1};
use wire::{CompatError, V1Error};

#[derive(OpenApi)]
#[openapi(
    info(title = "sandboxd", description = "Sandboxes that start in milliseconds, sleep when nobody uses them, and wake at the next request."),
    paths(
        sandboxes::create, sandboxes::list, sandboxes::show, sandboxes::delete, sandboxes::purge, sandboxes::keepalive,
        sandboxes::claim, sandboxes::wake, sandboxes::purge_user, sandboxes::purge_project, exec::exec,
        v1::create, v1::list, v1::show, v1::start, v1::stop, v1::pause, v1::resume, v1::update, v1::stats,
        v1::delete,
        events::follow,
        files::list, files::read, files::write, files::delete, files::stat, files::mkdir, files::rename, files::copy,
        files::chmod, files::download, files::upload, files::export, files::watch, apps::presets, apps::validate, apps::logs,
        processes::start, processes::list, processes::show, processes::delete, processes::output, processes::stdin,
        processes::signal, processes::resize, processes::terminal,
        system::healthz, system::readyz, system::metrics,
    ),
    modifiers(&BearerKey, &Common, &BinaryBodies, &Examples),
    components(schemas(CompatError, V1Error)),
    security(("key" = [])),
    tags(
        (name = "sandboxes", description = "Sandboxes, by the routes that stay compatible."),
        (name = "v1", description = "Sandboxes by project, their limits, sleep and events."),
        (name = "processes", description = "Programs that clients run in a sandbox."),
        (name = "files", description = "Files of a sandbox."),
        (name = "apps", description = "What a sandbox runs by itself: presets, `sandbox.yaml`, logs."),
        (name = "system", description = "The server itself."),
    ),
)]
struct Document;

struct BearerKey;

impl Modify for BearerKey {
    fn modify(&self, openapi: &mut utoipa::openapi::OpenApi) {
        let scheme = HttpBuilder::new().scheme(HttpAuthScheme::Bearer).build();
        openapi.components.get_or_insert_default().add_security_scheme("key", SecurityScheme::Http(scheme));
    }
}

/// What every operation may answer, and how its path names a sandbox.
struct Common;

/// A ULID as [`model::SandboxId`] reads it.
const ULID: &str = "^[0-7][0-9A-HJKMNP-TV-Za-hjkmnp-tv-z]{25}$";

impl Modify for Common {
    fn modify(&self, openapi: &mut utoipa::openapi::OpenApi) {
        for (path, item) in &mut openapi.paths.paths {
            let PathItem { get, put, post, delete, patch, .. } = item;
            let changes = [put, post, delete, patch].into_iter().flatten().map(|operation| (operation, true));
            for (operation, is_change) in get.iter_mut().map(|operation| (operation, false)).chain(changes) {
                name_ids(operation);
                // Those that need no key have no errors either, but that of not being ready.
                if operation.security.is_none() {
                    add_answers(operation, path, is_change);
                }
                operation.operation_id = Some(operation_id(path, operation));
            }
        }
    }
}

/// Bodies of bytes: utoipa takes `Vec<u8>` for a list of numbers, and generators of clients believe it.
struct BinaryBodies;

const BINARY: [&str; 4] =
    ["application/octet-stream", "application/x-tar", "application/gzip", "application/zip"];

impl Modify for BinaryBodies {
    fn modify(&self, openapi: &mut utoipa::openapi::OpenApi) {
        for operation in openapi.paths.paths.values_mut().flat_map(operations) {
            let requests = operation.request_body.iter_mut().flat_map(|body| &mut body.content);
            let answers = operation.responses.responses.values_mut().filter_map(|answer| match answer {
                RefOr::T(answer) => Some(&mut answer.content),
                RefOr::Ref(_) => None,
            });
            let answers = answers.flatten();
            for (kind, content) in requests.chain(answers) {
                if BINARY.contains(&kind.as_str()) {
                    let format = SchemaFormat::KnownFormat(KnownFormat::Binary);
                    let bytes = ObjectBuilder::new().schema_type(Type::String).format(Some(format));
                    content.schema = Some(bytes.build().into());
                }
            }
        }
    }
}

/// An example of every JSON body that is sent, by operation.
struct Examples;

impl Modify for Examples {
    fn modify(&self, openapi: &mut utoipa::openapi::OpenApi) {
        for operation in openapi.paths.paths.values_mut().flat_map(operations) {
            let example = operation.operation_id.as_deref().and_then(example);
            let content = operation.request_body.as_mut().and_then(|b| b.content.get_mut("application/json"));
            if let (Some(content), Some(example)) = (content, example) {
                content.example = Some(example);
            }
        }
    }
}

fn example(operation_id: &str) -> Option<Value> {
    Some(match operation_id {
        "compat_create" => json!({ "ports": [3000], "limits": { "memory_max": "512M" } }),
        "compat_exec" => json!({ "cmd": ["bash", "-lc", "echo hello"] }),
        "compat_keepalive" => json!({}),
        "compat_claim" => json!({ "external_user_id": "u1", "external_project_id": "p1" }),
        "v1_create" => json!({ "project": { "id": "p1", "user_id": "u1" }, "runtime_preset": "node-http" }),
        "v1_update" => json!({ "limits": { "memory_max": "1G" }, "sleep": { "after": 600 } }),
        "processes_start" => json!({ "cmd": ["bash", "-lc", "npm test"], "timeout_s": 600 }),
        "processes_signal" => json!({ "signal": "TERM" }),
        "processes_resize" => json!({ "cols": 120, "rows": 40 }),
        "files_mkdir" => json!({ "path": "src/pages", "mode": "0755" }),
        "files_rename" | "files_copy" => json!({ "from": "a.txt", "to": "b.txt", "overwrite": true }),
        "files_chmod" => json!({ "path": "run.sh", "mode": "0755" }),
        "apps_validate" => json!({ "manifest": "version: 1\nweb: {command: npm run dev, port: 3000}\n" }),
        _ => return None,
    })
}

fn operations(item: &mut PathItem) -> impl Iterator<Item = &mut Operation> {
    let PathItem { get, put, post, delete, patch, .. } = item;
    [get, put, post, delete, patch].into_iter().flatten()
}

fn add_answers(operation: &mut Operation, path: &str, is_change: bool) {
    let schema = if path.starts_with("/v1/") { "V1Error" } else { "CompatError" };
    let mut answers = vec![
        ("400", schema, "The request is not as described here"),
        ("429", schema, "Too much at once; see Retry-After"),
        ("500", schema, "The server's log has the cause under the request's id"),
        ("503", schema, "The host is short of something; see Retry-After"),
        ("507", schema, "The disk is full, or a limit is reached"),
        ("401", "CompatError", "There is no key, or it is not known"),
    ];
    if path.contains('{') {
        answers.push(("404", schema, "There is no such thing"));
        answers.push(("409", schema, "Its state forbids it"));
    }
    if path.starts_with("/v1/") {
        answers.push(("502", schema, "The sandbox is not reachable now; see Retry-After"));
    }
    if is_change {
        answers.push(("403", schema, "It comes from a page of another origin, or the key may not"));
    }
    if operation.request_body.is_some() {
        answers.push(("408", schema, "The body stalled"));
        answers.push(("413", schema, "The body is too large"));
    }
    for (status, schema, text) in answers {
        let content = ContentBuilder::new().schema(Some(Ref::from_schema_name(schema))).build();
        let answer = ResponseBuilder::new().description(text).content("application/json", content);
        operation.responses.responses.entry(status.to_owned()).or_insert_with(|| answer.build().into());
    }
}

fn name_ids(operation: &mut Operation) {
    for parameter in operation.parameters.iter_mut().flatten() {
        let is_id = parameter.name == "id" || parameter.name == "pid";
        if let (true, Some(RefOr::T(Schema::Object(object)))) = (is_id, &mut parameter.schema) {
            object.pattern = Some(ULID.to_owned());
        }
    }
}

/// By module and function there are several of the same name; by tag and function there are none.
fn operation_id(path: &str, operation: &Operation) -> String {
    let name = operation.operation_id.clone().unwrap_or_default();
    let room = match path.split('/').nth(1) {
        Some("v1") => operation.tags.iter().flatten().next().map_or("v1", String::as_str),
        _ => "compat",
    };
    format!("{room}_{name}")
}

/// The description as a value.
pub fn document() -> Value {
    serde_json::to_value(Document::openapi()).unwrap_or_default()
}

/// The description as it is sent, and its entity tag: both are made once.
static SENT: LazyLock<(Bytes, HeaderValue)> = LazyLock::new(|| {
    let text = serde_json::to_vec(&document()).unwrap_or_default();
    let digest = Sha256::digest(&text);
    let tag = digest.iter().take(8).fold("\"".to_owned(), |tag, byte| format!("{tag}{byte:02x}")) + "\"";
    let tag = HeaderValue::from_str(&tag).unwrap_or(HeaderValue::from_static("\"sandboxd\""));
    ([text, b"\n".to_vec()].concat().into(), tag)
});

pub(super) async fn serve(headers: HeaderMap) -> Response {
    let (text, tag) = &*SENT;
    // Kept by whoever likes, and asked for anew each time: another version of the server has another one.
    let known = [(header::ETAG, tag.clone()), (header::CACHE_CONTROL, HeaderValue::from_static("no-cache"))];
    let tags = headers.get_all(header::IF_NONE_MATCH).iter().filter_map(|value| value.to_str().ok());
    if tags.into_iter().any(|tags| names_tag(tags, tag.to_str().unwrap_or_default())) {
        return (StatusCode::NOT_MODIFIED, known).into_response();
    }
    let kind = [(header::CONTENT_TYPE, HeaderValue::from_static("application/json"))];
    (known, kind, text.clone()).into_response()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_description_is_as_committed() {
        let text = serde_json::to_string_pretty(&document()).unwrap() + "\n";
        let path =
            std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/snapshots/openapi.json");
        if std::env::var_os("UPDATE_SNAPSHOTS").is_some() {
            std::fs::write(&path, &text).unwrap();
        }
        let committed = std::fs::read_to_string(&path).unwrap();
        assert!(text == committed, "run the test with UPDATE_SNAPSHOTS=1 and review the difference");
    }

    fn each_operation(mut check: impl FnMut(&str, &Value)) {
        let document = document();
        for (path, item) in document["paths"].as_object().unwrap() {
            for (method, operation) in item.as_object().unwrap() {
                check(&format!("{method} {path}"), operation);
            }
        }
    }

    #[test]
    fn every_operation_says_what_it_is_and_what_it_answers() {
        let mut ids = std::collections::BTreeSet::new();
        each_operation(|name, operation| {
            for field in ["summary", "description", "operationId"] {
                assert!(operation[field].as_str().is_some_and(|text| !text.is_empty()), "{name}: {field}");
            }
            assert_eq!(operation["tags"].as_array().map(Vec::len), Some(1), "{name}");
            assert!(ids.insert(operation["operationId"].to_string()), "{name}: its id is not its own");
            let statuses = operation["responses"].as_object().unwrap();
            let is_open = operation["security"] == json!([{}]);
            assert_eq!(statuses.contains_key("401"), !is_open, "{name}");
            let json = &operation["requestBody"]["content"]["application/json"];
            assert!(json.is_null() || json["example"].is_object(), "{name}: no example");
        });
        assert!(ids.len() > 40);
    }

    #[test]
    fn bytes_are_no_lists_of_numbers_and_patterns_need_no_lookahead() {
        each_operation(|name, operation| {
            let text = operation.to_string();
            assert!(!text.contains(r#""items":{"format":"int32","minimum":0"#), "{name}");
        });
        let text = document().to_string();
        assert!(["(?=", "(?!", "(?<"].iter().all(|group| !text.contains(group)));
    }
}
