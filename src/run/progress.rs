//! Progress of long work: a bar on a terminal, a plain line every few seconds elsewhere; always on stderr.

use std::io::IsTerminal;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

/// Seconds between two plain lines where stderr is no terminal.
const PLAIN_INTERVAL: Duration = Duration::from_secs(15);

/// Shows how far one piece of work has come.
pub struct Progress {
    label: String,
    total: u64,
    done: u64,
    first: u64,
    started: Instant,
    last_line: Instant,
    bar: Option<ProgressBar>,
}

impl Progress {
    /// Starts at `done` of `total`; `done` is above zero where work resumes.
    pub fn new(label: impl Into<String>, done: u64, total: u64) -> Self {
        let label = label.into();
        let bar = std::io::stderr().is_terminal().then(|| {
            let bar = ProgressBar::with_draw_target(Some(total), ProgressDrawTarget::stderr_with_hz(4));
            let style = ProgressStyle::with_template("{prefix:>22} [{bar:32}] {pos}/{len} {elapsed} (left {eta}) {msg}");
            bar.set_style(style.expect("the template is a constant that parses").progress_chars("=> "));
            bar.set_prefix(label.clone());
            bar.set_position(done);
            bar
        });
        let now = Instant::now();
        Self { label, total, done, first: done, started: now, last_line: now, bar }
    }

    /// Moves to `done`, with a short message such as the current loss.
    pub fn set(&mut self, done: u64, message: &str) {
        self.done = done;
        match &self.bar {
            Some(bar) => {
                bar.set_message(message.to_owned());
                bar.set_position(done);
            }
            None if self.last_line.elapsed() >= PLAIN_INTERVAL => self.print_line(message),
            None => {}
        }
    }

    /// Ends the work and leaves one line with its duration.
    pub fn finish(mut self, message: &str) {
        match self.bar.take() {
            Some(bar) => bar.finish_with_message(message.to_owned()),
            None => self.print_line(message),
        }
    }

    fn print_line(&mut self, message: &str) {
        self.last_line = Instant::now();
        let elapsed = self.started.elapsed().as_secs_f64();
        let rate = (self.done - self.first.min(self.done)) as f64 / elapsed.max(1e-9);
        eprintln!("{}: {}/{} after {elapsed:.0} s ({rate:.2}/s) {message}", self.label, self.done, self.total);
    }
}
