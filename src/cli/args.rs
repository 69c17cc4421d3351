//! The flags, and what they say to the library; those of the main job are in `compress_args`.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

use super::compress_args::CompressArgs;
use super::sweep_args::SweepArgs;
use super::values::{self, Schemes};
use crate::compress::{DataSource, Runtime};
use crate::dataset::{ChannelOrder, Layout, Preprocess, Resize};
use crate::options::{Options, RankMultiple};
use crate::report::Order;

/// Makes trained ONNX models small and fast: low-rank factors whose ranks are chosen jointly on
/// real data.
#[derive(Debug, Parser)]
#[command(
    name = "onnx-bsr",
    version,
    args_conflicts_with_subcommands = true,
    subcommand_negates_reqs = true,
    after_help = "Exit codes: 0 done, 1 error, 2 usage, 3 finished but a target or tolerance was \
                  missed.\nA model whose file is named like a command is given as ./NAME."
)]
pub struct Cli {
    #[command(subcommand)]
    pub command: Option<Command>,
    #[command(flatten)]
    common: Common,
    #[command(flatten)]
    pub compress: CompressArgs,
}

impl Cli {
    pub fn common(&self) -> Common {
        self.common.clone()
    }
}

/// Flags of every command.
#[derive(Args, Clone, Debug)]
pub struct Common {
    /// Print the report as JSON
    #[arg(long, global = true)]
    pub json: bool,
    /// Print nothing on stderr but errors
    #[arg(long, short, global = true, conflicts_with = "verbose")]
    pub quiet: bool,
    /// Say more on stderr; twice for even more
    #[arg(long, short, global = true, action = clap::ArgAction::Count)]
    pub verbose: u8,
    /// Threads; the result doesn't depend on it [default: one per core]
    #[arg(long, global = true, value_name = "N", value_parser = values::at_least_one)]
    pub threads: Option<usize>,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// List every weight: shape, params, MACs, rank bound, or why it is skipped
    Inspect(InspectArgs),
    /// The metric of a model on data, or by a program
    #[command(mut_arg("data", |arg| arg.required_unless_present("metric")))]
    Eval(EvalArgs),
    /// Outputs of two models side by side, in tract
    Check(CheckArgs),
    /// Replay a saved plan: no data, same bytes
    Apply(ApplyArgs),
    /// Several ratios at once: files, plans, the front of metric and size
    Sweep(Box<SweepArgs>),
    /// Latency of two models for one sample in tract, in turns
    Bench(BenchArgs),
    /// A script that completes commands and flags, for bash, zsh, fish, elvish or powershell
    Completions {
        /// The shell
        #[arg(value_name = "SHELL")]
        shell: clap_complete::Shell,
    },
    /// The manual page of the program, or of one of its commands
    Man {
        /// The command
        #[arg(value_name = "COMMAND")]
        command: Option<String>,
    },
}

/// Where samples are and how they are prepared.
#[derive(Args, Debug)]
#[command(next_help_heading = "Data")]
pub struct DataArgs {
    /// Samples: npz, npy, IDX, image folders, ONNX test sets
    #[arg(long, value_name = "DATA")]
    data: Option<PathBuf>,
    /// Labels of --data, where they are not part of it
    #[arg(long, value_name = "FILE", requires = "data")]
    labels: Option<PathBuf>,
    /// Subtracted after scaling: one value, or one per channel, as in .485,.456,.406
    #[arg(long, value_name = "X,..", value_delimiter = ',', value_parser = values::finite,
          allow_hyphen_values = true)]
    mean: Vec<f32>,
    /// Divides after that: one value, or one per channel
    #[arg(long, value_name = "X,..", value_delimiter = ',', value_parser = values::divisor)]
    std: Vec<f32>,
    /// Multiplies stored values [default: 1/255 for bytes, else 1]
    #[arg(long, value_name = "X", value_parser = values::finite, allow_negative_numbers = true)]
    scale: Option<f32>,
    /// Axes of the model's image input: nchw, nhwc [default: by its shape]
    #[arg(long)]
    layout: Option<Layout>,
    /// Size of images, HxW or one side [default: the model's]
    #[arg(long, value_name = "SIZE", value_parser = values::image_size)]
    image_size: Option<(usize, usize)>,
    /// How images get that size: stretch, crop, or crop:256 with the shorter side before the crop
    #[arg(long, value_name = "HOW", default_value = "stretch")]
    resize: Resize,
    /// Order of the model's channels: rgb, bgr
    #[arg(long, value_name = "ORDER", default_value = "rgb")]
    channels: ChannelOrder,
    /// Axis of the output that has the scores of classes, -1 for the last [default: by its shape]
    #[arg(long, value_name = "AXIS", allow_negative_numbers = true)]
    class_axis: Option<isize>,
}

impl DataArgs {
    pub fn preprocess(&self) -> Preprocess {
        Preprocess {
            mean: self.mean.clone(),
            std: self.std.clone(),
            scale: self.scale,
            layout: self.layout,
            image_size: self.image_size,
            resize: self.resize,
            channels: self.channels,
            class_axis: self.class_axis,
        }
    }

