use std::net::IpAddr;
use std::time::Duration;

use http::Uri;

use crate::error::Error;
use crate::policy::{ATTEMPT_DELAY, ATTEMPT_DELAYS};

/// How connections are made and kept. The defaults are fit for most clients.
///
/// ```
/// use std::time::Duration;
/// use evenkeel::grpc::http2::Http2Settings;
///
/// let mut settings = Http2Settings::default();
/// settings.keep_alive_interval = Some(Duration::from_secs(30));
/// ```
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Http2Settings {
    /// Sends small writes at once (`TCP_NODELAY`). Default `true`, as in tonic and gRPC: Nagle's
    /// algorithm holds a call's last packet back for a round trip.
    pub tcp_nodelay: bool,
    /// Idle time before the system's first TCP keep-alive probe, in whole seconds, at least one. Default `None`,
    /// no probes, as in tonic.
    pub tcp_keepalive: Option<Duration>,
    /// Time between TCP keep-alive probes, in whole seconds, at least one. Default `None`, the system's.
    pub tcp_keepalive_interval: Option<Duration>,
    /// Unanswered TCP keep-alive probes before the connection is dropped. Default `None`, the
    /// system's.
    pub tcp_keepalive_retries: Option<u32>,
    /// How long one address may take to answer before it counts as failed. Default `None`: only the
    /// balancer's connect timeout holds, which is for all addresses of an endpoint together.
    pub tcp_connect_timeout: Option<Duration>,
    /// How long one of several addresses, those of an endpoint or of its host's name, may take to answer
    /// before the next one is tried beside it. Default 250 ms, at least 100 ms and at most 2 s (gRFC A61,
    /// RFC 8305). `None` tries the next one only when the one before has failed.
    pub connection_attempt_delay: Option<Duration>,
    /// The local address to connect from. Default `None`, any.
    pub local_address: Option<IpAddr>,

    /// Time without traffic before an HTTP/2 PING is sent. Default `None`, no pings, as gRPC
    /// clients have it (gRFC A8): servers close a connection that pings more often than they allow. Over a year
    /// counts as a year.
    pub keep_alive_interval: Option<Duration>,
    /// How long a PING may go without an answer before the connection is closed. Default 20 s
    /// (gRFC A8). Without pings too, a connection whose endpoint has left or whose last handle is
    /// dropped is closed, streams and all, if its server takes no bytes for so long. Over a year counts as a year.
    pub keep_alive_timeout: Duration,
    /// Pings even while no call is under way. Default `false` (gRFC A8).
    pub keep_alive_while_idle: bool,

    /// How much a server may send on one stream before it must wait, in bytes. Default `None`:
    /// hyper's, 2 MiB.
    pub initial_stream_window_bytes: Option<u32>,
    /// The same for all streams of a connection together. Default `None`: hyper's, 5 MiB.
    pub initial_connection_window_bytes: Option<u32>,
    /// Grows the windows by measuring the bandwidth-delay product, from 64 KiB; the two settings
    /// above are then not used. Default `false`, as in tonic.
    pub adaptive_window: bool,
    /// The largest frame that the server may send, in bytes, 16,384 to 16,777,215. Default `None`:
    /// 16,384, the protocol's.
    pub max_frame_bytes: Option<u32>,
    /// The largest response head or trailers, in bytes as HTTP/2 counts them. Default 16 KiB,
    /// hyper's. gRPC's error details travel in trailers.
    pub max_header_list_bytes: u32,

    /// How many connections an endpoint may have at once, 1 to 10 (gRFC A105). Default `None`: what a service config
    /// says, else 1. A further one is made in the background when a call waits because all that there are have as many
    /// streams open as the server allows (`MAX_CONCURRENT_STREAMS`), and none is being made yet. It stays until it ends
    /// by itself or the endpoint's connections are closed. Attempts that fail are made again with the balancer's
    /// backoff while calls wait; they do not count among its dials at once.
    ///
    /// With one connection too, a call beyond the server's limit goes to another endpoint that is ready, if the policy
    /// has one. What finds no room anywhere waits, under its own deadline and the
    /// [limits](crate::health::Limits) on calls that wait, in the order in which the calls came.
    pub max_connections: Option<u32>,

    /// The scheme and authority that requests carry in place of the endpoint's. Default `None`. It
    /// changes neither where the connection goes nor which certificate it wants.
    pub origin: Option<Uri>,
    /// How much of a request's body is kept until the response begins, in bytes, so that a request
    /// that the server refused can go to another endpoint. A body that has sent more fails with
    /// the server's refusal. Default 256 KiB, as gRPC core's buffer for the
    /// retries of one call.
    pub replay_limit_bytes: usize,
}

impl Default for Http2Settings {
    fn default() -> Self {
        Self {
            tcp_nodelay: true,
            tcp_keepalive: None,
            tcp_keepalive_interval: None,
            tcp_keepalive_retries: None,
            tcp_connect_timeout: None,
            connection_attempt_delay: Some(ATTEMPT_DELAY),
            local_address: None,
            keep_alive_interval: None,
            keep_alive_timeout: Duration::from_secs(20),
            keep_alive_while_idle: false,
            initial_stream_window_bytes: None,
            initial_connection_window_bytes: None,
            adaptive_window: false,
            max_frame_bytes: None,
            max_header_list_bytes: 16 * 1024,
            max_connections: None,
            origin: None,
            replay_limit_bytes: 256 * 1024,
        }
    }
}

/// gRFC A105: the limit that clients have by default.
pub(in crate::grpc) const MOST_CONNECTIONS: u32 = 10;
/// RFC 9113 section 6.9.1.
const MAX_WINDOW: u32 = (1 << 31) - 1;
/// RFC 9113 section 6.5.2, SETTINGS_MAX_FRAME_SIZE.
const FRAME_BYTES: std::ops::RangeInclusive<u32> = 1 << 14..=(1 << 24) - 1;

