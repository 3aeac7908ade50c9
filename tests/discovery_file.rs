//! Lists of endpoints in real files. The time is real, since a look at a disk takes some: what a test waits for is a
//! word of the source. What a source makes of what it reads is tested in paused time beside it.
#![cfg(feature = "file")]

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use evenkeel::discovery::{BoxDiscovery, File, FileUpdates, Targets};
use evenkeel::endpoint::Endpoint;
use futures::StreamExt;

/// No wait lasts longer.
const PATIENCE: Duration = Duration::from_secs(20);

/// Long enough for some looks. Where nothing is to be told, a slow machine only sees fewer of them.
const A_WHILE: Duration = Duration::from_millis(150);

/// A folder that goes when it is dropped.
struct Folder(PathBuf);

impl Folder {
    fn new() -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let name = format!("evenkeel-file-{}-{number}", std::process::id());
        let path = std::env::temp_dir().join(name);
        fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        // What is left is some files of the system's temporary folder.
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn updates(path: &Path) -> FileUpdates {
    let file = File::new(path).with_interval(Duration::from_millis(5));
    file.updates().unwrap()
}

/// The next word.
async fn word(rule: &str, updates: &mut FileUpdates) -> Result<Vec<Endpoint>, String> {
    let word = tokio::time::timeout(PATIENCE, updates.next()).await;
    let word = word.unwrap_or_else(|_| panic!("{rule}: not within {PATIENCE:?}"));
    let word = word.expect("a file does not end");
    word.map(|update| update.into_endpoints())
        .map_err(|error| error.to_string())
}

fn ids(endpoints: &[Endpoint]) -> Vec<&str> {
    endpoints.iter().map(|e| e.id().as_str()).collect()
}

async fn state(rule: &str, updates: &mut FileUpdates, want: &[&str]) {
    match word(rule, updates).await {
        Ok(endpoints) => assert_eq!(ids(&endpoints), want, "{rule}"),
        Err(error) => panic!("{rule}: {error}"),
    }
}

/// The next word is an error, which names the file and says this.
async fn error(rule: &str, updates: &mut FileUpdates, path: &Path, says: &str) {
    let error = word(rule, updates).await.expect_err(rule);
    let name = format!("{}: ", path.display());
    assert!(
        error.starts_with(&name) && error.contains(says),
        "{rule}: {error}"
    );
}

async fn silent(rule: &str, updates: &mut FileUpdates) {
    let word = tokio::time::timeout(A_WHILE, updates.next()).await;
    assert!(word.is_err(), "{rule}: {word:?}");
}

/// As a file is best replaced.
fn rename_over(path: &Path, text: &str) {
    let new = path.with_extension("new");
    fs::write(&new, text).unwrap();
    fs::rename(new, path).unwrap();
}

#[tokio::test]
async fn changes_are_seen_and_nothing_else_is_told() {
    let folder = Folder::new();
    for (name, texts) in [
        ("list.json", [r#"["a"]"#, r#"["a", "b"]"#, "[]", r#"["b"]"#]),
        ("list.yaml", ["- a\n", "- a\n- b\n", "[]\n", "- b"]),
        ("list.YML", ["[a]", "[a, b]", "[]", "[b]"]),
        ("list", [r#"["a"]"#, r#"["a", "b"]"#, "[]", r#"["b"]"#]),
    ] {
        let path = folder.path(name);
        fs::write(&path, texts[0]).unwrap();
        let mut updates = updates(&path);
        state("the first state", &mut updates, &["a"]).await;
        rename_over(&path, texts[1]);
        state("another file in its place", &mut updates, &["a", "b"]).await;
        rename_over(&path, texts[2]);
        state("an empty list is a state", &mut updates, &[]).await;
        rename_over(&path, texts[3]);
        state("it fills again", &mut updates, &["b"]).await;
        rename_over(&path, texts[3]);
        silent("the same text in another file is no news", &mut updates).await;
    }
}

/// The folder is as Kubernetes writes it: each version in a folder of its own, and one link that is replaced.
#[cfg(unix)]
#[tokio::test]
async fn a_config_map_is_followed_through_its_links() {
    use std::os::unix::fs::symlink;

    let folder = Folder::new();
    let write = |version: &str, text: &str| {
        let data = folder.path(version);
        fs::create_dir(&data).unwrap();
        fs::write(data.join("list.yaml"), text).unwrap();
        let link = folder.path("..data_tmp");
        symlink(version, &link).unwrap();
        fs::rename(link, folder.path("..data")).unwrap();
    };
    write("..2026_01", "- a\n");
    let path = folder.path("list.yaml");
    symlink("..data/list.yaml", &path).unwrap();
    let mut updates = updates(&path);
    state("the first version", &mut updates, &["a"]).await;
    for version in 2..5 {
        write(
            &format!("..2026_0{version}"),
            &format!("- a\n- b{version}\n"),
        );
        fs::remove_dir_all(folder.path(&format!("..2026_0{}", version - 1))).unwrap();
        let b = format!("b{version}");
        state("the next version", &mut updates, &["a", &b]).await;
    }
}

#[tokio::test]
async fn half_a_file_keeps_the_last_good_state_and_says_where_it_ends() {
    let folder = Folder::new();
    let path = folder.path("list.json");
    fs::write(&path, r#"["a"]"#).unwrap();
    let mut updates = updates(&path);
    state("the first state", &mut updates, &["a"]).await;
    rename_over(&path, "[\"a\",\n {\"address\": \"b\"");
    let ends = "[1]: EOF while parsing an object at line 2 column 16";
    error("half of it is there", &mut updates, &path, ends).await;
    silent("and is told once", &mut updates).await;
    rename_over(&path, "[\"a\",\n {\"address\": \"b\"}]");
    state("now all of it is", &mut updates, &["a", "b"]).await;
    rename_over(&path, "");
    error("nothing is no list", &mut updates, &path, "EOF").await;
    rename_over(&path, "[\"a\",\n {\"address\": \"b\"}]");
    state("the end of an error is told", &mut updates, &["a", "b"]).await;
    fs::write(folder.path("list.new"), b"[\"\xff\"]").unwrap();
    fs::rename(folder.path("list.new"), &path).unwrap();
    error("no text", &mut updates, &path, "byte 2 is no UTF-8").await;
    rename_over(&path, "[\"a\",\n {\"address\": \"b\", \"weight\": 0}]");
    error(
        "a mistake has its place",
        &mut updates,
        &path,
        "[1].weight: ",
    )
    .await;
}

/// Whoever truncates and writes has half a file there for a moment.
#[tokio::test]
async fn a_file_that_is_written_over_comes_to_what_was_written_last() {
    let folder = Folder::new();
    for name in ["list.json", "list.yaml"] {
        let path = folder.path(name);
        fs::write(&path, "[]").unwrap();
        let mut updates = updates(&path);
        state("the first state", &mut updates, &[]).await;
        let writer = {
            let path = path.clone();
            std::thread::spawn(move || {
                for n in 0..200 {
                    fs::write(&path, format!("[\"x{n}\"]")).unwrap();
                }
                fs::write(&path, r#"["a", "b"]"#).unwrap();
            })
        };
        loop {
            // A writer that is held up for long leaves half a file for long, which is told.
            if let Ok(endpoints) = word("the last state", &mut updates).await
                && ids(&endpoints) == ["a", "b"]
            {
                break;
            }
        }
        tokio::task::spawn_blocking(|| writer.join().unwrap())
            .await
            .unwrap();
        silent("and no other one after it", &mut updates).await;
    }
}

#[tokio::test]
async fn a_file_that_goes_and_comes_back_keeps_the_last_good_state() {
    let folder = Folder::new();
    let path = folder.path("list.yml");
    let mut updates = updates(&path);
    error("it is not there yet", &mut updates, &path, "No such file").await;
    silent("which is told once", &mut updates).await;
    rename_over(&path, "[a, b]");
    state("it came", &mut updates, &["a", "b"]).await;
    for text in ["[a, b]", "[a]"] {
        fs::remove_file(&path).unwrap();
        error("it went", &mut updates, &path, "No such file").await;
        rename_over(&path, text);
        let word = word("it came back", &mut updates).await.expect("a state");
        assert_eq!(word[0].id().as_str(), "a", "{text}");
    }
}

#[cfg(unix)]
#[tokio::test]
async fn what_cannot_be_read_is_an_error_and_nothing_waits_for_it() {
    use std::os::unix::fs::{PermissionsExt as _, symlink};
    use std::process::Command;

    let folder = Folder::new();
    let path = folder.path("list.json");
    fs::write(&path, r#"["a"]"#).unwrap();
    let mut updates = updates(&path);
    state("the first state", &mut updates, &["a"]).await;
    type Put<'a> = (&'a str, &'a dyn Fn(&Path));
    let puts: [Put<'_>; 5] = [
        ("is a folder", &|path| fs::create_dir(path).unwrap()),
        // Who opens a pipe to read waits for who writes.
        ("is no regular file", &|path| {
            let made = Command::new("mkfifo").arg(path).status().unwrap();
            assert!(made.success(), "mkfifo makes a pipe");
        }),
        ("is no regular file", &|path| {
            symlink("/dev/zero", path).unwrap()
        }),
        ("symbolic links", &|path| symlink(path, path).unwrap()),
        ("is larger than 64 MiB", &|path| {
            // Sparse: it takes no room.
            fs::File::create(path)
                .unwrap()
                .set_len((64 << 20) + 1)
                .unwrap();
        }),
    ];
    for (says, put) in puts {
        let new = folder.path("new");
        put(&new);
        if says == "symbolic links" {
            fs::remove_file(&new).unwrap();
            fs::remove_file(&path).unwrap();
            put(&path);
        } else {
            fs::remove_file(&path).unwrap();
            fs::rename(&new, &path).unwrap();
        }
        // Between two steps it may be seen as gone.
        while !word(says, &mut updates)
            .await
            .expect_err(says)
            .contains(says)
        {}
        silent("an error is told once", &mut updates).await;
        match path.is_dir() {
            true => fs::remove_dir(&path).unwrap(),
            false => fs::remove_file(&path).unwrap(),
        }
        rename_over(&path, r#"["a"]"#);
        while word("it is a file again", &mut updates).await.is_err() {}
    }
    fs::set_permissions(&path, fs::Permissions::from_mode(0o000)).unwrap();
    if fs::File::open(&path).is_ok() {
        eprintln!("skipped: who runs this may read everything, so that permissions say nothing");
        return;
    }
    error(
        "it may not be read",
        &mut updates,
        &path,
        "ermission denied",
    )
    .await;
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
    state("now it may", &mut updates, &["a"]).await;
}

#[tokio::test]
async fn targets_name_files_by_absolute_and_relative_paths() {
    let folder = Folder::new();
    let path = folder.path("a list?.json");
    fs::write(&path, r#"["http://a:1"]"#).unwrap();
    let absolute = path
        .to_str()
        .unwrap()
        .replace(' ', "%20")
        .replace('?', "%3f");
    let here = std::env::current_dir().unwrap();
    let up = "../".repeat(here.components().count() - 1);
    let relative = format!("{up}{}", absolute.trim_start_matches('/'));
    for target in [
        format!("file://{absolute}"),
        format!("file:{absolute}"),
        format!("file:{relative}"),
    ] {
        let mut source: BoxDiscovery = Targets::new().source(&target).unwrap();
        let word = tokio::time::timeout(PATIENCE, source.next()).await;
        let update = word.expect("a word comes").expect("it does not end");
        let update = update.unwrap_or_else(|error| panic!("{target}: {error}"));
        assert_eq!(ids(update.endpoints()), ["http://a:1"], "{target}");
    }
}
