//! What may be said of kube's errors.

use std::error::Error as StdError;

use kube::client::AuthError;
use kube::config::KubeconfigError;

use crate::error::{causes, describe};

/// An error and its causes in one line, without secrets. kube quotes the lines around a mistake in a kubeconfig, where
/// tokens and keys stand, and of a program that signs in the environment, the arguments and the output.
pub(super) fn words(error: &(dyn StdError + 'static)) -> String {
    // Who quotes a cause quotes its secrets, so that nothing is said of what is around it either.
    let bare = causes(error).find_map(without_secrets);
    bare.unwrap_or_else(|| describe(error))
}

fn without_secrets(error: &(dyn StdError + 'static)) -> Option<String> {
    if let Some(KubeconfigError::Parse(mistake)) = error.downcast_ref() {
        let place = mistake.location();
        let place = place.map(|at| format!(": line {}, column {}", at.line(), at.column()));
        let place = place.unwrap_or_default();
        return Some(format!("what is read is not a kubeconfig{place}"));
    }
    match error.downcast_ref()? {
        AuthError::AuthExecRun { status, .. } => {
            Some(format!("the program that signs in has failed: {status}"))
        }
        AuthError::AuthExecParse(_) => {
            Some("the program that signs in printed what is no ExecCredential".into())
        }
        _ => None,
    }
}
