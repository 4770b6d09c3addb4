//! How far the start is, a line per step.

use tokio::time::Instant;

use crate::terminal;

/// The lines that show how far the start is.
pub struct Progress {
    show: bool,
    number: usize,
    of: usize,
}

impl Progress {
    /// Shows `of` steps, or nothing.
    #[must_use]
    pub fn new(show: bool, of: usize) -> Self {
        Self { show, number: 0, of }
    }

    /// Runs a step between the two halves of its line.
    pub async fn step(
        &mut self,
        name: &str,
        act: impl Future<Output = anyhow::Result<()>>,
    ) -> anyhow::Result<()> {
        self.number += 1;
        if self.show {
            terminal::raw(&format!("[{:2}/{}] {:.<24} ", self.number, self.of, format!("{name} ")));
        }
        let begin = Instant::now();
        let result = act.await;
        if self.show {
            let seconds = begin.elapsed().as_secs_f64();
            terminal::line(match &result {
                Ok(()) => format!("ready in {seconds:.1} s"),
                Err(_) => format!("FAILED after {seconds:.1} s"),
            });
        }
        result
    }
}
