//! Starting threads and noticing their end.

use super::RunError;
use super::cores::pin;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Once;
use std::time::Duration;
use tokio::sync::mpsc;

/// A thread is over.
#[derive(Debug)]
pub(super) struct ThreadEnd {
    pub name: String,
    pub result: Result<(), String>,
}

impl ThreadEnd {
    /// The error of a thread that ended without being told to.
    pub(super) fn into_error(self) -> RunError {
        let fault = match self.result {
            Ok(()) => "ended without being told to".to_owned(),
            Err(fault) => fault,
        };
        RunError::Thread {
            name: self.name,
            fault,
        }
    }
}

/// The edge's threads; each tells when it is over.
pub(super) struct Threads {
    alive: Vec<String>,
    ending: mpsc::UnboundedSender<ThreadEnd>,
    ended: mpsc::UnboundedReceiver<ThreadEnd>,
}

impl Threads {
    pub(super) fn new() -> Self {
        // Unbounded in name: one message per thread.
        let (ending, ended) = mpsc::unbounded_channel();
        Threads {
            alive: Vec::new(),
            ending,
            ended,
        }
    }

    /// Runs `body` on a new thread, pinned to `cpu` if given.
    pub(super) fn spawn(
        &mut self,
        name: &str,
        cpu: Option<usize>,
        body: impl FnOnce() -> Result<(), String> + Send + 'static,
    ) -> Result<(), RunError> {
        let ending = self.ending.clone();
        let known_as = name.to_owned();
        std::thread::Builder::new()
            .name(name.to_owned())
            .spawn(move || {
                if let Some(cpu) = cpu
                    && let Err(error) = pin(cpu)
                {
                    tracing::warn!(cpu, %error, "cannot pin the thread");
                }
                let result = catch_unwind(AssertUnwindSafe(body))
                    .unwrap_or_else(|_| Err("panicked".to_owned()));
                let _ = ending.send(ThreadEnd {
                    name: known_as,
                    result,
                });
            })
            .map_err(RunError::system("starting a thread"))?;
        self.alive.push(name.to_owned());
        Ok(())
    }

    /// The next thread that ends. Cancel-safe.
    pub(super) async fn next_end(&mut self) -> ThreadEnd {
        match self.ended.recv().await {
            Some(end) => {
                self.alive.retain(|name| *name != end.name);
                end
            }
            // Not while `ending` is held here.
            None => std::future::pending().await,
        }
    }

    /// Waits until the threads whose names begin with `kind` are over, or `patience` has passed: a thread that hangs is no
    /// reason to hang too.
    pub(super) async fn wait_for(&mut self, kind: &str, patience: Duration) {
        let waiting = async {
            while self.alive.iter().any(|name| name.starts_with(kind)) {
                let end = self.next_end().await;
                if let Err(fault) = end.result {
                    tracing::error!(thread = end.name, %fault, "ended with an error");
                }
            }
        };
        if tokio::time::timeout(patience, waiting).await.is_err() {
            tracing::error!(threads = ?self.alive, "threads do not end");
        }
    }
}

/// From now on a panic ends the process, wherever it happens. A control thread that lost one task to a panic would go on with
/// calls in an unknown state and connections that nobody reads; the service manager's restart is the honest way out, and the
/// CDRs of the calls are closed by the next start.
pub(super) fn abort_on_panic() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let report = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            tracing::error!(%panic, "internal error, the process ends");
            report(panic);
            std::process::abort();
        }));
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn ends_are_told_with_their_reason() {
        let mut threads = Threads::new();
        threads.spawn("good", None, || Ok(())).unwrap();
        assert_eq!(
            threads.next_end().await.into_error().to_string(),
            "thread good: ended without being told to"
        );
        threads
            .spawn("bad", None, || Err("no ring".to_owned()))
            .unwrap();
        assert_eq!(
            threads.next_end().await.into_error().to_string(),
            "thread bad: no ring"
        );
    }

    #[tokio::test]
    async fn only_the_threads_of_a_kind_are_waited_for() {
        let mut threads = Threads::new();
        let (release, held) = std::sync::mpsc::channel::<()>();
        threads
            .spawn("media-0", None, move || {
                let _ = held.recv();
                Ok(())
            })
            .unwrap();
        threads.spawn("control-0", None, || Ok(())).unwrap();
        threads.wait_for("control-", Duration::from_secs(30)).await;
        assert_eq!(threads.alive, ["media-0"]);
        drop(release);
        threads.wait_for("media-", Duration::from_secs(30)).await;
        assert!(threads.alive.is_empty());
    }
}
