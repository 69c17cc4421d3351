//! What shells and manuals are told, made from the flags.

use clap::CommandFactory;
use clap_complete::Shell;

use super::args::Cli;
use crate::error::{Error, Result};

/// The program's name in scripts and manuals.
const PROGRAM: &str = "onnx-bsr";

/// The script that completes commands and flags in a shell.
pub fn completions(shell: Shell) -> Vec<u8> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), PROGRAM, &mut script);
    script
}

/// The manual page of the program, or of one of its commands, as roff.
///
/// # Errors
/// [`Error::Option`] for a command that there is not.
pub fn manual(command: Option<&str>) -> Result<Vec<u8>> {
    let mut program = Cli::command();
    program.build();
    let page = match command {
        None => program,
        Some(name) => program.find_subcommand(name).cloned().ok_or_else(|| Error::Option {
            option: "man COMMAND".to_owned(),
            reason: format!("there is no command `{name}`"),
        })?,
    };
    let mut roff = Vec::new();
    let page = clap_mangen::Man::new(page).manual("onnx-bsr manual");
    page.render(&mut roff).map_err(|source| Error::Write { path: "stdout".into(), source })?;
    Ok(roff)
}
