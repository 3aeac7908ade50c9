//! The checked-in code is what its protos say.
//!
//! Generated code is checked in, so that nobody needs a protobuf compiler to build the crate or its
//! tests. This test generates it anew, in pure Rust, and compares. After a change to a proto, or an
//! update of the generator, write the files anew with
//!
//! ```text
//! EVENKEEL_BLESS=1 cargo test --test generated
//! ```

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

/// Protos that are generated into one directory, beside whatever is written there by hand.
struct Target {
    /// Where imports are looked up.
    include: &'static str,
    protos: &'static [&'static str],
    /// One file for each package comes here, named after the package.
    into: &'static str,
    client: bool,
    server: bool,
}

const DURATION: &str = "google/protobuf/duration.proto";

const TARGETS: &[Target] = &[
    Target {
        include: "proto",
        protos: &["evenkeel/demo/v1/demo.proto"],
        into: "proto/generated",
        client: true,
        server: true,
    },
    // What the crate itself speaks: `src/proto.rs`.
    Target {
        include: "proto",
        protos: &[
            "xds/data/orca/v3/orca_load_report.proto",
            "xds/service/orca/v3/orca.proto",
        ],
        into: "proto/generated/orca",
        client: false,
        server: false,
    },
    Target {
        include: "proto",
        protos: &["grpc/health/v1/health.proto"],
        into: "proto/generated/health",
        client: false,
        server: false,
    },
    Target {
        include: "proto",
        protos: &["evenkeel/load/v1/probe.proto"],
        into: "proto/generated/load",
        client: false,
        server: false,
    },
    Target {
        include: "proto",
        protos: &["etcd/rpc.proto"],
        into: "proto/generated/etcd",
        client: true,
        server: false,
    },
];

#[test]
fn checked_in_code_is_what_the_protos_say() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let bless = std::env::var_os("EVENKEEL_BLESS").is_some();
    let mut stale = Vec::new();
    for (index, target) in TARGETS.iter().enumerate() {
        let expected = generate(root, target, index);
        let into = root.join(target.into);
        if bless {
            replace(&into, &expected);
        }
        let found = sources(&into);
        for name in expected.keys().chain(found.keys()) {
            let path = into.join(name);
            match (expected.get(name), found.get(name)) {
                (Some(wanted), Some(text)) => stale.extend(difference(&path, wanted, text)),
                (Some(_), None) => stale.push(format!("{} is missing", path.display())),
                (None, _) => stale.push(format!("{} comes from no proto", path.display())),
            }
        }
    }
    stale.sort();
    stale.dedup();
    assert!(
        stale.is_empty(),
        "checked-in generated code must be what its protos say; \
         EVENKEEL_BLESS=1 cargo test --test generated writes it anew:\n  {}",
        stale.join("\n  ")
    );
}

/// The generated files of a target, by name.
fn generate(root: &Path, target: &Target, index: usize) -> BTreeMap<String, String> {
    let out = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("generated-{index}"));
    if out.exists() {
        fs::remove_dir_all(&out).expect("an old output directory can be removed");
    }
    fs::create_dir_all(&out).expect("an output directory can be made");
    let mut descriptors = protox::compile(target.protos, [root.join(target.include)])
        .unwrap_or_else(|error| panic!("{:?} must compile: {error}", target.protos));
    // Not what they import: that is options, and what `prost_types` has, of which the generator wants to see
    // the messages that it names.
    let named = |name: &str| target.protos.contains(&name) || name == DURATION;
    descriptors.file.retain(|file| named(file.name()));
    tonic_prost_build::configure()
        .build_client(target.client)
        .build_server(target.server)
        // Connecting is the balancer's business, not that of a generated client.
        .build_transport(false)
        .bytes(".")
        // In one order, so that equal messages are equal bytes.
        .btree_map(".")
        .out_dir(&out)
        .compile_fds(descriptors)
        .unwrap_or_else(|error| panic!("{:?} must generate: {error}", target.protos));
    sources(&out)
}

/// The generated files of a directory, by name; none if it does not exist.
fn sources(directory: &Path) -> BTreeMap<String, String> {
    let Ok(entries) = fs::read_dir(directory) else {
        return BTreeMap::new();
    };
    entries
        .map(|entry| entry.expect("a directory entry can be read").path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "rs"))
        .map(|path| {
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            // A checkout may have turned line ends into CRLF.
            let text = fs::read_to_string(&path).expect("generated code is text");
            (name.into_owned(), text.replace("\r\n", "\n"))
        })
        .filter(|(_, text)| text.starts_with("// This file is @generated"))
        .collect()
}

fn replace(into: &Path, expected: &BTreeMap<String, String>) {
    fs::create_dir_all(into).expect("the directory of generated code can be made");
    for name in sources(into)
        .keys()
        .filter(|name| !expected.contains_key(*name))
    {
        fs::remove_file(into.join(name)).expect("a stale file can be removed");
    }
    for (name, text) in expected {
        fs::write(into.join(name), text).expect("generated code can be written");
    }
}

/// Where a file first differs from what it must be.
fn difference(path: &Path, wanted: &str, text: &str) -> Option<String> {
    if wanted == text {
        return None;
    }
    let line = wanted
        .lines()
        .zip(text.lines())
        .position(|(wanted, text)| wanted != text)
        .unwrap_or_else(|| wanted.lines().count().min(text.lines().count()));
    Some(format!(
        "{}:{}: must be `{}`, is `{}`",
        path.display(),
        line + 1,
        wanted.lines().nth(line).unwrap_or("<end of file>"),
        text.lines().nth(line).unwrap_or("<end of file>"),
    ))
}
