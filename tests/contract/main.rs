//! The contract of `Balance`, point by point, on hand-made services and, nearly everywhere, paused
//! time: a wait that never ends runs into its timeout at once.

mod world;

mod point_1_handles;
mod point_2_readiness;
mod point_3_dispatch;
mod point_4_reclaim;
mod point_5_load;
mod point_6_waiting;
mod point_7_lifetime;
mod point_8_removal;
mod point_9_identity;
mod probes;

mod chaos;
mod draining;
mod ejection;
mod ejection_rules;
mod ejection_streams;
mod health_checks;
mod hedging;
mod lifecycle;
mod limits;
mod load_reports;
mod mistakes;
mod outliers;
mod pick_first;
mod retries;
mod slow_start;
mod topology;
mod ways_in;
mod weights;
