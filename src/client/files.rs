//! Files of a sandbox, streamed both ways; they can be had while it sleeps, and do not wake it.

use std::io;
use std::time::Duration;

use bytes::Bytes;
use futures_util::stream;
use http::Method;
use http::header::CONTENT_TYPE;
use http_body::Frame;
use http_body_util::{BodyExt as _, StreamBody};
use serde::Deserialize;
use serde_json::json;
use tokio::sync::mpsc;

use super::requests::segment;
use super::transport::full;
use crate::error::ClientError;
use crate::requests::{Answer, Client};
use crate::transport::{Exchange, RequestBody};

/// An upload may take as long as it moves: its caller watches that it does.
const UPLOAD_DEADLINE: Duration = Duration::from_secs(7 * 86_400);

/// What a path is relative to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Base {
    /// The app directory, `~/workspace/app`.
    App,
    /// The whole workspace, `/home/sandbox`.
    Home,
}

/// What is at a path.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct FileStat {
    #[serde(default)]
    pub path: String,
    /// `file`, `dir`, `link` or `other`.
    pub r#type: String,
    #[serde(default)]
    pub size: Option<u64>,
    /// Octal.
    #[serde(default)]
    pub mode: Option<String>,
    /// RFC 3339, UTC.
    #[serde(default)]
    pub mtime: Option<String>,
    /// Where a link leads.
    #[serde(default)]
    pub target: Option<String>,
}

/// What unpacking an archive made.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Unpacked {
    #[serde(default)]
    pub entries: u64,
    #[serde(default)]
    pub bytes: u64,
}

impl Base {
    const fn as_str(self) -> &'static str {
        match self {
            Self::App => "app",
            Self::Home => "home",
        }
    }
}

/// Returns a body that sends what comes through a channel; an error there ends the request.
pub fn stream_body(receiver: mpsc::Receiver<io::Result<Bytes>>) -> RequestBody {
    let pieces = stream::unfold(receiver, async |mut receiver| {
        let piece = receiver.recv().await?;
        Some((piece.map(Frame::data), receiver))
    });
    StreamBody::new(pieces).boxed_unsync()
}

impl Client {
    /// `PUT …/files?path=`: `path` is relative to the app directory.
    ///
    /// # Errors
    /// See [`ClientError`]; so for every method.
    pub async fn put_file(&self, id: &str, path: &str, content: Bytes) -> Result<(), ClientError> {
        self.put_file_stream(id, Base::App, path, full(content)).await
    }

    /// The same, from a stream and to either base.
    pub async fn put_file_stream(
        &self,
        id: &str,
        base: Base,
        path: &str,
        content: RequestBody,
    ) -> Result<(), ClientError> {
        let mut call =
            self.call(Method::PUT, files(id, "", base, path)).with(CONTENT_TYPE, "application/octet-stream");
        (call.body, call.deadline) = (content, UPLOAD_DEADLINE);
        self.bytes(call).await.map(|_body| ())
    }

    /// `GET …/files/stat?path=`
    pub async fn stat_file(&self, id: &str, base: Base, path: &str) -> Result<Answer<FileStat>, ClientError> {
        self.json(self.call(Method::GET, files(id, "/stat", base, path))).await
    }

    /// `POST …/files/mkdir`: with its parents.
    pub async fn make_directory(&self, id: &str, base: Base, path: &str) -> Result<(), ClientError> {
        let call =
            self.call(Method::POST, files(id, "/mkdir", base, "")).with_json(&json!({"path": path}))?;
        self.bytes(call).await.map(|_body| ())
    }

    /// `GET …/files/content?path=`: the bytes of a file as they come.
    pub async fn read_file(&self, id: &str, base: Base, path: &str) -> Result<Exchange<'_>, ClientError> {
        self.exchange(self.call(Method::GET, files(id, "/content", base, path))).await
    }

    /// `GET …/files/archive?path=&format=tar`: a tree as it comes.
    pub async fn read_archive(&self, id: &str, base: Base, path: &str) -> Result<Exchange<'_>, ClientError> {
        let path = format!("{}&format=tar", files(id, "/archive", base, path));
        self.exchange(self.call(Method::GET, path)).await
    }

    /// `PUT …/files/archive?path=&format=tar`: unpacks into a directory.
    pub async fn write_archive(
        &self,
        id: &str,
        base: Base,
        path: &str,
        archive: RequestBody,
    ) -> Result<Answer<Unpacked>, ClientError> {
        let path = format!("{}&format=tar", files(id, "/archive", base, path));
        let mut call = self.call(Method::PUT, path).with(CONTENT_TYPE, "application/x-tar");
        (call.body, call.deadline) = (archive, UPLOAD_DEADLINE);
        self.json(call).await
    }
}

fn files(id: &str, route: &str, base: Base, path: &str) -> String {
    let id = segment(id);
    let path = if path.is_empty() { String::new() } else { format!("&path={}", segment(path)) };
    format!("/v1/sandboxes/{id}/files{route}?base={}{path}", base.as_str())
}
