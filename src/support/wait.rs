//! Waits that have a limit and can be called off.
//!
//! Every wait of kiln goes through [`Patience`]: a deadline, a cancel token and
//! the name of what is waited for, so that a time-out can say what did not come.

use std::future::Future;
use std::time::Duration;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// How long to wait, and who may call it off.
#[derive(Clone, Debug)]
pub struct Patience {
    pub deadline: Option<Instant>,
    pub cancel: CancellationToken,
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Impatience {
    #[error("timed out after {} s waiting for {what}", waited.as_secs())]
    TimedOut { what: String, waited: Duration },
    #[error("cancelled while waiting for {what}")]
    Cancelled { what: String },
}

impl Patience {
    /// Waits at most `limit`, or until `cancel` fires.
    pub fn new(limit: Duration, cancel: &CancellationToken) -> Patience {
        Patience { deadline: Some(Instant::now() + limit), cancel: cancel.clone() }
    }

    /// No limit of time of its own: the caller's step has one.
    pub fn unlimited(cancel: &CancellationToken) -> Patience {
        Patience { deadline: None, cancel: cancel.clone() }
    }

    /// The same cancel token with a deadline no later than this one's.
    pub fn at_most(&self, limit: Duration) -> Patience {
        let own = Instant::now() + limit;
        Patience { deadline: Some(self.deadline.map_or(own, |d| d.min(own))), cancel: self.cancel.clone() }
    }

    /// Whether there is still time, and nobody called it off.
    pub fn remains(&self) -> bool {
        !self.cancel.is_cancelled() && self.deadline.is_none_or(|d| d > Instant::now())
    }

    /// For blocking loops: an error once the deadline has passed or the cancel token fired.
    pub fn check(&self, what: &str, begun: std::time::Instant) -> Result<(), Impatience> {
        if self.cancel.is_cancelled() {
            return Err(Impatience::Cancelled { what: what.into() });
        }
        if self.deadline.is_some_and(|d| Instant::now() >= d) {
            return Err(Impatience::TimedOut { what: what.into(), waited: begun.elapsed() });
        }
        Ok(())
    }

    /// Runs `future` to its end, the deadline or the cancellation, whichever is first.
    pub async fn wait<F: Future>(&self, what: &str, future: F) -> Result<F::Output, Impatience> {
        let begun = Instant::now();
        let deadline = async {
            match self.deadline {
                Some(d) => tokio::time::sleep_until(d).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            () = self.cancel.cancelled() => Err(Impatience::Cancelled { what: what.into() }),
            output = future => Ok(output),
            () = deadline => Err(Impatience::TimedOut { what: what.into(), waited: begun.elapsed() }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_wait_ends_by_result_deadline_or_cancel() {
        let cancel = CancellationToken::new();
        let p = Patience::new(Duration::from_millis(20), &cancel);
        assert_eq!(p.wait("one", async { 1 }).await, Ok(1));
        let late = p.wait("the moon", std::future::pending::<()>()).await.unwrap_err();
        assert!(matches!(&late, Impatience::TimedOut { what, .. } if what == "the moon"), "{late}");
        cancel.cancel();
        let off = Patience::unlimited(&cancel).wait("the sun", std::future::pending::<()>()).await;
        assert_eq!(off, Err(Impatience::Cancelled { what: "the sun".into() }));
    }
}
