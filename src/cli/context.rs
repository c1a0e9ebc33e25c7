//! What every command is given.

use std::io::{self, Write as _};

use serde_json::Value;

use client::{Answer, Client, ClientError, SandboxV1};

use super::failure::Failure;
use super::key_state::KeyState;
use super::near::near;
use super::output;
use super::text;

/// The server, and how to show what it says.
#[derive(Debug)]
pub(super) struct Context {
    pub(super) client: Client,
    pub(super) key: KeyState,
    pub(super) is_json: bool,
    pub(super) is_coloured: bool,
}

impl Context {
    /// Writes the server's JSON as it came.
    pub(super) fn emit_json(&self, json: &[u8]) -> Result<(), Failure> {
        self.emit([json.trim_ascii_end(), b"\n"].concat().as_slice())
    }

    /// Writes JSON of our own, for answers that have no body.
    pub(super) fn emit_value(&self, value: &Value) -> Result<(), Failure> {
        self.emit(format!("{value}\n").as_bytes())
    }

    /// Writes what a sandbox has become.
    pub(super) fn emit_status(&self, id: &str, answer: &Answer<SandboxV1>) -> Result<(), Failure> {
        if self.is_json {
            return self.emit_json(&answer.json);
        }
        self.emit(format!("{id} {}\n", text::printable(&answer.value.status)).as_bytes())
    }

    pub(super) fn emit(&self, bytes: &[u8]) -> Result<(), Failure> {
        output::emit(&mut io::stdout().lock(), bytes)
    }

    /// Tells people something that is not the result.
    pub(super) fn note(&self, text: &str) {
        if !self.is_json {
            // A note that cannot be written is no reason to fail.
            writeln!(io::stderr(), "{}", text::printable(text)).ok();
        }
    }

    /// Says what failed.
    pub(super) fn failure(&self, context: impl Into<String>, source: ClientError) -> Failure {
        Failure::Client {
            context: context.into(),
            key: self.key.clone(),
            server: self.client.endpoint().to_string(),
            source: Box::new(source),
        }
    }

    /// The same for a request about one sandbox: if that is not there, similar ids are looked up.
    pub(super) async fn failure_about(&self, id: &str, action: &str, source: ClientError) -> Failure {
        if source.refusal().is_some_and(|refusal| refusal.status == http::StatusCode::NOT_FOUND) {
            let near = near(&self.client, id).await;
            // If it is there, then something in it is not.
            if near.first().is_none_or(|nearest| nearest != id) {
                return Failure::NotFound { given: id.to_owned(), near };
            }
        }
        self.failure(format!("{action} sandbox {id}"), source)
    }
}
