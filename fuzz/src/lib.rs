//! What several targets need.

use std::sync::{
    Mutex,
    mpsc::{Receiver, SyncSender, sync_channel},
};

/// A thread with a stack much smaller than a server's: recursion without a bound ends the fuzzer long before it would end a hub.
/// One for all inputs, since starting one for each would be most of the work.
pub struct SmallStack<T>(Mutex<(SyncSender<T>, Receiver<()>)>);

impl<T: Send + 'static> SmallStack<T> {
    /// A thread with so many bytes of stack that checks inputs.
    pub fn new(bytes: usize, check: fn(T)) -> Self {
        let (inputs_tx, inputs_rx) = sync_channel::<T>(0);
        let (done_tx, done_rx) = sync_channel(0);
        std::thread::Builder::new()
            .stack_size(bytes)
            .spawn(move || {
                for input in inputs_rx {
                    check(input);
                    if done_tx.send(()).is_err() {
                        return;
                    }
                }
            })
            .expect("a thread starts");
        Self(Mutex::new((inputs_tx, done_rx)))
    }

    /// Returns when an input has been checked.
    pub fn check(&self, input: T) {
        let thread = self.0.lock().expect("one input at a time");
        thread.0.send(input).expect("the thread waits for inputs");
        thread.1.recv().expect("a panic in the thread ends the process");
    }
}
