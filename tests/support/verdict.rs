//! What an example that checks itself ends with.

use std::process::ExitCode;

use evenkeel::BoxError;

/// 0 if no rule was broken, 1 if some were, which are printed, and 2 if it could not be told.
pub fn verdict(broken: Result<Vec<String>, BoxError>) -> ExitCode {
    match broken {
        Ok(broken) if broken.is_empty() => ExitCode::SUCCESS,
        Ok(broken) => {
            for rule in broken {
                println!("BROKEN: {rule}");
            }
            ExitCode::from(1)
        }
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::from(2)
        }
    }
}
