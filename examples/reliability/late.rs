//! Packets that come late, on kernels without `netem`: a rule of iptables hands them to a queue of netfilter, and from
//! there they go on after a while, in their order.

/// The number of the queue, as the rule names it.
pub(crate) const QUEUE: &str = "0";

#[cfg(target_os = "linux")]
pub(crate) use queue::start;

#[cfg(not(target_os = "linux"))]
pub(crate) fn start() -> std::io::Result<()> {
    Err(std::io::ErrorKind::Unsupported.into())
}

#[cfg(target_os = "linux")]
mod queue {
    use std::collections::VecDeque;
    use std::io::ErrorKind;
    use std::thread;
    use std::time::{Duration, Instant};

    use nfq::{Message, Queue, Verdict};

    /// How late.
    const LATE: Duration = Duration::from_millis(200);

    /// How often the queue is looked at.
    const LOOK_EVERY: Duration = Duration::from_millis(1);

    /// Holds up what comes to the queue, for as long as the process lives. Needs root.
    pub(crate) fn start() -> std::io::Result<()> {
        let mut queue = Queue::open()?;
        queue.bind(0)?;
        queue.set_nonblocking(true);
        thread::spawn(move || hold(&mut queue));
        Ok(())
    }

    fn hold(queue: &mut Queue) {
        let mut held: VecDeque<(Instant, Message)> = VecDeque::new();
        loop {
            while held.front().is_some_and(|(due, _)| *due <= Instant::now()) {
                if let Some((_, mut message)) = held.pop_front() {
                    message.set_verdict(Verdict::Accept);
                    // One that cannot go on is lost, as packets may be.
                    let _ = queue.verdict(message);
                }
            }
            match queue.recv() {
                Ok(message) => held.push_back((Instant::now() + LATE, message)),
                Err(error) if error.kind() == ErrorKind::WouldBlock => thread::sleep(LOOK_EVERY),
                Err(error) => {
                    // Without it no packet goes through, and the run is to say so.
                    eprintln!("the queue of packets: {error}");
                    std::process::exit(1);
                }
            }
        }
    }
}