    pub fn source(&self) -> Option<DataSource> {
        Some(DataSource {
            path: self.data.clone()?,
            arrays: None,
            labels: self.labels.clone(),
            preprocess: self.preprocess(),
        })
    }
}

/// Shapes where there is no data to take them from.
#[derive(Args, Debug)]
pub struct ShapeArgs {
    /// Shape of an input with open dims, as in input=1x3x224x224; repeatable
    #[arg(long, value_name = "NAME=DIMS", value_parser = values::shape)]
    pub shape: Vec<(String, Vec<usize>)>,
}

/// Which layers may be factorized, and into what.
#[derive(Args, Debug)]
#[command(next_help_heading = "Layers")]
pub struct LayerArgs {
    /// Factorize only layers whose node or weight name matches; repeatable
    #[arg(long, value_name = "GLOB")]
    include: Vec<String>,
    /// Factorize no layers whose node or weight name matches; repeatable (--quantize is for all: see --float)
    #[arg(long, value_name = "GLOB")]
    exclude: Vec<String>,
    /// channel, channel-in, spatial, tucker, matrix; `none` leaves a ratio to --quantize [default: all]
    #[arg(long, value_name = "A,B,..", value_parser = values::schemes)]
    schemes: Option<Schemes>,
    /// Ranks are multiples of this; `auto` is the step at which tract gets faster here
    #[arg(long, value_name = "N", default_value = "1", value_parser = values::rank_multiple)]
    rank_multiple: RankMultiple,
}

impl LayerArgs {
    /// The defaults, with what was said about layers.
    pub fn options(&self) -> Options {
        let mut options = Options {
            include: self.include.clone(),
            exclude: self.exclude.clone(),
            rank_multiple: self.rank_multiple,
            ..Options::default()
        };
        if let Some(Schemes(schemes)) = &self.schemes {
            options.schemes.clone_from(schemes);
        }
        options
    }
}

#[derive(Args, Debug)]
pub struct InspectArgs {
    /// The model
    #[arg(value_name = "MODEL")]
    pub model: PathBuf,
    /// List only weights whose node or weight name matches; repeatable
    #[arg(long, value_name = "GLOB")]
    pub only: Vec<String>,
    /// List by name, params, macs, rank [default: in the model's order]
    #[arg(long, value_name = "WHAT")]
    pub sort: Option<Order>,
    #[command(flatten)]
    pub shapes: ShapeArgs,
    #[command(flatten)]
    pub data: DataArgs,
    #[command(flatten)]
    pub layers: LayerArgs,
}

#[derive(Args, Debug)]
pub struct EvalArgs {
    /// The model
    #[arg(value_name = "MODEL")]
    pub model: PathBuf,
    /// The original model, to compare outputs with where there are no labels
    #[arg(long, value_name = "MODEL")]
    pub reference: Option<PathBuf>,
    /// top1, top5, agreement, cosine, relative-error, mse [default: by labels and outputs]; or
    /// 'cmd:PROGRAM ARGS', which is given the model's path and prints one number
    #[arg(long, value_parser = values::metric)]
    pub metric: Option<values::Metric>,
    /// What runs the model: tract, native
    #[arg(long, default_value_t)]
    pub runtime: Runtime,
    #[command(flatten)]
    pub data: DataArgs,
}

#[derive(Args, Debug)]
pub struct CheckArgs {
    /// The model that differences are relative to
    #[arg(value_name = "A")]
    pub a: PathBuf,
    /// The other model
    #[arg(value_name = "B")]
    pub b: PathBuf,
    #[command(flatten)]
    pub shapes: ShapeArgs,
    /// Seed of random inputs, where there is no data
    #[arg(long, value_name = "N", default_value = "0")]
    pub seed: u64,
    /// Largest difference, relative to the largest output, that counts as equal
    #[arg(long, value_name = "X", default_value = "1e-4", value_parser = values::not_negative)]
    pub tolerance: f64,
    #[command(flatten)]
    pub data: DataArgs,
}

#[derive(Args, Debug)]
pub struct ApplyArgs {
    /// The model that the plan was made for
    #[arg(value_name = "IN")]
    pub input: PathBuf,
    /// The plan, as --save-plan wrote it
    #[arg(value_name = "PLAN")]
    pub plan: PathBuf,
    /// Where the smaller model goes
    #[arg(value_name = "OUT")]
    pub output: PathBuf,
    /// Allow to replace the input
    #[arg(long)]
    pub force: bool,
}

#[derive(Args, Debug)]
pub struct BenchArgs {
    /// The first model
    #[arg(value_name = "A")]
    pub a: PathBuf,
    /// The second model
    #[arg(value_name = "B", required_unless_present = "table", conflicts_with = "table")]
    pub b: Option<PathBuf>,
    /// Measure the layers of one model instead, in every form that they can have, and keep the times
    /// here: for `--target latency --latency-table FILE` on another machine
    #[arg(long, value_name = "FILE")]
    pub table: Option<PathBuf>,
    #[command(flatten)]
    pub shapes: ShapeArgs,
    #[command(flatten)]
    pub layers: LayerArgs,
    /// Runs of each model
    #[arg(long, value_name = "N", default_value = "50", value_parser = values::at_least_one)]
    pub runs: usize,
}
