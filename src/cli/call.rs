//! A command line as a call: what other languages' bindings stand on, so that their options are the
//! program's own.

use std::ffi::OsString;
use std::sync::Arc;

use clap::error::{ContextKind, ContextValue};
use clap::{ArgAction, CommandFactory};
use serde::Serialize;

use super::args::{Cli, Command, EvalArgs};
use super::values::Metric;
use crate::compress::{self, DataSource, FileMetric, Request, Runtime};
use crate::dataset::Arrays;
use crate::error::{Error, Result};
use crate::options::Options;
use crate::progress::Progress;
use crate::report::{self, EvalReport};

/// What a command line can't hold. Data in memory take the place of what `--data`, `--test` or `--train`
/// name, which then is what reports call them.
#[derive(Clone, Debug, Default)]
pub struct Given {
    /// Instead of `--data`.
    pub data: Option<Arrays>,
    /// Instead of `--test`.
    pub test: Option<Arrays>,
    /// Instead of `--train`.
    pub train: Option<Arrays>,
    /// Instead of `--metric cmd:PROGRAM`.
    pub metric: Option<Arc<dyn FileMetric>>,
}

/// A flag of a command.
#[derive(Clone, Debug, PartialEq)]
pub struct Flag {
    /// Its name, without the hyphens before it.
    pub name: String,
    /// What it does, for a person to read.
    pub help: String,
    /// Whether it takes no value.
    pub is_switch: bool,
    /// Whether it may be given several times.
    pub repeats: bool,
}

/// Runs a command line, the program's name first: the main job, `inspect`, `eval`, `check`, `apply`,
/// `sweep` or `bench`. The report is what `--json` prints; a missed target is no error.
///
/// # Errors
/// [`Error::Option`] for a line that the program would refuse, and all that the command may meet.
pub fn call(
    line: impl IntoIterator<Item = OsString>,
    given: &Given,
    progress: &dyn Progress,
) -> Result<String> {
    let line: Vec<OsString> = line.into_iter().collect();
    let command: Vec<String> =
        line.iter().map(|word| word.to_string_lossy().into_owned()).collect();
    let cli = super::parse(line).map_err(|usage| refused(&usage))?;
    match cli.common().threads {
        None => carry_out(cli, command, given, progress),
        Some(threads) => {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build();
            let pool = pool.map_err(|error| Error::Option {
                option: "--threads".to_owned(),
                reason: error.to_string(),
            })?;
            pool.install(|| carry_out(cli, command, given, progress))
        }
    }
}

fn carry_out(
    cli: Cli,
    command: Vec<String>,
    given: &Given,
    progress: &dyn Progress,
) -> Result<String> {
    fn json(report: Result<impl Serialize>) -> Result<String> {
        report.map(|report| report::json(&report))
    }
    let common = cli.common();
    match cli.command {
        None => {
            let request = Request { command, ..cli.compress.into_request(&common) };
            let request = with_given(request, given);
            json(compress::compress(&request, progress))
        }
        Some(Command::Inspect(args)) => {
            let data = held(args.data.source(), &given.data);
            let options = args.layers.options();
            let shapes = &args.shapes.shape;
            let mut report = compress::inspect(&args.model, shapes, data.as_ref(), &options)?;
            report.select(&args.only, args.sort)?;
            json(Ok(report))
        }
        Some(Command::Eval(args)) => json(args.with(given, progress)),
        Some(Command::Check(args)) => {
            let data = held(args.data.source(), &given.data);
            let request = compress::Check {
                a: &args.a,
                b: &args.b,
                data: data.as_ref(),
                shapes: &args.shapes.shape,
                seed: args.seed,
                tolerance: args.tolerance,
            };
            json(compress::check(&request, progress))
        }
        Some(Command::Apply(args)) => {
            json(compress::apply(&args.input, &args.plan, &args.output, args.force))
        }
        Some(Command::Bench(args)) => {
            let (a, shapes) = (&args.a, &args.shapes.shape);
            match (&args.table, &args.b) {
                (Some(table), _) => {
                    let options = Options { threads: common.threads, ..args.layers.options() };
                    json(compress::bench_table(a, table, shapes, &options, progress))
                }
                (None, b) => {
                    let b = b.as_deref().unwrap_or(a);
                    json(compress::bench(a, b, shapes, args.runs, progress))
                }
            }
        }
        Some(Command::Sweep(args)) => {
            let request = args.into_request(&common, command);
            let base = with_given(request.base, given);
            json(compress::sweep(&compress::SweepRequest { base, ..request }, progress))
        }
        Some(Command::Completions { .. } | Command::Man { .. }) => Err(Error::Option {
            option: "command".to_owned(),
            reason: "it has no report".to_owned(),
        }),
    }
}

