//! Metrics of the user's own, taken of a model file.

use std::fmt::Debug;
use std::io::Read;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::str::FromStr;
use std::thread;
use std::time::Duration;

use crate::error::{Error, Result};
use crate::progress::Progress;

/// Bytes of a program's output that are read; the number is at their end.
const MOST_OUTPUT: u64 = 1 << 20;

/// How often a running program is looked at.
const PAUSE: Duration = Duration::from_millis(20);

/// A metric that the user takes of a model file. It is reported and bounds what may be lost; no search
/// uses it.
pub trait FileMetric: Debug + Send + Sync {
    /// What reports call it.
    fn name(&self) -> &str;

    /// The metric of the model at `path`; higher is better.
    ///
    /// # Errors
    /// [`Error::Metric`] when there is no finite number, and [`Error::Interrupted`].
    fn value(&self, path: &Path, progress: &dyn Progress) -> Result<f64>;
}

/// A program that is given the path of a model after its own arguments, and prints a number.
#[derive(Clone, Debug, PartialEq)]
pub struct ProgramMetric {
    line: String,
    program: String,
    arguments: Vec<String>,
}

/// A program and its arguments; quotes and backslashes hold words together as in a shell, of which
/// nothing else is done.
impl FromStr for ProgramMetric {
    type Err = String;

    fn from_str(line: &str) -> Result<Self, String> {
        let words = shlex::split(line).ok_or_else(|| format!("`{line}` has an open quote"))?;
        let mut words = words.into_iter();
        let program = words.next().filter(|word| !word.is_empty());
        Ok(Self {
            line: line.trim().to_owned(),
            program: program.ok_or("no program is named, as in `cmd:./judge.py --fast`")?,
            arguments: words.collect(),
        })
    }
}

impl ProgramMetric {
    fn fault(&self, reason: String) -> Error {
        Error::Metric { metric: self.line.clone(), reason }
    }
}

impl FileMetric for ProgramMetric {
    fn name(&self) -> &str {
        &self.line
    }

    fn value(&self, path: &Path, progress: &dyn Progress) -> Result<f64> {
        progress.phase("metric", None);
        progress.step(0, &self.line);
        let mut command = Command::new(&self.program);
        command.args(&self.arguments).arg(path).stdin(Stdio::null()).stdout(Stdio::piped());
        let mut child = command
            .spawn()
            .map_err(|e| self.fault(format!("`{}` can't be started: {e}", self.program)))?;
        let output = child.stdout.take();
        let reader = thread::spawn(move || {
            let mut bytes = Vec::new();
            let read = output.map(|pipe| pipe.take(MOST_OUTPUT).read_to_end(&mut bytes));
            read.transpose().map(|_| String::from_utf8_lossy(&bytes).into_owned())
        });
        let status = loop {
            if progress.interrupted() {
                end(&mut child);
                return Err(Error::Interrupted);
            }
            match child.try_wait() {
                Ok(Some(status)) => break status,
                Ok(None) => thread::sleep(PAUSE),
                Err(error) => {
                    end(&mut child);
                    return Err(self.fault(error.to_string()));
                }
            }
        };
        if !status.success() {
            return Err(self.fault(format!("ended with {status}")));
        }
        match reader.join() {
            Ok(Ok(text)) => number(&text).map_err(|reason| self.fault(reason)),
            Ok(Err(error)) => Err(self.fault(error.to_string())),
            Err(_) => Err(self.fault("its output could not be read".to_owned())),
        }
    }
}

/// Stops a program and waits until it is gone.
fn end(child: &mut Child) {
    let _ = child.kill();
    let _ = child.wait();
}

/// The number on the last line that is not blank; libraries write what they like before it.
fn number(text: &str) -> Result<f64, String> {
    let line = text.lines().rev().map(str::trim).find(|line| !line.is_empty());
    let line = line.ok_or("printed nothing, where a number was expected")?;
    line.parse().ok().filter(|value: &f64| value.is_finite()).ok_or_else(|| {
        let shown: String = line.chars().take(80).collect();
        format!("printed `{shown}` last, not a number")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn programs_have_words() {
        let metric: ProgramMetric = "'my judge' --fast \"a b\"".parse().expect("a program");
        assert_eq!((metric.program.as_str(), metric.arguments.len()), ("my judge", 2));
        assert!("".parse::<ProgramMetric>().is_err() && "a 'b".parse::<ProgramMetric>().is_err());
    }

    #[test]
    fn the_last_line_counts() {
        assert_eq!(number("loading 3 files\n 91.5 \n\n"), Ok(91.5));
        assert_eq!(number("-1e-3"), Ok(-1e-3));
        for bad in ["", "\n", "92 %", "NaN", "inf", "1\ndone"] {
            assert!(number(bad).is_err(), "{bad:?}");
        }
    }
}
