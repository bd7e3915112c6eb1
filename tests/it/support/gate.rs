//! `Gate`: a hook of a `HookFs` that stops calls until the test releases them.

use std::io;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use seawall_testkit::hooks::{Asked, Call, Verdict};

/// Stops the calls of one kind on files of one name until the test releases them.
#[derive(Debug)]
pub(crate) struct Gate {
    arrivals: Receiver<()>,
    state: Arc<Mutex<GateState>>,
}

#[derive(Debug)]
struct GateState {
    closed: Option<(Call, String)>,
    arrived: Sender<()>,
    waiting: Vec<Sender<Verdict>>,
}

impl Gate {
    /// Makes an open gate, and the hook that stops at it.
    pub(crate) fn new() -> (Gate, impl Fn(&Asked<'_>) -> Verdict + Send + Sync + 'static) {
        let (arrived, arrivals) = channel();
        let state = GateState { closed: None, arrived, waiting: Vec::new() };
        let state = Arc::new(Mutex::new(state));
        let gate = Gate { arrivals, state: state.clone() };
        let hook = move |asked: &Asked<'_>| {
            let mut state = state.lock().unwrap_or_else(PoisonError::into_inner);
            if state.closed != Some((asked.call, asked.name())) {
                return Verdict::Go;
            }
            let (go_on, verdict) = channel();
            state.waiting.push(go_on);
            let arrived = state.arrived.clone();
            drop(state);
            // An error means that the test is over.
            let _ = arrived.send(());
            // If the test has failed, this call continues after a while, so that the test ends
            // before its watchdog.
            verdict.recv_timeout(Duration::from_secs(20)).unwrap_or(Verdict::Go)
        };
        (gate, hook)
    }

    /// Stops such calls from now on.
    pub(crate) fn close(&self, call: Call, name: &str) {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).closed =
            Some((call, name.to_owned()));
    }

    /// Waits until a call has stopped here.
    pub(crate) fn wait_for_arrival(&self) {
        self.arrivals.recv_timeout(Duration::from_secs(60)).expect("a call reaches the gate");
    }

    /// Lets the stopped calls and all later calls continue.
    pub(crate) fn open(&self) {
        self.end(|| Verdict::Go);
    }

    /// Lets the stopped calls continue. Later calls stop again.
    pub(crate) fn let_pass(&self) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        for waiting in state.waiting.drain(..) {
            let _ = waiting.send(Verdict::Go);
        }
    }

    /// Lets the stopped calls fail, and all later calls continue.
    pub(crate) fn fail(&self, kind: io::ErrorKind) {
        self.end(|| Verdict::Fail(kind.into()));
    }

    fn end(&self, verdict: impl Fn() -> Verdict) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.closed = None;
        for waiting in state.waiting.drain(..) {
            let _ = waiting.send(verdict());
        }
    }
}

impl Drop for Gate {
    fn drop(&mut self) {
        self.open();
    }
}
