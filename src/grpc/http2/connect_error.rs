use std::error::Error as StdError;
use std::fmt;

use http::Uri;

use crate::error::BoxError;

/// Why an attempt to connect failed. The text names the address, the step and the root cause.
#[derive(Debug)]
pub struct ConnectError {
    stage: Stage,
    at: String,
    source: BoxError,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stage {
    Address,
    Dial,
    Tls,
    Http2,
}

impl ConnectError {
    pub(super) fn new(stage: Stage, source: impl Into<BoxError>) -> Self {
        Self {
            stage,
            at: String::new(),
            source: source.into(),
        }
    }

    pub(super) fn at(mut self, at: impl fmt::Display) -> Self {
        self.at = at.to_string();
        self
    }

    /// Where the server was looked for.
    pub(super) fn at_all(mut self, uris: &[Uri]) -> Self {
        self.at = match uris {
            [] => String::new(),
            [uri] => uri.to_string(),
            [uri, others @ ..] => format!("{uri} and {} more", others.len()),
        };
        self
    }
}

impl fmt::Display for ConnectError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { at, .. } = self;
        match self.stage {
            Stage::Address => f.write_str("the endpoint cannot be dialled")?,
            Stage::Dial => write!(f, "dialling {at} failed")?,
            Stage::Tls => write!(f, "the TLS handshake with {at} failed")?,
            Stage::Http2 => write!(f, "the HTTP/2 handshake with {at} failed")?,
        }
        // A balancer's message quotes this text alone, so the causes are in it.
        let mut cause: Option<&(dyn StdError + 'static)> = Some(&*self.source);
        while let Some(error) = cause {
            write!(f, ": {error}")?;
            cause = error.source();
        }
        Ok(())
    }
}

impl StdError for ConnectError {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        Some(&*self.source)
    }
}
