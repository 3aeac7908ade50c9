//! Where an endpoint is.

use std::fmt;

use http::Uri;

use crate::endpoint::Endpoint;
use crate::error::Error;

use super::address::check_address;

/// What the addresses of an endpoint lead to.
pub(in crate::grpc) enum Site {
    /// One host, or the several addresses of it.
    Hosts(Vec<Uri>),
    Socket(UnixSocket),
}

impl Site {
    /// Reads the addresses of `endpoint`.
    ///
    /// # Errors
    /// A configuration error of the field `endpoints`.
    pub(in crate::grpc) fn of(endpoint: &Endpoint) -> Result<Self, Error> {
        if !endpoint.addresses().any(is_socket) {
            let uris: Result<_, Error> = endpoint.addresses().map(check_address).collect();
            return uris.map(Self::Hosts);
        }
        if endpoint.addresses().nth(1).is_some() {
            let message = format!(
                "the endpoint {} has a Unix socket beside another address",
                endpoint.id()
            );
            return Err(Error::config("endpoints", message));
        }
        UnixSocket::read(endpoint.address()).map(Self::Socket)
    }

    /// What requests over a Unix socket carry, as gRPC's do.
    #[cfg(unix)]
    pub(super) fn uri_of_sockets() -> Uri {
        Uri::from_static("http://localhost")
    }
}

fn is_socket(address: &str) -> bool {
    address.starts_with("unix:") || address.starts_with("unix-abstract:")
}

/// A Unix socket, by its path or its name in Linux's abstract namespace.
pub(in crate::grpc) struct UnixSocket {
    /// The address as it was given.
    address: String,
    #[cfg(unix)]
    path: std::path::PathBuf,
    #[cfg(not(unix))]
    never: std::convert::Infallible,
}

impl UnixSocket {
    #[cfg(unix)]
    fn read(address: &str) -> Result<Self, Error> {
        let bad = |what: &str| {
            let message = format!("the address {address:?} {what}");
            Error::config("endpoints", message)
        };
        let path = if let Some(name) = address.strip_prefix("unix-abstract:") {
            if cfg!(not(any(target_os = "linux", target_os = "android"))) {
                return Err(bad("is of a kind that only Linux has"));
            }
            // What tokio takes for a name.
            format!("\0{name}")
        } else {
            let path = address.strip_prefix("unix:").unwrap_or(address);
            match path.strip_prefix("//") {
                Some(path) if path.starts_with('/') => path.to_owned(),
                Some(_) => return Err(bad("has no absolute path behind its two slashes")),
                None => path.to_owned(),
            }
        };
        if matches!(&*path, "" | "\0") {
            return Err(bad("names no socket"));
        }
        Ok(Self {
            address: address.to_owned(),
            path: path.into(),
        })
    }

    #[cfg(not(unix))]
    fn read(address: &str) -> Result<Self, Error> {
        let message =
            format!("the address {address:?} is a Unix socket, which this system has not");
        Err(Error::config("endpoints", message))
    }

    /// Connects, or fails at once: also where the server has more waiting than it takes.
    #[cfg(unix)]
    pub(super) async fn connect(&self) -> std::io::Result<tokio::net::UnixStream> {
        tokio::net::UnixStream::connect(&self.path).await
    }

    /// There is none.
    #[cfg(not(unix))]
    pub(super) fn is_not_here<T>(&self) -> T {
        match self.never {}
    }

    /// It was given to a transport that takes hosts.
    pub(in crate::grpc) fn needs_own_transport(&self) -> Error {
        let message = format!("{self} is a Unix socket, and connector() takes hosts");
        Error::config("endpoints", message)
    }
}

impl fmt::Display for UnixSocket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.address)
    }
}
