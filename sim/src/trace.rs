//! Everything that happened in a run, in order, and its hash.
//!
//! It exists so that "one seed is one history" can be proved: two runs of a seed must have the same trace, byte for
//! byte. Network, disk, log lines and applied positions all come through here. It must not know wall time, addresses in
//! memory or anything else that differs between processes.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fmt::{self, Write};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Level, Metadata, Subscriber};
use xxhash_rust::xxh3::Xxh3;

/// A trace. Clones are handles to the same one.
#[derive(Clone)]
pub(crate) struct Trace(Arc<Shared>);

struct Shared {
    now_ms: AtomicU64,
    is_muted: AtomicBool,
    inner: Mutex<Inner>,
}

struct Inner {
    hash: Xxh3,
    events: u64,
    line: String,
    kept: Option<Vec<String>>,
}

impl Trace {
    /// An empty trace; `keep` keeps its lines beside their hash.
    pub(crate) fn new(keep: bool) -> Self {
        let kept = keep.then(Vec::new);
        let inner = Inner { hash: Xxh3::new(), events: 0, line: String::new(), kept };
        Self(Arc::new(Shared {
            now_ms: AtomicU64::new(0),
            is_muted: AtomicBool::new(false),
            inner: Mutex::new(inner),
        }))
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.0.inner.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// Virtual time, as the driver of the simulation last told it.
    pub(crate) fn now_ms(&self) -> u64 {
        self.0.now_ms.load(Ordering::Relaxed)
    }

    pub(crate) fn set_now_ms(&self, now_ms: u64) {
        self.0.now_ms.store(now_ms, Ordering::Relaxed);
    }

    /// Does `work` without noting anything. A process that dies drops its tasks in an order that depends on how many
    /// tasks were ever spawned in this process; nothing that happens in there has an effect, or may be seen.
    pub(crate) fn muted<T>(&self, work: impl FnOnce() -> T) -> T {
        self.0.is_muted.store(true, Ordering::Relaxed);
        let done = work();
        self.0.is_muted.store(false, Ordering::Relaxed);
        done
    }

    /// Appends one event of a host.
    pub(crate) fn note(&self, host: &str, what: fmt::Arguments<'_>) {
        if self.0.is_muted.load(Ordering::Relaxed) {
            return;
        }
        let now_ms = self.now_ms();
        let mut inner = self.inner();
        let mut line = std::mem::take(&mut inner.line);
        line.clear();
        // Writing into a string cannot fail.
        let _ = writeln!(line, "{now_ms} {host} {what}");
        inner.hash.update(line.as_bytes());
        inner.events += 1;
        if let Some(kept) = &mut inner.kept {
            kept.push(line.trim_end().to_owned());
        }
        inner.line = line;
    }

    /// The hash of all events so far, and how many there were.
    pub(crate) fn digest(&self) -> (u64, u64) {
        let inner = self.inner();
        (inner.hash.digest(), inner.events)
    }

    /// The lines that were kept.
    pub(crate) fn take_lines(&self) -> Vec<String> {
        self.inner().kept.take().unwrap_or_default()
    }
}

thread_local! {
    static HOST: RefCell<String> = const { RefCell::new(String::new()) };
}

/// Puts what the nodes log, and what they apply, into the trace.
pub(crate) struct LogToTrace {
    trace: Trace,
    spans: Mutex<(u64, BTreeMap<u64, String>)>,
}

impl LogToTrace {
    pub(crate) fn new(trace: Trace) -> Self {
        Self { trace, spans: Mutex::new((0, BTreeMap::new())) }
    }
}

/// Finds the name of the host in the span that the simulator opens around each turn of a host.
#[derive(Default)]
struct HostName(Option<String>);

impl Visit for HostName {
    fn record_str(&mut self, field: &Field, value: &str) {
        if field.name() == "name" {
            self.0 = Some(value.to_owned());
        }
    }

    fn record_debug(&mut self, _field: &Field, _value: &dyn fmt::Debug) {}
}

struct Fields(String);

impl Visit for Fields {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        let _ = write!(self.0, " {}={value:?}", field.name());
    }
}

impl Subscriber for LogToTrace {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        let target = metadata.target();
        let is_apply = target == "meridian::raft::apply";
        match metadata.is_span() {
            true => target == "turmoil" || target.starts_with("turmoil::"),
            false => target.starts_with("meridian") && (is_apply || *metadata.level() <= Level::DEBUG),
        }
    }

    fn new_span(&self, span: &Attributes<'_>) -> Id {
        let mut name = HostName::default();
        span.record(&mut name);
        let mut spans = self.spans.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        spans.0 += 1;
        let id = spans.0;
        spans.1.insert(id, name.0.unwrap_or_default());
        Id::from_u64(id)
    }

    fn record(&self, _span: &Id, _values: &Record<'_>) {}

    fn record_follows_from(&self, _span: &Id, _follows: &Id) {}

    fn event(&self, event: &Event<'_>) {
        let mut fields = Fields(String::new());
        event.record(&mut fields);
        let level = event.metadata().level();
        HOST.with_borrow(|host| self.trace.note(host, format_args!("log {level}{}", fields.0)));
    }

    fn enter(&self, span: &Id) {
        let spans = self.spans.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        let name = spans.1.get(&span.into_u64()).cloned().unwrap_or_default();
        HOST.set(name);
    }

    fn exit(&self, _span: &Id) {
        HOST.set(String::new());
    }

    fn try_close(&self, span: Id) -> bool {
        let mut spans = self.spans.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        spans.1.remove(&span.into_u64()).is_some()
    }
}