fn with_given(request: Request, given: &Given) -> Request {
    Request {
        data: held(request.data, &given.data),
        test: held(request.test, &given.test),
        train: held(request.train, &given.train),
        file_metric: given.metric.clone().or(request.file_metric),
        ..request
    }
}

fn held(source: Option<DataSource>, arrays: &Option<Arrays>) -> Option<DataSource> {
    let arrays = arrays.clone();
    source.map(|source| DataSource { arrays: arrays.or(source.arrays.clone()), ..source })
}

impl EvalArgs {
    /// The metric that is asked for.
    ///
    /// # Errors
    /// As [`compress::eval`] and [`compress::eval_file`].
    pub fn evaluate(self, progress: &dyn Progress) -> Result<EvalReport> {
        self.with(&Given::default(), progress)
    }

    fn with(self, given: &Given, progress: &dyn Progress) -> Result<EvalReport> {
        let metric = match (&given.metric, &self.metric) {
            (Some(metric), _) => return compress::eval_file(&self.model, &**metric, progress),
            (None, Some(Metric::File(program))) => {
                return compress::eval_file(&self.model, program, progress);
            }
            (None, Some(Metric::Samples(kind))) => Some(*kind),
            (None, None) => None,
        };
        let data = held(self.data.source(), &given.data);
        let Some(data) = data else {
            return Err(Error::Option {
                option: "--data".to_owned(),
                reason: "samples are needed for this metric".to_owned(),
            });
        };
        let request = compress::Eval {
            model: &self.model,
            data: &data,
            reference: self.reference.as_deref(),
            metric,
            runtime: Runtime::clone(&self.runtime),
        };
        compress::eval(&request, progress)
    }
}

/// The flags of a command, or of the main job; none for a command that there is not.
#[must_use]
pub fn flags(command: Option<&str>) -> Vec<Flag> {
    let program = Cli::command();
    let command = match command {
        None => Some(&program),
        Some(name) => program.find_subcommand(name),
    };
    let own = command.into_iter().flat_map(|c| c.get_arguments());
    let global = program.get_arguments().filter(|arg| arg.is_global_set());
    let mut found: Vec<Flag> = Vec::new();
    for arg in own.chain(global) {
        let Some(name) = arg.get_long() else { continue };
        if found.iter().any(|flag| flag.name == name) {
            continue;
        }
        found.push(Flag {
            name: name.to_owned(),
            help: arg.get_help().map(ToString::to_string).unwrap_or_default(),
            is_switch: !arg.get_action().takes_values(),
            repeats: matches!(arg.get_action(), ArgAction::Append)
                && arg.get_value_delimiter().is_none(),
        });
    }
    found
}

/// What clap refuses, as the library says it.
fn refused(usage: &clap::Error) -> Error {
    let option = match usage.get(ContextKind::InvalidArg) {
        Some(ContextValue::String(arg)) => arg.as_str(),
        Some(ContextValue::Strings(args)) => args.first().map_or("", String::as_str),
        _ => "",
    };
    let option = option.split([' ', '=', '[']).next().unwrap_or_default().to_owned();
    let text = usage.to_string();
    let text = text.split("\n\n").next().unwrap_or_default();
    let text = text.strip_prefix("error: ").unwrap_or(text).trim();
    let reason =
        std::error::Error::source(usage).map_or_else(|| text.to_owned(), |e| e.to_string());
    Error::Option { option, reason }
}
