//! Sandboxes as a whole: one method per route.

use std::time::Duration;

use http::Method;
use serde::Serialize;

use super::requests::segment;
use crate::body::{CreateSandbox, ExecOutput, Logs, Presets, Purged, Row, SandboxV1, SandboxView, Stats};
use crate::error::ClientError;
use crate::requests::{Answer, Client};

impl Client {
    /// `GET /sandboxes`: every sandbox, newest first.
    ///
    /// # Errors
    /// See [`ClientError`]; so for every method.
    pub async fn list(&self) -> Result<Answer<Vec<Row>>, ClientError> {
        self.json(self.call(Method::GET, "/sandboxes".to_owned())).await
    }

    /// `GET /sandbox/{id}`
    pub async fn show(&self, id: &str) -> Result<Answer<SandboxView>, ClientError> {
        self.json(self.call(Method::GET, format!("/sandbox/{}", segment(id)))).await
    }

    /// `GET /v1/sandboxes/{id}`: with the preview's address and state.
    pub async fn show_v1(&self, id: &str) -> Result<Answer<SandboxV1>, ClientError> {
        self.json(self.call(Method::GET, format!("/v1/sandboxes/{}", segment(id)))).await
    }

    /// `POST /sandbox`: returns when the sandbox takes commands.
    pub async fn create(&self, create: &CreateSandbox) -> Result<Answer<Row>, ClientError> {
        let call = self.call(Method::POST, "/sandbox".to_owned()).with_json(create)?;
        self.json(call).await
    }

    /// `POST /v1/sandboxes/{id}/stop`: returns when it sleeps.
    pub async fn stop(&self, id: &str) -> Result<Answer<SandboxV1>, ClientError> {
        self.json(self.call(Method::POST, format!("/v1/sandboxes/{}/stop", segment(id)))).await
    }

    /// `POST /v1/sandboxes/{id}/start`
    pub async fn start(&self, id: &str) -> Result<Answer<SandboxV1>, ClientError> {
        self.json(self.call(Method::POST, format!("/v1/sandboxes/{}/start", segment(id)))).await
    }

    /// `DELETE /sandbox/{id}`: the workspace is kept.
    pub async fn delete(&self, id: &str) -> Result<(), ClientError> {
        self.bytes(self.call(Method::DELETE, format!("/sandbox/{}", segment(id)))).await.map(|_body| ())
    }

    /// `POST /sandbox/{id}/purge`: the workspace is deleted too; an id that is unknown is no error.
    pub async fn purge(&self, id: &str) -> Result<Answer<Purged>, ClientError> {
        self.json(self.call(Method::POST, format!("/sandbox/{}/purge", segment(id)))).await
    }

    /// `PATCH /v1/sandboxes/{id}`: other limits, in force at once.
    pub async fn limit(
        &self,
        id: &str,
        limits: &serde_json::Map<String, serde_json::Value>,
    ) -> Result<Answer<SandboxV1>, ClientError> {
        let body = serde_json::json!({ "limits": limits });
        let call = self.call(Method::PATCH, format!("/v1/sandboxes/{}", segment(id)));
        self.json(call.with_json(&body)?).await
    }

    /// `POST /v1/sandboxes/{id}/pause`: frozen, with its memory kept.
    pub async fn pause(&self, id: &str) -> Result<Answer<SandboxV1>, ClientError> {
        self.json(self.call(Method::POST, format!("/v1/sandboxes/{}/pause", segment(id)))).await
    }

    /// `POST /v1/sandboxes/{id}/resume`
    pub async fn resume(&self, id: &str) -> Result<Answer<SandboxV1>, ClientError> {
        self.json(self.call(Method::POST, format!("/v1/sandboxes/{}/resume", segment(id)))).await
    }

    /// `GET /v1/sandboxes/{id}/stats`
    pub async fn stats(&self, id: &str) -> Result<Answer<Stats>, ClientError> {
        self.json(self.call(Method::GET, format!("/v1/sandboxes/{}/stats", segment(id)))).await
    }

    /// `GET /v1/sandboxes/{id}/processes/{name}/logs?tail=`: the last lines of an app's process.
    pub async fn logs(&self, id: &str, name: &str, tail: u32) -> Result<Answer<Logs>, ClientError> {
        let (id, name) = (segment(id), segment(name));
        let path = format!("/v1/sandboxes/{id}/processes/{name}/logs?tail={tail}");
        self.json(self.call(Method::GET, path)).await
    }

    /// `GET /v1/presets`
    pub async fn presets(&self) -> Result<Answer<Presets>, ClientError> {
        self.json(self.call(Method::GET, "/v1/presets".to_owned())).await
    }

    /// `POST /sandbox/{id}/exec`: returns both outputs when the command has ended, at the latest after `deadline`.
    pub async fn exec(
        &self,
        id: &str,
        command: &[String],
        deadline: Duration,
    ) -> Result<Answer<ExecOutput>, ClientError> {
        #[derive(Serialize)]
        struct Exec<'a> {
            cmd: &'a [String],
        }
        let path = format!("/sandbox/{}/exec", segment(id));
        let mut call = self.call(Method::POST, path).with_json(&Exec { cmd: command })?;
        call.deadline = deadline;
        self.json(call).await
    }
}
