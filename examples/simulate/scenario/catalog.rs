//! The scenarios that come with the simulator, embedded, so that it runs from anywhere.

/// The name of each file and its text, in the order in which they are shown.
pub const FILES: &[(&str, &str)] = &[
    ("testbed-70", include_str!("../scenarios/testbed-70.toml")),
    ("testbed-90", include_str!("../scenarios/testbed-90.toml")),
    ("testbed-174", include_str!("../scenarios/testbed-174.toml")),
    ("ramp", include_str!("../scenarios/ramp.toml")),
    (
        "fast-and-slow",
        include_str!("../scenarios/fast-and-slow.toml"),
    ),
    ("small-fleet", include_str!("../scenarios/small-fleet.toml")),
    ("two-slow", include_str!("../scenarios/two-slow.toml")),
    ("few-clients", include_str!("../scenarios/few-clients.toml")),
    ("two-sizes", include_str!("../scenarios/two-sizes.toml")),
    ("short-calls", include_str!("../scenarios/short-calls.toml")),
    ("fail-fast", include_str!("../scenarios/fail-fast.toml")),
    (
        "never-answers",
        include_str!("../scenarios/never-answers.toml"),
    ),
    ("flaky", include_str!("../scenarios/flaky.toml")),
    ("most-down", include_str!("../scenarios/most-down.toml")),
    (
        "rolling-restart",
        include_str!("../scenarios/rolling-restart.toml"),
    ),
    ("retry-storm", include_str!("../scenarios/retry-storm.toml")),
];
