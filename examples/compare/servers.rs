//! The servers' process, as its parent sees it.

use std::process::Stdio;
use std::time::Duration;

use evenkeel::BoxError;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};
use tokio::time::timeout;

use crate::options::name_of;
use crate::scenario::{SERVERS, Scenario};

/// How long the process may take to start or to end, on a machine busy with other things.
const PATIENCE: Duration = Duration::from_secs(20);

/// Fresh servers, with nothing of what other cells left. Killed when dropped.
pub(crate) struct Servers {
    process: Child,
    pub(crate) uris: Vec<String>,
}

impl Servers {
    pub(crate) async fn start(scenario: Scenario, seed: u64) -> Result<Self, BoxError> {
        let mut process = Command::new(std::env::current_exe()?)
            .args(["--serve", &name_of(&scenario), "--seed", &seed.to_string()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()?;
        let stdout = process.stdout.take().ok_or("the servers have no stdout")?;
        let mut lines = BufReader::new(stdout).lines();
        let mut uris = Vec::new();
        let started = timeout(PATIENCE, async {
            while uris.len() < SERVERS {
                let line = lines.next_line().await?;
                uris.push(line.ok_or("the servers ended before they began")?);
            }
            Ok::<_, BoxError>(())
        });
        started
            .await
            .map_err(|_| "the servers did not start in time")??;
        Ok(Self { process, uris })
    }

    pub(crate) async fn stop(mut self) -> Result<(), BoxError> {
        drop(self.process.stdin.take());
        let status = timeout(PATIENCE, self.process.wait())
            .await
            .map_err(|_| "the servers did not end in time")??;
        if status.success() {
            Ok(())
        } else {
            Err(format!("the servers ended with {status}").into())
        }
    }
}
