//! The flags of a sweep.

use std::path::PathBuf;

use clap::Args;

use super::args::Common;
use super::compress_args::JobArgs;
use super::values;
use crate::compress::{Request, SweepRequest};

#[derive(Args, Debug)]
#[command(
    mut_arg("max_drop", |arg| arg.help(
        "Points of the metric that may be lost: the largest ratio within is marked; exit with code 3 if \
         there is none"
    ))
)]
pub struct SweepArgs {
    /// The model
    #[arg(value_name = "IN")]
    input: PathBuf,
    /// Where the smaller models, their plans, front.json and report.html go; what an earlier run has
    /// completed there is not computed again
    #[arg(value_name = "OUT_DIR")]
    folder: PathBuf,
    /// How many times smaller: 1.5,2,4
    #[arg(long, value_name = "R,..", required = true, value_delimiter = ',',
          value_parser = values::ratio, allow_negative_numbers = true)]
    ratios: Vec<f64>,
    #[command(flatten)]
    job: JobArgs,
}

impl SweepArgs {
    pub fn into_request(self, common: &Common, command: Vec<String>) -> SweepRequest {
        let base = self.job.into_request(common);
        let base = Request { input: self.input, command, ..base };
        SweepRequest { folder: self.folder, ratios: self.ratios, base }
    }
}
