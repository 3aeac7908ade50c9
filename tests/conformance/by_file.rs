//! A list of endpoints in a file.

use std::fs;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};

use evenkeel::discovery::{BoxDiscovery, File};
use serde_json::{Value, json};

use crate::place::{Abilities, Burst, Can, Change, Place, State};
use crate::rules::READ_EVERY;

struct OnDisk {
    folder: PathBuf,
    #[cfg(target_os = "linux")]
    opened: linux::Opened,
}

conforms!(OnDisk);

impl OnDisk {
    /// Replaces the file, as whoever writes one should.
    fn replace(&self, text: &str) {
        let new = self.folder.join("new");
        fs::write(&new, text).expect("it can be written");
        fs::rename(new, self.folder.join("list.json")).expect("it can be replaced");
    }

    fn write_state(&self, state: &State) {
        let entries = state.iter().map(|(server, said)| {
            let version = said.version.map(|version| json!({ "version": version }));
            json!({"address": Self::id(*server), "weight": said.weight, "metadata": version})
        });
        self.replace(&entries.collect::<Value>().to_string());
    }
}

impl Drop for OnDisk {
    fn drop(&mut self) {
        // What is left is some files of the system's temporary folder.
        let _ = fs::remove_dir_all(&self.folder);
    }
}

impl Place for OnDisk {
    const NAME: &'static str = "File";

    const CAN: Abilities = Abilities {
        weights: Can::Yes,
        metadata: Can::Yes,
        empty: Can::Yes,
        errors: Can::Yes,
        returns: Can::Yes,
        ends: Can::No("a file may always change again"),
        reads: match cfg!(target_os = "linux") {
            true => Can::Yes,
            false => Can::No("only Linux tells who opens a file"),
        },
    };

    /// One that is being read when the burst begins, and the last.
    const BURST: Burst = Burst::States(2);

    async fn start(first: &State) -> Option<(Self, BoxDiscovery)> {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let name = format!("evenkeel-conformance-{}-{number}", std::process::id());
        let folder = std::env::temp_dir().join(name);
        fs::create_dir_all(&folder).expect("there is room");
        let place = Self {
            #[cfg(target_os = "linux")]
            opened: linux::Opened::in_folder(&folder),
            folder,
        };
        place.write_state(first);
        let file = File::new(place.folder.join("list.json")).with_interval(READ_EVERY);
        let updates = file.updates().expect("it can be read");
        Some((place, Box::pin(updates)))
    }

    async fn write(&mut self, change: &Change) {
        self.write_state(&change.state);
    }

    async fn fail(&mut self) -> &'static str {
        self.replace(r#"["s1", {"address": "s2", "weight": 0}]"#);
        "list.json: [1].weight: "
    }

    async fn mend(&mut self, state: &State) {
        self.write_state(state);
    }

    #[cfg(target_os = "linux")]
    fn reads(&mut self) -> usize {
        self.opened.count()
    }
}

#[cfg(target_os = "linux")]
mod linux {
    use std::mem::MaybeUninit;
    use std::os::fd::OwnedFd;
    use std::path::Path;

    use rustix::fs::inotify::{self, CreateFlags, Reader, WatchFlags};

    /// How often files of a folder were opened.
    pub(super) struct Opened {
        events: OwnedFd,
        count: usize,
    }

    impl Opened {
        pub(super) fn in_folder(folder: &Path) -> Self {
            let events = inotify::init(CreateFlags::NONBLOCK).expect("there is inotify");
            inotify::add_watch(&events, folder, WatchFlags::OPEN).expect("it can be watched");
            Self { events, count: 0 }
        }

        pub(super) fn count(&mut self) -> usize {
            let mut buffer = [MaybeUninit::uninit(); 4096];
            let mut reader = Reader::new(&self.events, &mut buffer);
            while reader.next().is_ok() {
                self.count += 1;
            }
            self.count
        }
    }
}