impl Http2Settings {
    /// The interval and the timeout of PINGs, which hyper adds to the time now.
    pub(super) fn keep_alive(&self) -> (Option<Duration>, Duration) {
        let year = Duration::from_secs(365 * 24 * 60 * 60);
        let interval = self.keep_alive_interval.map(|time| time.min(year));
        (interval, self.keep_alive_timeout.min(year))
    }

    /// How many connections an endpoint may have.
    pub(super) fn connections(&self) -> usize {
        self.max_connections.unwrap_or(1) as usize
    }

    /// Refuses what HTTP/2 or the system cannot do.
    ///
    /// # Errors
    ///
    /// A configuration error that names the field.
    pub fn check(&self) -> Result<(), Error> {
        let window = |field, bytes: Option<u32>| match bytes {
            Some(bytes) if !(1..=MAX_WINDOW).contains(&bytes) => Err(Error::config(
                field,
                format!("{bytes} bytes: the window is 1 to {MAX_WINDOW}"),
            )),
            _ => Ok(()),
        };
        window(
            "initial_stream_window_bytes",
            self.initial_stream_window_bytes,
        )?;
        window(
            "initial_connection_window_bytes",
            self.initial_connection_window_bytes,
        )?;
        if let Some(bytes) = self.max_frame_bytes
            && !FRAME_BYTES.contains(&bytes)
        {
            return Err(Error::config(
                "max_frame_bytes",
                format!("{bytes} bytes: a frame is {FRAME_BYTES:?}"),
            ));
        }
        if self.max_header_list_bytes == 0 {
            return Err(Error::config(
                "max_header_list_bytes",
                "0 bytes: no response would fit",
            ));
        }
        let positive = |field, time: Option<Duration>| match time {
            Some(Duration::ZERO) => Err(Error::config(field, "0 is no time")),
            _ => Ok(()),
        };
        positive("keep_alive_interval", self.keep_alive_interval)?;
        positive("keep_alive_timeout", Some(self.keep_alive_timeout))?;
        positive("tcp_connect_timeout", self.tcp_connect_timeout)?;
        // Sockets take whole seconds, and refuse none without a word to anybody.
        for (field, time) in [
            ("tcp_keepalive", self.tcp_keepalive),
            ("tcp_keepalive_interval", self.tcp_keepalive_interval),
        ] {
            if let Some(time) = time
                && time < Duration::from_secs(1)
            {
                return Err(Error::config(field, format!("{time:?} is under a second")));
            }
        }
        if self.tcp_keepalive_retries == Some(0) {
            return Err(Error::config("tcp_keepalive_retries", "is 0"));
        }
        if let Some(delay) = self.connection_attempt_delay
            && !ATTEMPT_DELAYS.contains(&delay)
        {
            return Err(Error::config(
                "connection_attempt_delay",
                format!("{delay:?} is not within {ATTEMPT_DELAYS:?}"),
            ));
        }
        if let Some(connections) = self.max_connections
            && !(1..=MOST_CONNECTIONS).contains(&connections)
        {
            return Err(Error::config(
                "max_connections",
                format!("{connections} is not within 1 to {MOST_CONNECTIONS}"),
            ));
        }
        if let Some(origin) = &self.origin
            && (origin.scheme().is_none() || origin.authority().is_none())
        {
            return Err(Error::config(
                "origin",
                format!("{origin} has no scheme or no authority"),
            ));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_are_accepted() {
        assert!(
            Http2Settings::default().check().is_ok(),
            "what is not set can be used"
        );
    }

    #[test]
    fn what_the_protocol_cannot_do_is_refused_by_name() {
        type Change = fn(&mut Http2Settings);
        let bad: [(&str, Change); 16] = [
            ("tcp_keepalive", |s| {
                s.tcp_keepalive = Some(Duration::from_millis(999))
            }),
            ("tcp_keepalive_interval", |s| {
                s.tcp_keepalive_interval = Some(Duration::ZERO)
            }),
            ("tcp_keepalive_retries", |s| {
                s.tcp_keepalive_retries = Some(0)
            }),
            ("initial_stream_window_bytes", |s| {
                s.initial_stream_window_bytes = Some(1 << 31)
            }),
            ("max_header_list_bytes", |s| s.max_header_list_bytes = 0),
            ("initial_stream_window_bytes", |s| {
                s.initial_stream_window_bytes = Some(0)
            }),
            ("initial_connection_window_bytes", |s| {
                s.initial_connection_window_bytes = Some(u32::MAX)
            }),
            ("max_frame_bytes", |s| s.max_frame_bytes = Some(16_383)),
            ("max_frame_bytes", |s| s.max_frame_bytes = Some(1 << 24)),
            ("keep_alive_interval", |s| {
                s.keep_alive_interval = Some(Duration::ZERO)
            }),
            ("keep_alive_timeout", |s| {
                s.keep_alive_timeout = Duration::ZERO
            }),
            ("connection_attempt_delay", |s| {
                s.connection_attempt_delay = Some(Duration::from_millis(99))
            }),
            ("connection_attempt_delay", |s| {
                s.connection_attempt_delay = Some(Duration::from_millis(2_001))
            }),
            ("max_connections", |s| s.max_connections = Some(0)),
            ("max_connections", |s| s.max_connections = Some(11)),
            ("origin", |s| s.origin = Some(Uri::from_static("/path"))),
        ];
        for (field, change) in bad {
            let mut settings = Http2Settings::default();
            change(&mut settings);
            let error = settings.check().expect_err(field);
            assert_eq!(error.field(), Some(field), "{error}");
        }
    }
}
