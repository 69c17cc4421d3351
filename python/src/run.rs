//! Runs a command line on a thread of its own, while the caller's thread waits without holding the
//! interpreter, hears signals, and calls back into Python.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use onnx_bsr::cli::{Given, call};
use onnx_bsr::compress::FileMetric;
use onnx_bsr::error::{Error, Result};
use onnx_bsr::progress::Progress;
use pyo3::exceptions::PyRuntimeError;
use pyo3::prelude::*;

use crate::errors::raise;
use crate::samples::Samples;

/// How often signals are heard.
const PAUSE: Duration = Duration::from_millis(50);

/// Time between steps that are told.
const BETWEEN_STEPS: Duration = Duration::from_millis(100);

/// As much as a main thread has.
const STACK: usize = 8 << 20;

/// What the working thread has to say.
enum Event {
    Step {
        stage: String,
        done: u64,
        total: Option<u64>,
        note: String,
    },
    Warning(String),
    /// Asks for the metric of a file; no answer means to stop.
    Metric {
        path: PathBuf,
        answer: Sender<f64>,
    },
}

/// Runs a command line and gives its report as JSON. `progress` is called with stage, steps done, their
/// number or None, and a note; `warn` with a text; `metric` with a path.
#[pyfunction]
#[pyo3(signature = (line, data=None, test=None, train=None, progress=None, warn=None, metric=None))]
pub fn run(
    py: Python<'_>,
    line: Vec<OsString>,
    data: Option<&Bound<'_, Samples>>,
    test: Option<&Bound<'_, Samples>>,
    train: Option<&Bound<'_, Samples>>,
    progress: Option<Py<PyAny>>,
    warn: Option<Py<PyAny>>,
    metric: Option<(String, Py<PyAny>)>,
) -> PyResult<String> {
    let (sender, mut events) = mpsc::channel();
    let arrays = |samples: Option<&Bound<'_, Samples>>| {
        samples.map(|samples| samples.get().arrays()).transpose()
    };
    let callback = metric.as_ref().map(|(name, _)| -> Arc<dyn FileMetric> {
        Arc::new(Callback { name: name.clone(), sender: sender.clone() })
    });
    let given =
        Given { data: arrays(data)?, test: arrays(test)?, train: arrays(train)?, metric: callback };
    let stop = Arc::new(AtomicBool::new(false));
    let told = Mutex::new(Told { stage: String::new(), total: None, at: None });
    let link = Link { sender, stop: Arc::clone(&stop), told, listened: progress.is_some() };
    // The thread owns every sender, so that the channel closes when it ends.
    let worker = thread::Builder::new()
        .name("onnx-bsr".to_owned())
        .stack_size(STACK)
        .spawn(move || call(line, &given, &link))?;
    let callbacks = Callbacks { progress, warn, metric: metric.map(|(_, metric)| metric) };
    let mut raised = None;
    loop {
        let received;
        (received, events) = py.detach(move || wait(events));
        let heard = match received {
            Ok(event) if raised.is_none() => callbacks.tell(py, event),
            Ok(_) | Err(RecvTimeoutError::Timeout) => Ok(()),
            Err(RecvTimeoutError::Disconnected) => break,
        };
        if raised.is_none()
            && let Err(error) = heard.and_then(|()| py.check_signals())
        {
            raised = Some(error);
            stop.store(true, Ordering::SeqCst);
        }
    }
    let ended = py.detach(|| worker.join());
    if let Some(error) = raised {
        return Err(error);
    }
    match ended {
        Ok(report) => report.map_err(|error| raise(py, &error)),
        Err(_) => Err(PyRuntimeError::new_err("the run ended in a panic, a fault of onnx-bsr")),
    }
}

fn wait(events: Receiver<Event>) -> (Result<Event, RecvTimeoutError>, Receiver<Event>) {
    (events.recv_timeout(PAUSE), events)
}

struct Callbacks {
    progress: Option<Py<PyAny>>,
    warn: Option<Py<PyAny>>,
    metric: Option<Py<PyAny>>,
}

impl Callbacks {
    fn tell(&self, py: Python<'_>, event: Event) -> PyResult<()> {
        match event {
            Event::Step { stage, done, total, note } => {
                if let Some(progress) = &self.progress {
                    progress.call1(py, (stage, done, total, note))?;
                }
            }
            Event::Warning(text) => {
                if let Some(warn) = &self.warn {
                    warn.call1(py, (text,))?;
                }
            }
            Event::Metric { path, answer } => {
                if let Some(metric) = &self.metric {
                    let value: f64 = metric.call1(py, (path,))?.extract(py)?;
                    // A worker that is gone needs no answer.
                    let _ = answer.send(value);
                }
            }
        }
        Ok(())
    }
}

/// The working thread's end.
struct Link {
    sender: Sender<Event>,
    stop: Arc<AtomicBool>,
    told: Mutex<Told>,
    listened: bool,
}

struct Told {
    stage: String,
    total: Option<u64>,
    at: Option<Instant>,
}

impl Progress for Link {
    fn phase(&self, name: &str, total: Option<u64>) {
        if !self.listened {
            return;
        }
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        *told = Told { stage: name.to_owned(), total, at: Some(Instant::now()) };
        let stage = name.to_owned();
        let _ = self.sender.send(Event::Step { stage, done: 0, total, note: String::new() });
    }

    fn step(&self, done: u64, note: &str) {
        if !self.listened {
            return;
        }
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        let last = told.total == Some(done);
        if !last && told.at.is_some_and(|at| at.elapsed() < BETWEEN_STEPS) {
            return;
        }
        told.at = Some(Instant::now());
        let (stage, total) = (told.stage.clone(), told.total);
        let _ = self.sender.send(Event::Step { stage, done, total, note: note.to_owned() });
    }

    fn warn(&self, text: &str) {
        let _ = self.sender.send(Event::Warning(text.to_owned()));
    }

    fn interrupted(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }
}

/// A Python function as the metric of files.
#[derive(Debug)]
struct Callback {
    name: String,
    sender: Sender<Event>,
}

impl FileMetric for Callback {
    fn name(&self) -> &str {
        &self.name
    }

    fn value(&self, path: &Path, _: &dyn Progress) -> Result<f64> {
        let (answer, answered) = mpsc::channel();
        let asked = self.sender.send(Event::Metric { path: path.to_owned(), answer });
        let value = asked.ok().and_then(|()| answered.recv().ok()).ok_or(Error::Interrupted)?;
        if value.is_finite() {
            return Ok(value);
        }
        Err(Error::Metric {
            metric: self.name.clone(),
            reason: format!("returned {value}, not a finite number"),
        })
    }
}
