//! The API's description, generated from the handlers.

use utoipa::openapi::security::{HttpAuthScheme, HttpBuilder, SecurityScheme};
use utoipa::{Modify, OpenApi};

use super::extract::Json;
use super::{apps, events, exec, files, processes, sandboxes, system, v1};

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
    modifiers(&BearerKey),
    security(("key" = [])),
)]
struct Document;

struct BearerKey;

impl Modify for BearerKey {
    fn modify(&self, openapi: &mut utoipa::openapi::OpenApi) {
        let scheme = HttpBuilder::new().scheme(HttpAuthScheme::Bearer).build();
        openapi.components.get_or_insert_default().add_security_scheme("key", SecurityScheme::Http(scheme));
    }
}

/// The description as a value.
pub fn document() -> serde_json::Value {
    serde_json::to_value(Document::openapi()).unwrap_or_default()
}

pub(super) async fn serve() -> Json<serde_json::Value> {
    Json(document())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_description_is_as_committed() {
        let text = serde_json::to_string_pretty(&document()).unwrap() + "\n";
        let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/snapshots/openapi.json");
        if std::env::var_os("UPDATE_SNAPSHOTS").is_some() {
            std::fs::write(&path, &text).unwrap();
        }
        let committed = std::fs::read_to_string(&path).unwrap();
        assert!(text == committed, "run the test with UPDATE_SNAPSHOTS=1 and review the difference");
    }
}
