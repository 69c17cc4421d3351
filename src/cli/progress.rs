//! Progress on stderr: a bar where that is a terminal, else only what must be known.

use std::io::{self, Write};
use std::sync::atomic::Ordering;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::INTERRUPTED;
use crate::progress::Progress;

/// The program's one bar.
pub struct Bar {
    bar: ProgressBar,
    quiet: bool,
}

impl Bar {
    /// A bar that shows nothing until a stage begins, and never when `quiet`.
    pub fn new(quiet: bool) -> Self {
        // indicatif draws nothing where stderr is no terminal.
        let target =
            if quiet { ProgressDrawTarget::hidden() } else { ProgressDrawTarget::stderr() };
        let bar = ProgressBar::with_draw_target(None, target).with_style(style(""));
        Self { bar, quiet }
    }

    /// Removes the bar from the terminal.
    pub fn finish(&self) {
        self.bar.finish_and_clear();
    }

    /// Writes to stderr without tearing the bar.
    pub fn writer(&self) -> impl Write + Send + 'static {
        Beside(self.bar.clone())
    }
}

/// Templates hold no user text, so they always parse.
fn style(template: &str) -> ProgressStyle {
    ProgressStyle::with_template(template)
        .unwrap_or_else(|_| ProgressStyle::default_bar())
        .progress_chars("=> ")
}

impl Progress for Bar {
    fn phase(&self, name: &str, total: Option<u64>) {
        log::info!("{name}");
        match total {
            Some(total) => {
                self.bar.set_style(style(
                    "{prefix:>10} [{bar:30}] {pos}/{len} {elapsed} (ETA {eta}) {wide_msg}",
                ));
                self.bar.set_length(total);
            }
            None => self.bar.set_style(style("{prefix:>10} {spinner} {pos} {elapsed} {wide_msg}")),
        }
        self.bar.reset();
        self.bar.set_prefix(name.to_owned());
        self.bar.set_message("");
        self.bar.enable_steady_tick(Duration::from_millis(200));
    }

    fn step(&self, done: u64, note: &str) {
        self.bar.set_position(done);
        if !note.is_empty() {
            self.bar.set_message(note.to_owned());
        }
    }

    fn warn(&self, text: &str) {
        if !self.quiet {
            self.bar.suspend(|| {
                let _ = writeln!(io::stderr(), "warning: {text}");
            });
        }
    }

    fn interrupted(&self) -> bool {
        INTERRUPTED.load(Ordering::Relaxed)
    }
}

struct Beside(ProgressBar);

impl Write for Beside {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.suspend(|| io::stderr().write(bytes))
    }

    fn flush(&mut self) -> io::Result<()> {
        io::stderr().flush()
    }
}
