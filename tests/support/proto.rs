//! The service that the servers speak: `proto/evenkeel/demo/v1/demo.proto`.

include!("../../proto/generated/evenkeel.demo.v1.rs");
