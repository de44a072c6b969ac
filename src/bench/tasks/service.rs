//! The service that the cases of a load call: it takes as long as it is told to, and remembers when each
//! call came and when it was answered.
//!
//! Times are taken here and not at the worker, so that all that lies between two cases is seen: the
//! answer's way back, the worker, the scheduler where it is asked, the next call's way.

use axum::Router;
use axum::extract::{Path, State};
use axum::http::HeaderMap;
use axum::routing::post;
use parking_lot::Mutex;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};
use tokio::net::TcpListener;

/// One call that was answered.
#[derive(Clone, Copy, Debug)]
pub(super) struct Call {
    /// The number of its case.
    pub(super) case: u32,
    pub(super) came: Instant,
    pub(super) left: Instant,
}

impl Call {
    pub(super) fn took(&self) -> Duration {
        self.left - self.came
    }
}

/// See the module's comment.
#[derive(Clone, Default)]
pub(super) struct Service {
    calls: Arc<Mutex<Vec<Call>>>,
    /// Calls that have come, answered or not.
    came: Arc<AtomicU64>,
    port: u16,
}

impl Service {
    /// Serves on a free port of this machine until the process ends.
    pub(super) async fn start() -> io::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let service = Self { port: listener.local_addr()?.port(), ..Self::default() };
        let listener = axum::serve::ListenerExt::tap_io(listener, |socket| {
            // Without it answers are only slower.
            let _slower = socket.set_nodelay(true);
        });
        let router =
            Router::new().route("/{case}/{least}/{most}", post(answer)).with_state(service.clone());
        tokio::spawn(async move {
            // It ends with the process only.
            let _served = axum::serve(listener, router).await;
        });
        Ok(service)
    }

    /// Where a case calls: answered after a time between these, the same for each repeat again.
    pub(super) fn url(&self, case: u32, least: Duration, most: Duration) -> String {
        let (least, most) = (least.as_micros(), most.as_micros());
        format!("http://127.0.0.1:{}/{case}/{least}/{most}", self.port)
    }

    /// How many calls have come.
    pub(super) fn came(&self) -> u64 {
        self.came.load(Ordering::Relaxed)
    }

    /// Takes out the calls so far, in the order of their answers.
    pub(super) fn take(&self) -> Vec<Call> {
        std::mem::take(&mut *self.calls.lock())
    }
}

async fn answer(
    State(service): State<Service>,
    Path((case, least, most)): Path<(u32, u64, u64)>,
    headers: HeaderMap,
) -> &'static str {
    let came = Instant::now();
    service.came.fetch_add(1, Ordering::Relaxed);
    let pause = Duration::from_micros(match headers.get("x-tcss-task") {
        Some(task) if most > least => least + spread(task.as_bytes()) % (most - least),
        _ => least,
    });
    if !pause.is_zero() {
        // The runtime's timers know milliseconds only, which would be much of a short case.
        let rest = tokio::task::spawn_blocking(move || std::thread::sleep(pause)).await;
        if rest.is_err() {
            return "the service stops";
        }
    }
    service.calls.lock().push(Call { case, came, left: Instant::now() });
    "ok"
}

fn spread(task: &[u8]) -> u64 {
    let mut hasher = DefaultHasher::new();
    task.hash(&mut hasher);
    hasher.finish()
}
