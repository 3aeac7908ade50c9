//! The way to a cluster, by kubeconfigs and programs that sign in.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use kube::client::AuthError;
use kube::runtime::watcher;
use serde_json::{Value, json};
use tokio::sync::Semaphore;

use crate::discovery::kubernetes::access::Access;
use crate::discovery::kubernetes::failure::Failure;

const LONG: Duration = Duration::from_secs(30);

/// A kubeconfig, in a folder that goes with this.
struct File(PathBuf);

impl File {
    fn new(name: &str) -> Self {
        let folder = format!("evenkeel-access-{name}-{}", std::process::id());
        let folder = std::env::temp_dir().join(folder);
        std::fs::create_dir_all(&folder).unwrap();
        Self(folder)
    }

    fn write(&self, text: &str) -> Access {
        let path = self.0.join("config");
        std::fs::write(&path, text).unwrap();
        Access::Kubeconfig(path)
    }

    /// With this user.
    fn user(&self, user: &Value) -> Access {
        // No certificate of the system's is needed: the bundle is an empty line.
        let cluster = json!({"server": "http://127.0.0.1:1", "certificate-authority-data": "Cg=="});
        let config = json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "x",
            "clusters": [{"name": "c", "cluster": cluster}],
            "users": [{"name": "u", "user": user}],
            "contexts": [{"name": "x", "context": {"cluster": "c", "user": "u"}}],
        });
        self.write(&config.to_string())
    }
}

impl Drop for File {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn program(script: &str) -> Value {
    json!({"exec": {
        "apiVersion": "client.authentication.k8s.io/v1", "interactiveMode": "Never",
        "command": "sh", "args": ["-c", script, "s3cret-argument"],
        "env": [{"name": "KEY", "value": "s3cret-value"}],
    }})
}

/// All that is printed of the error that there is.
async fn refusal(access: &Access) -> String {
    let makers = Arc::new(Semaphore::new(1));
    match access.client(None, LONG, &makers).await {
        Ok(_) => panic!("{access:?} was taken"),
        Err(error) => all_of(&error),
    }
}

fn all_of(error: &(dyn std::error::Error + 'static)) -> String {
    let causes: Vec<_> = crate::error::causes(error)
        .map(ToString::to_string)
        .collect();
    format!("{} | {error:?}", causes.join(" | "))
}

#[tokio::test]
async fn a_mistake_in_a_kubeconfig_is_told_by_its_place_alone() {
    let file = File::new("mistake");
    let before =
        "apiVersion: v1\nkind: Config\nusers:\n- name: u\n  user:\n    token: s3cret-before\n";
    for mistake in [
        "    username: [s3cret-value]\n    password: s3cret-after\n",
        "   username: s3cret-indent\n",
        "    token: \"s3cret-open\n",
    ] {
        let text = refusal(&file.write(&format!("{before}{mistake}"))).await;
        assert!(!text.contains("s3cret"), "{mistake:?}: {text}");
        assert!(
            text.contains("config: ") && text.contains("line "),
            "where: {text}"
        );
    }
}

#[cfg(unix)]
#[tokio::test]
async fn of_a_program_that_signs_in_its_name_and_its_end_are_told() {
    let file = File::new("program");
    for (script, why) in [
        ("echo s3cret-output; exit 3", "3"),
        (
            "echo s3cret-output; echo '{token: s3cret-token'",
            "no ExecCredential",
        ),
    ] {
        let text = refusal(&file.user(&program(script))).await;
        assert!(!text.contains("s3cret"), "{script}: {text}");
        assert!(
            text.contains("\"sh\"") && text.contains(why),
            "{script}: {text}"
        );
    }
}

#[test]
fn a_program_that_fails_later_tells_no_secret_either() {
    let failed = || AuthError::AuthExecRun {
        cmd: "KEY=\"s3cret-value\" \"sh\"".into(),
        status: std::process::ExitStatus::default(),
        out: std::process::Output {
            status: std::process::ExitStatus::default(),
            stdout: b"s3cret-output".to_vec(),
            stderr: Vec::new(),
        },
    };
    for error in [
        kube::Error::Auth(failed()),
        kube::Error::Service(Box::new(kube::Error::Service(failed().into()))),
    ] {
        let failure = Failure::read(watcher::Error::WatchStartFailed(error), "prod");
        let text = all_of(&failure.error.expect("it is told"));
        assert!(!text.contains("s3cret"), "{text}");
        assert!(text.contains("the program that signs in"), "{text}");
    }
}

#[cfg(unix)]
#[tokio::test]
async fn a_program_that_does_not_end_is_given_up_and_what_is_mended_is_read() {
    let file = File::new("endless");
    let flag = file.0.join("flag");
    std::fs::write(&flag, "").unwrap();
    let endless = program(&format!("while [ -e {flag:?} ]; do sleep 0.05; done"));
    let makers = Arc::new(Semaphore::new(2));
    let short = Duration::from_millis(50);
    let late = async || {
        let made = file.user(&endless).client(None, short, &makers).await;
        let text = made.err().expect("it does not end").to_string();
        assert!(text.contains("has not ended, within 50ms"), "{text}");
    };
    late().await;
    let mended = file.user(&json!({"token": "a"}));
    let made = mended.client(None, LONG, &makers).await;
    assert!(
        made.is_ok(),
        "it is read beside the first: {:?}",
        made.err()
    );
    late().await;
    assert_eq!(makers.available_permits(), 0, "two are under way");
    late().await;
    std::fs::remove_file(&flag).unwrap();
    let both = tokio::time::timeout(LONG, makers.acquire_many(2)).await;
    assert!(both.is_ok(), "with the programs their threads end");
}
