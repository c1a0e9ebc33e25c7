//! Bodies of requests and answers.

use bytes::Bytes;
use http_body_util::combinators::UnsyncBoxBody;

/// A failure of a body on its way.
pub(crate) type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// The body of every answer.
pub(crate) type Body = UnsyncBoxBody<Bytes, BoxError>;
