//! What several tests share.

pub(crate) mod machine;

use std::sync::mpsc;
use std::thread;
use std::time::Duration;

/// Runs `test`, and fails if it takes longer than `seconds`: a test that waits for ever is a
/// failure, not a hang.
pub(crate) fn watchdog(seconds: u64, test: impl FnOnce() + Send + 'static) {
    let (sender, receiver) = mpsc::channel();
    let thread = thread::spawn(move || {
        test();
        // The watchdog may have given up.
        let _ = sender.send(());
    });
    match receiver.recv_timeout(Duration::from_secs(seconds)) {
        Err(mpsc::RecvTimeoutError::Timeout) => panic!("the test took more than {seconds} s"),
        Ok(()) | Err(mpsc::RecvTimeoutError::Disconnected) => {
            if let Err(panic) = thread.join() {
                std::panic::resume_unwind(panic);
            }
        }
    }
}
