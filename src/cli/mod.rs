//! The command line: what was typed, to what the library takes, and back to what is shown.

mod args;
mod call;
mod compress_args;
mod order;
mod progress;
mod shells;
mod sweep_args;
#[cfg(test)]
mod tests;
mod values;

use std::ffi::OsString;
use std::io::{self, IsTerminal, Write};
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};

use clap::{CommandFactory, Parser};
use serde::Serialize;

use crate::compress;
use crate::error::{Error, Result};
use crate::options::Options;
use crate::report::{self, View};

use args::{Cli, Command, Common};
use progress::Bar;

pub use call::{Flag, Given, call, flags};

/// Stages that messages are filed under besides the crate's own name.
const STAGES: [&str; 2] = ["search", "tune"];

const DONE: u8 = 0;
const FAILED: u8 = 1;
/// Finished, but a target or tolerance was missed.
const MISSED: u8 = 3;
/// What a shell expects of a program ended by Ctrl-C.
const INTERRUPTED_BY_USER: u8 = 130;

/// Set by Ctrl-C; long work polls it.
static INTERRUPTED: AtomicBool = AtomicBool::new(false);

/// Runs the program with the arguments given, the program's name first. Results go to stdout, all
/// else to stderr.
pub fn run(args: impl IntoIterator<Item = OsString>) -> ExitCode {
    let args: Vec<OsString> = args.into_iter().collect();
    let command = args.iter().map(|arg| arg.to_string_lossy().into_owned()).collect();
    let cli = match parse(args) {
        Ok(cli) => cli,
        Err(usage) => {
            // Help and version are no errors: clap sends these to stdout, with code 0.
            let _ = usage.print();
            return ExitCode::from(u8::try_from(usage.exit_code()).unwrap_or(FAILED));
        }
    };
    let common = cli.common();
    let bar = Bar::new(common.quiet);
    set_up_log(&common, &bar);
    catch_interrupts();
    let result = set_up_threads(&common).and_then(|()| dispatch(cli, command, &bar));
    bar.finish();
    match result {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            explain(&error);
            let interrupted = matches!(error, Error::Interrupted);
            ExitCode::from(if interrupted { INTERRUPTED_BY_USER } else { FAILED })
        }
    }
}

/// What was typed.
fn parse(line: impl IntoIterator<Item = OsString>) -> Result<Cli, clap::Error> {
    let program = Cli::command();
    let line = order::command_first(line, |word| program.find_subcommand(word).is_some());
    Cli::try_parse_from(line)
}

/// Runs the command and prints its report.
fn dispatch(cli: Cli, command: Vec<String>, bar: &Bar) -> Result<u8> {
    let common = cli.common();
    match cli.command {
        None => {
            let request = compress::Request { command, ..cli.compress.into_request(&common) };
            let report = compress::compress(&request, bar)?;
            show(&report, &common, bar)?;
            Ok(if report.missed.is_empty() { DONE } else { MISSED })
        }
        Some(Command::Inspect(args)) => {
            let data = args.data.source();
            let options = args.layers.options();
            let mut report =
                compress::inspect(&args.model, &args.shapes.shape, data.as_ref(), &options)?;
            report.select(&args.only, args.sort)?;
            show(&report, &common, bar)?;
            Ok(DONE)
        }
        Some(Command::Eval(args)) => {
            show(&args.evaluate(bar)?, &common, bar)?;
            Ok(DONE)
        }
        Some(Command::Check(args)) => {
            let data = args.data.source();
            let request = compress::Check {
                a: &args.a,
                b: &args.b,
                data: data.as_ref(),
                shapes: &args.shapes.shape,
                seed: args.seed,
                tolerance: args.tolerance,
            };
            let report = compress::check(&request, bar)?;
            show(&report, &common, bar)?;
            Ok(if report.equal { DONE } else { MISSED })
        }
        Some(Command::Apply(args)) => {
            let report = compress::apply(&args.input, &args.plan, &args.output, args.force)?;
            show(&report, &common, bar)?;
            Ok(DONE)
        }
        Some(Command::Sweep(args)) => {
            let report = compress::sweep(&args.into_request(&common, command), bar)?;
            show(&report, &common, bar)?;
            Ok(if report.missed() { MISSED } else { DONE })
        }
        Some(Command::Bench(args)) => {
            let (a, shapes) = (&args.a, &args.shapes.shape);
            if let Some(table) = &args.table {
                let options = Options { threads: common.threads, ..args.layers.options() };
                show(&compress::bench_table(a, table, shapes, &options, bar)?, &common, bar)?;
            } else {
                let b = args.b.as_deref().unwrap_or(a);
                show(&compress::bench(a, b, shapes, args.runs, bar)?, &common, bar)?;
            }
            Ok(DONE)
        }
        Some(Command::Completions { shell }) => {
            print(&shells::completions(shell))?;
            Ok(DONE)
        }
        Some(Command::Man { command }) => {
            print(&shells::manual(command.as_deref())?)?;
            Ok(DONE)
        }
    }
}

