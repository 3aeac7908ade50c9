use std::borrow::Cow;
use std::fmt;
use std::str::FromStr;

use percent_encoding::{AsciiSet, CONTROLS, percent_decode_str, utf8_percent_encode};

use crate::discovery::targets::is_built_in;
use crate::error::Error;

/// The field that errors name.
pub(super) const FIELD: &str = "target";

/// What would end the path, or be decoded, when the text is read again.
const NOT_IN_PATH: &AsciiSet = &CONTROLS.add(b' ').add(b'%').add(b'?').add(b'#');

/// What a channel is to talk to, as [gRPC names it](https://github.com/grpc/grpc/blob/master/doc/naming.md):
/// `scheme:[//authority/]path`. The scheme says what kind of source finds the endpoints; see
/// [`Targets`](crate::discovery::Targets).
///
/// A text without a scheme is `dns:///text`, and so is one whose scheme is not known where no `//` follows it:
/// `greeter:50051` is a host and its port. With `//` an unknown scheme is a mistake. (gRPC takes that for a name
/// as well, and then cannot find it.)
///
/// ```
/// use evenkeel::discovery::Target;
///
/// let target: Target = "dns://10.0.0.53/greeter.svc:50051".parse()?;
/// assert_eq!(target.scheme(), "dns");
/// assert_eq!(target.authority(), "10.0.0.53");
/// assert_eq!(target.name(), "greeter.svc:50051");
///
/// let target: Target = "greeter.svc:50051".parse()?;
/// assert_eq!(target.to_string(), "dns:///greeter.svc:50051");
/// # Ok::<_, evenkeel::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Target {
    scheme: String,
    authority: String,
    path: String,
    query: Option<String>,
}

impl Target {
    /// Reads `text`; `knows` says which schemes there are, by their names in lower case.
    pub(super) fn read(text: &str, knows: impl Fn(&str) -> bool) -> Result<Self, Error> {
        if text.is_empty() {
            return Err(bad("is empty"));
        }
        let Some((scheme, rest)) = scheme(text) else {
            return Self::of_path("dns".into(), format!("/{text}"), text);
        };
        if !knows(&scheme) {
            if rest.starts_with("//") {
                let message = format!("{text:?} has the scheme {scheme}, which is not known");
                return Err(bad(message));
            }
            return Self::of_path("dns".into(), format!("/{text}"), text);
        }
        let Some(rest) = rest.strip_prefix("//") else {
            return Self::of_path(scheme, rest.to_owned(), text);
        };
        let (authority, path) = rest.split_at(rest.find(['/', '?', '#']).unwrap_or(rest.len()));
        let mut target = Self::of_path(scheme, path.to_owned(), text)?;
        target.authority = decoded(authority, text)?.into_owned();
        Ok(target)
    }

    fn of_path(scheme: String, path: String, text: &str) -> Result<Self, Error> {
        if path.contains('#') {
            return Err(bad(format!("{text:?} has a fragment, which names nothing")));
        }
        let (path, query) = match path.split_once('?') {
            Some((path, query)) => (path, Some(query.to_owned())),
            None => (&*path, None),
        };
        Ok(Self {
            scheme,
            authority: String::new(),
            path: decoded(path, text)?.into_owned(),
            query,
        })
    }

    /// The scheme, in lower case.
    pub fn scheme(&self) -> &str {
        &self.scheme
    }

    /// What stands between `//` and the next slash; most often empty. For DNS it is the name server to ask.
    pub fn authority(&self) -> &str {
        &self.authority
    }

    /// The path, its slash included if it has one, with percent signs decoded.
    pub fn path(&self) -> &str {
        &self.path
    }

    /// The path without its slash: what is to be found.
    pub fn name(&self) -> &str {
        self.path.strip_prefix('/').unwrap_or(&self.path)
    }

    /// What follows the first `?`, as it stands. The schemes that ship have none.
    pub fn query(&self) -> Option<&str> {
        self.query.as_deref()
    }

    /// Refuses what a scheme does not read.
    pub(super) fn without_authority(&self) -> Result<&Self, Error> {
        let Self {
            scheme, authority, ..
        } = self;
        if authority.is_empty() {
            return self.without_query();
        }
        Err(bad(format!(
            "{self} names {authority:?} as an authority, and {scheme} has none: three slashes, or none, begin a name"
        )))
    }

    pub(super) fn without_query(&self) -> Result<&Self, Error> {
        match &self.query {
            None => Ok(self),
            Some(_) => Err(bad(format!(
                "{self} has a query, and {} has none",
                self.scheme
            ))),
        }
    }
}

impl FromStr for Target {
    type Err = Error;

    /// Reads a target; the schemes that are known are those that [`Targets::new`](crate::discovery::Targets::new)
    /// has.
    fn from_str(text: &str) -> Result<Self, Error> {
        Self::read(text, is_built_in)
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:", self.scheme)?;
        if self.path.starts_with('/') || !self.authority.is_empty() {
            let authority = utf8_percent_encode(&self.authority, NOT_IN_AUTHORITY);
            write!(f, "//{authority}")?;
        }
        write!(f, "{}", utf8_percent_encode(&self.path, NOT_IN_PATH))?;
        if let Some(query) = &self.query {
            write!(f, "?{query}")?;
        }
        Ok(())
    }
}

const NOT_IN_AUTHORITY: &AsciiSet = &NOT_IN_PATH.add(b'/');

pub(super) fn bad(message: impl Into<Cow<'static, str>>) -> Error {
    Error::config(FIELD, message)
}

/// A scheme by the grammar of RFC 3986 section 3.1, in lower case, and what follows its colon.
fn scheme(text: &str) -> Option<(String, &str)> {
    let (scheme, rest) = text.split_once(':')?;
    is_scheme(scheme).then(|| (scheme.to_ascii_lowercase(), rest))
}

pub(super) fn is_scheme(text: &str) -> bool {
    let more = |c: char| c.is_ascii_alphanumeric() || matches!(c, '+' | '-' | '.');
    text.starts_with(|c: char| c.is_ascii_alphabetic()) && text.chars().all(more)
}

fn decoded<'a>(part: &'a str, text: &str) -> Result<Cow<'a, str>, Error> {
    let decoded = percent_decode_str(part).decode_utf8();
    decoded.map_err(|error| {
        let message = format!("{text:?} is not UTF-8 once its percent signs are decoded");
        Error::config_because(FIELD, message, error)
    })
}

#[cfg(test)]
mod tests;
