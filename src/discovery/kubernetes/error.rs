//! What can go wrong, by kind.

use std::error::Error as StdError;
use std::fmt;

use crate::error::BoxError;

/// What [`Kubernetes`](crate::discovery::Kubernetes) says beside states. The items of its stream that are errors
/// are of this type, and are told once: the last good state stands meanwhile.
#[derive(Debug)]
#[non_exhaustive]
pub enum KubernetesError {
    /// There is no way to a cluster: no kubeconfig and no service account, or one that cannot be used.
    Access {
        /// What was tried and why it cannot be used.
        source: BoxError,
    },
    /// The account may not read EndpointSlices.
    Forbidden {
        /// The verb that it lacks: `list` or `watch`.
        verb: &'static str,
        /// The namespace that it lacks it in.
        namespace: String,
        /// What the API server says.
        message: String,
    },
    /// The API server could not be reached, refused, or said what cannot be read.
    Request {
        /// What was asked: `list` or `watch`.
        verb: &'static str,
        /// The HTTP status, where there is one.
        code: Option<u16>,
        /// What the API server says, or why it could not be asked.
        message: String,
    },
    /// An EndpointSlice that says what cannot be. Its last good reading stands, if it had one.
    Slice {
        /// The name of the EndpointSlice.
        slice: String,
        /// The place in it, such as `endpoints[3].addresses[0]`.
        field: String,
        /// What is wrong with it.
        message: String,
    },
    /// No slice has the port, or it is not clear which one it is.
    Port {
        /// What is wrong with it, and the ports that there are.
        message: String,
    },
    /// There is no EndpointSlice of such a service. The state is empty then.
    NoSlices {
        /// The namespace.
        namespace: String,
        /// The service.
        service: String,
    },
}

impl fmt::Display for KubernetesError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Access { source } => write!(f, "no way to a Kubernetes cluster: {source}"),
            Self::Forbidden {
                verb,
                namespace,
                message,
            } => write!(
                f,
                "no permission to {verb} EndpointSlices in the namespace {namespace:?}: a Role with the verbs get, \
                 list and watch on endpointslices of the group discovery.k8s.io gives it ({message})"
            ),
            Self::Request {
                verb,
                code,
                message,
            } => {
                write!(f, "EndpointSlices: the {verb} failed")?;
                if let Some(code) = code {
                    write!(f, " with the status {code}")?;
                }
                write!(f, ": {message}")
            }
            Self::Slice {
                slice,
                field,
                message,
            } => write!(f, "the EndpointSlice {slice:?}: {field}: {message}"),
            Self::Port { message } => f.write_str(message),
            Self::NoSlices { namespace, service } => write!(
                f,
                "no EndpointSlice in the namespace {namespace:?} has the label kubernetes.io/service-name={service}: \
                 there is no such service, or it has no selector"
            ),
        }
    }
}

impl StdError for KubernetesError {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        match self {
            Self::Access { source } => Some(&**source),
            _ => None,
        }
    }
}

/// What is wrong with a slice, and where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Mistake {
    pub(super) field: String,
    pub(super) message: String,
}

impl Mistake {
    pub(super) fn new(field: impl Into<String>, message: impl Into<String>) -> Self {
        Self {
            field: field.into(),
            message: message.into(),
        }
    }

    pub(super) fn of(self, slice: &str) -> KubernetesError {
        KubernetesError::Slice {
            slice: slice.to_owned(),
            field: self.field,
            message: self.message,
        }
    }
}