/// Prints a report on stdout.
fn show<R: View + Serialize>(report: &R, common: &Common, bar: &Bar) -> Result<()> {
    bar.finish();
    let text = if common.json {
        report::json(report)
    } else {
        report.text(io::stdout().is_terminal() && wants_colour())
    };
    print(text.as_bytes())
}

/// Writes to stdout.
fn print(bytes: &[u8]) -> Result<()> {
    let mut stdout = io::stdout();
    match stdout.write_all(bytes).and_then(|()| stdout.flush()) {
        // Whoever reads has seen enough.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        other => other.map_err(|source| Error::Write { path: "stdout".into(), source }),
    }
}

/// The error, its causes and the next step, on stderr.
fn explain(error: &Error) {
    let mut text = format!("error: {error}\n");
    let mut cause = std::error::Error::source(error);
    while let Some(inner) = cause {
        text.push_str(&format!("  caused by: {inner}\n"));
        cause = inner.source();
    }
    if let Some(hint) = error.hint() {
        text.push_str(&format!("hint: {hint}\n"));
    }
    let _ = io::stderr().write_all(text.as_bytes());
}

/// Whether `NO_COLOR` and the terminal allow colours.
fn wants_colour() -> bool {
    std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
        && std::env::var_os("TERM").is_none_or(|value| value != "dumb")
}

/// Our own messages by `-v`; tract's only when much is asked for. `RUST_LOG` overrides both.
fn set_up_log(common: &Common, bar: &Bar) {
    let (own, others) = match (common.quiet, common.verbose) {
        (true, _) => (log::LevelFilter::Error, log::LevelFilter::Off),
        (_, 0) => (log::LevelFilter::Warn, log::LevelFilter::Off),
        (_, 1) => (log::LevelFilter::Info, log::LevelFilter::Off),
        (_, 2) => (log::LevelFilter::Debug, log::LevelFilter::Warn),
        _ => (log::LevelFilter::Trace, log::LevelFilter::Debug),
    };
    // A second logger, as in a program that calls this as a library, is no reason to stop.
    let mut builder = env_logger::Builder::new();
    builder.filter_level(others).filter_module("onnx_bsr", own);
    for stage in STAGES {
        builder.filter_module(stage, own);
    }
    let _ = builder
        .parse_default_env()
        .format(|out, record| {
            let level = match record.level() {
                log::Level::Error => "error",
                log::Level::Warn => "warning",
                log::Level::Info => "info",
                log::Level::Debug => "debug",
                log::Level::Trace => "trace",
            };
            writeln!(out, "{level}: {}", record.args())
        })
        .target(env_logger::Target::Pipe(Box::new(bar.writer())))
        .try_init();
}

fn set_up_threads(common: &Common) -> Result<()> {
    let Some(threads) = common.threads else { return Ok(()) };
    rayon::ThreadPoolBuilder::new().num_threads(threads).build_global().map_err(|error| {
        Error::Option { option: "--threads".to_owned(), reason: error.to_string() }
    })
}

/// The first Ctrl-C asks the work to stop, the second stops the program.
fn catch_interrupts() {
    let handler = || {
        if INTERRUPTED.swap(true, Ordering::SeqCst) {
            std::process::exit(INTERRUPTED_BY_USER.into());
        }
        let _ = io::stderr().write_all(b"\nstopping; Ctrl-C again stops at once\n");
    };
    if let Err(error) = ctrlc::set_handler(handler) {
        log::debug!("Ctrl-C can't be caught: {error}");
    }
}
