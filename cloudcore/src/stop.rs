//! The signal to stop: one sender, any number of waiters, never missed.

use tokio::sync::watch;

/// Waits for the signal.
#[derive(Clone, Debug)]
pub struct Stop(watch::Receiver<bool>);

/// Gives the signal; dropping it gives it too.
#[derive(Debug)]
pub struct Stopper(watch::Sender<bool>);

/// Makes a pair.
#[must_use]
pub fn pair() -> (Stopper, Stop) {
    let (sender, receiver) = watch::channel(false);
    (Stopper(sender), Stop(receiver))
}

impl Stopper {
    /// Tells everybody to stop.
    pub fn stop(&self) {
        self.0.send_replace(true);
    }
}

impl Stop {
    /// Returns once the signal was given.
    pub async fn wait(&self) {
        let mut receiver = self.0.clone();
        // An error means that the sender is gone: that is the signal as well.
        let _ = receiver.wait_for(|stopped| *stopped).await;
    }
}
