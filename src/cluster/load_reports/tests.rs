use std::sync::Mutex;

use futures::stream::{self, BoxStream, StreamExt};
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::subscriber::set_default;
use tracing::{Event, Level, Metadata, Subscriber};

use super::*;
use crate::load::{Measures, ReportRules};
use crate::policy::Candidates;
use crate::probe::WatchError;

const EVERY: Duration = Duration::from_secs(3);

/// Of which endpoints it was warned.
#[derive(Clone, Default)]
struct Warnings(Arc<Mutex<Vec<String>>>);

impl Subscriber for Warnings {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        *metadata.level() == Level::WARN
    }

    fn event(&self, event: &Event<'_>) {
        struct Endpoint<'a>(&'a Warnings);
        impl Visit for Endpoint<'_> {
            fn record_debug(&mut self, field: &Field, value: &dyn std::fmt::Debug) {
                if field.name() == "endpoint" {
                    self.0.0.lock().unwrap().push(format!("{value:?}"));
                }
            }
        }
        event.record(&mut Endpoint(self));
    }

    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}
    fn record_follows_from(&self, _: &Id, _: &Id) {}
    fn enter(&self, _: &Id) {}
    fn exit(&self, _: &Id) {}
}

/// Servers that do not know the question. Counts how often it was put.
#[derive(Clone, Default)]
struct Old(Arc<Mutex<usize>>);

impl Watch<()> for Old {
    type Terms = Duration;
    type Word = LoadReport;
    type Stream = BoxStream<'static, Result<LoadReport, WatchError>>;

    fn watch(&self, _: Target<()>, _: &Duration) -> Self::Stream {
        *self.0.lock().unwrap() += 1;
        stream::iter([Err(WatchError::Unsupported)]).boxed()
    }
}

fn reports<W>(watch: W) -> LoadReports<W> {
    let rules = ReportRules {
        out_of_band: Some(EVERY),
        ..ReportRules::default()
    };
    let settings = Settings {
        measures: Measures::NOTHING.with_reports(rules),
        ..Settings::default()
    };
    LoadReports::new(Some(watch), &settings)
}

#[tokio::test(start_paused = true)]
async fn of_a_server_that_does_not_report_it_is_warned_once_however_often_it_is_connected() {
    let warnings = Warnings::default();
    let _guard = set_default(warnings.clone());
    let old = Old::default();
    let mut reports = reports(old.clone());
    let candidates = Candidates::connected(["a", "b"]);
    for round in 0..3 {
        for candidate in candidates.all().iter() {
            let subchannel = candidate.subchannel();
            let connection = subchannel.connection() + 10;
            subchannel.connected(connection);
            let target = Target::new(candidate.endpoint().clone(), ());
            reports.begin(target, subchannel.clone(), connection);
            let asked = 2 * round + 1 + candidate.slot();
            for _ in 0..1_000 {
                if *old.0.lock().unwrap() >= asked {
                    break;
                }
                tokio::task::yield_now().await;
            }
            assert_eq!(*old.0.lock().unwrap(), asked, "its server is asked");
            reports.end(subchannel.key(), connection);
        }
    }
    tokio::task::yield_now().await;
    assert_eq!(*old.0.lock().unwrap(), 6, "each connection is asked");
    let warned = warnings.0.lock().unwrap().clone();
    assert_eq!(warned, ["a", "b"], "once for each endpoint");
    for candidate in candidates.all().iter() {
        reports.forget(candidate.subchannel().key());
    }
    assert!(reports.told.is_empty(), "nothing is left of who left");
}
