//! Generated code. `tests/generated.rs` says how it is made, and keeps it as its protos say.

/// What a server reports of its load.
#[expect(unreachable_pub, reason = "generated for a crate of its own")]
pub(crate) mod orca {
    include!("../proto/generated/orca/xds.data.orca.v3.rs");
}

/// How a server is asked to report its load beside the calls.
#[expect(unreachable_pub, reason = "generated for a crate of its own")]
pub(crate) mod orca_service {
    include!("../proto/generated/orca/xds.service.orca.v3.rs");
}

/// How servers tell of their health.
#[expect(unreachable_pub, reason = "generated for a crate of its own")]
pub(crate) mod health {
    include!("../proto/generated/health/grpc.health.v1.rs");
}

/// How servers are probed.
#[expect(unreachable_pub, reason = "generated for a crate of its own")]
pub(crate) mod load {
    include!("../proto/generated/load/evenkeel.load.v1.rs");
}

/// What etcd speaks.
#[cfg(feature = "etcd")]
#[expect(unreachable_pub, reason = "generated for a crate of its own")]
pub(crate) mod etcd {
    include!("../proto/generated/etcd/etcdserverpb.rs");
}
