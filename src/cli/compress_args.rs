//! The flags of the main job.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use clap::Args;

use super::args::{Common, DataArgs, LayerArgs, ShapeArgs};
use super::values;
use crate::compress::{DataSource, FileMetric, Request};
use crate::options::{
    Form, OptimizerKind, Options, Range, Rounding, SearchMode, Statistics, Target,
};
use crate::tune::Augmentation;

#[derive(Args, Debug)]
pub struct CompressArgs {
    /// The model
    #[arg(value_name = "IN", required = true)]
    input: Option<PathBuf>,
    /// Where the smaller model goes
    #[arg(value_name = "OUT", required = true)]
    output: Option<PathBuf>,
    /// How many times smaller: 8 or 8x; may be left out with --max-drop or --quantize
    #[arg(long, value_name = "R", required_unless_present_any = ["quantize", "max_drop"],
          value_parser = values::ratio, allow_negative_numbers = true)]
    ratio: Option<f64>,
    /// Write the plan, for `apply`
    #[arg(long, value_name = "FILE")]
    save_plan: Option<PathBuf>,
    /// Write the report as a page that opens in any browser, offline
    #[arg(long, value_name = "OUT.html")]
    report: Option<PathBuf>,
    /// Allow to replace the input
    #[arg(long)]
    force: bool,
    #[command(flatten)]
    job: JobArgs,
    /// Keep the state of training here; where the file exists, an interrupted training goes on from it
    #[arg(long, value_name = "FILE", requires = "train", help_heading = "Training")]
    resume: Option<PathBuf>,
}

/// How one model becomes a smaller one, whatever the ratio.
#[derive(Args, Debug)]
pub struct JobArgs {
    /// What the ratio divides: bytes, params, macs, latency (time in tract)
    #[arg(long, value_name = "COST", default_value_t)]
    target: Target,
    /// Times of layers for a target of latency: measured once and kept here, or brought from the device
    /// (`onnx-bsr bench --table`)
    #[arg(long, value_name = "FILE")]
    latency_table: Option<PathBuf>,
    #[command(flatten)]
    shapes: ShapeArgs,
    /// top1, top5, agreement, cosine, relative-error, mse [default: by labels and outputs]; or
    /// 'cmd:PROGRAM ARGS', which is given a model's path and prints one number, higher is better: for the
    /// report and --max-drop alone
    #[arg(long, value_parser = values::metric)]
    metric: Option<values::Metric>,
    /// Points of the metric that may be lost: without --ratio the smallest model within is looked for;
    /// exit with code 3 if the written file loses more
    #[arg(long, value_name = "POINTS", value_parser = values::not_negative)]
    max_drop: Option<f64>,
    /// Samples that are only reported on [default: a part of --data]
    #[arg(long, value_name = "DATA", help_heading = "Data")]
    test: Option<PathBuf>,
    /// Labels of --test, where they are not part of it
    #[arg(long, value_name = "FILE", requires = "test", help_heading = "Data")]
    test_labels: Option<PathBuf>,
    #[command(flatten)]
    data: DataArgs,
    #[command(flatten)]
    quantization: QuantizeArgs,
    #[command(flatten)]
    layers: LayerArgs,
    #[command(flatten)]
    search: SearchArgs,
    #[command(flatten)]
    training: TrainArgs,
}

/// What weights are stored as.
#[derive(Args, Debug)]
#[command(next_help_heading = "Quantization")]
struct QuantizeArgs {
    /// Store weights in fewer bits: int8, int4, int4-dq, fp16, int8-dynamic, int8-qdq, auto; int8 where no
    /// form is named. A ratio of bytes counts this
    #[arg(long, value_name = "FORM", num_args = 0..=1, require_equals = false,
          default_missing_value = "int8")]
    quantize: Option<Form>,
    /// Leave weights float whose own or whose node's name matches; repeatable
    #[arg(long, value_name = "GLOB", requires = "quantize")]
    float: Vec<String>,
    /// How weights are rounded: nearest, compensated (by what layers see on --data)
    #[arg(long, value_name = "HOW", default_value_t, requires = "quantize")]
    rounding: Rounding,
    /// Weights that share a scale in four bits: 16, 32, 64, 128, 256
    #[arg(long, value_name = "N", default_value_t = Options::default().block,
          value_parser = values::block, requires = "quantize")]
    block: usize,
    /// Ranges of int8-qdq's values by what they are on --data: min-max, percentile, mse, entropy
    #[arg(long, value_name = "HOW", default_value_t, requires = "quantize")]
    range: Range,
    /// Values of int8-qdq are signed bytes
    #[arg(long, requires = "quantize")]
    signed: bool,
    /// Weights of int8-qdq and int8-dynamic have seven bits: for processors without VNNI
    #[arg(long, requires = "quantize")]
    seven_bits: bool,
    /// Values of int8-qdq stay float at the first and the last layer
    #[arg(long, requires = "quantize")]
    float_ends: bool,
}

#[derive(Args, Debug)]
#[command(next_help_heading = "Search")]
struct SearchArgs {
    /// How ranks are chosen: beam, paper, start (the predicted optimum alone),
    /// tables (each layer by what it loses alone)
    #[arg(long, value_name = "MODE", default_value_t)]
    search: SearchMode,
    /// Candidates that survive a level of the search
    #[arg(long, value_name = "K", default_value_t = Options::default().beam,
          value_parser = values::at_least_one)]
    beam: usize,
    /// Networks to score, at most [default: 80; no bound for `--search paper`]
    #[arg(long, value_name = "N", value_parser = values::at_least_one)]
    max_evals: Option<usize>,
    /// End the search after this time: 90, 90s, 2m
    #[arg(long, value_name = "TIME", value_parser = values::duration)]
    time_limit: Option<Duration>,
    /// Keep decompositions and scores of networks in this folder, so that an interrupted search goes on where
    /// it was
    #[arg(long, value_name = "DIR")]
    cache_dir: Option<PathBuf>,
    /// Memory for values that the search would else compute again [default: an eighth of what is free, at
    /// most 768 MiB]
    #[arg(long, value_name = "BYTES", value_parser = values::bytes)]
    cache_bytes: Option<usize>,
    /// Without --data, work on models whose weights take more bytes than this one layer at a time, like 500M
    #[arg(long, value_name = "BYTES", default_value = "1G", value_parser = values::bytes)]
    stream_above: usize,
    /// What factors are fitted to: none, whitened, centred, sequential, loss
    #[arg(long, value_name = "WHICH", default_value_t)]
    statistics: Statistics,
    /// Samples to gather statistics from
    #[arg(long, value_name = "N", default_value_t = Options::default().calibration_samples,
          value_parser = values::at_least_one)]
    calibration_samples: usize,
    /// Samples to score candidates on [default: 2000, fewer where the network takes long to run]
    #[arg(long, value_name = "N", value_parser = values::at_least_one)]
    search_samples: Option<usize>,
    /// Seed of every random choice
    #[arg(long, value_name = "N", default_value_t = Options::default().seed)]
    seed: u64,
}

#[derive(Args, Debug)]
#[command(next_help_heading = "Training")]
struct TrainArgs {
    /// Samples to train on; where they are those of --data, the ones that candidates are scored on
    /// and the ones of the report stay out
    #[arg(long, value_name = "DATA", requires = "data")]
    train: Option<PathBuf>,
    /// Labels of --train, where they are not part of it
    #[arg(long, value_name = "FILE", requires = "train")]
    train_labels: Option<PathBuf>,
    /// Passes over the samples [default: by their cost, from 3 to 30]
    #[arg(long, value_name = "N", value_parser = values::positive, requires = "train")]
    epochs: Option<f64>,
    /// End training after this time, in good order: 90, 90s, 15m
    #[arg(long, value_name = "TIME", value_parser = values::duration, requires = "train")]
    train_time: Option<Duration>,
    /// How gradients become steps: muon, adam, sgd
    #[arg(long, value_name = "METHOD", default_value_t)]
    optimizer: OptimizerKind,
    /// Highest learning rate [default: by what the factorization cost, up to 0.001]
    #[arg(long, value_name = "RATE", value_parser = values::positive)]
    lr: Option<f64>,
    /// Weight decay of the products of neighbouring factors
    #[arg(long, value_name = "WEIGHT", default_value_t = Options::default().decay,
          value_parser = values::not_negative)]
    decay: f64,
    /// Samples per step
    #[arg(long, value_name = "N", default_value_t = Options::default().train_batch,
          value_parser = values::at_least_one)]
    train_batch: usize,
    /// Share of the loss that imitates the original, from 0 to 1; the rest is for the labels
    #[arg(long, value_name = "SHARE", default_value_t = Options::default().distill,
          value_parser = values::share)]
    distill: f64,
    /// Values of the graph that are to be as in the original too, by name; their error counts
    /// relative to what they are
    #[arg(long = "match", value_name = "VALUE,..", value_delimiter = ',', requires = "train")]
    matched: Vec<String>,
    /// Weight of these errors together in the loss
    #[arg(long, value_name = "WEIGHT", default_value_t = Options::default().match_weight,
          value_parser = values::not_negative)]
    match_weight: f64,
    /// Bytes that values kept for the way back may take, as in 64M or 1G
    #[arg(long, value_name = "BYTES", value_parser = values::bytes, requires = "train")]
    train_memory: Option<usize>,
    /// Weight of the modified stable rank while the dense model is prepared for its ranks; 0 leaves
    /// that out
    #[arg(long, value_name = "WEIGHT", default_value_t = Options::default().msr,
          value_parser = values::not_negative)]
    msr: f64,
    /// Power of the singular values in it
    #[arg(long, value_name = "P", default_value_t = Options::default().msr_power,
          value_parser = clap::value_parser!(u8).range(1..=2))]
    msr_power: u8,
    /// Train at so many ratios on the way to the last one, itself included, and choose ranks anew for
    /// each
    #[arg(long, value_name = "N", value_parser = values::at_least_one, requires = "train")]
    stages: Option<usize>,
    /// Share of the training, its last part, in which weights are rounded as --quantize will store them; 0
    /// leaves that out
    #[arg(long, value_name = "SHARE", default_value_t = Options::default().rounded_share,
          value_parser = values::share)]
    rounded_share: f64,
    /// What is done to images: none, or some of flip, shift [default: what the original withstands]
    #[arg(long, value_name = "HOW", value_parser = values::augmentation)]
    augment: Option<Augmentation>,
}

impl CompressArgs {
    pub fn into_request(self, common: &Common) -> Request {
        let request = self.job.into_request(common);
        Request {
            // clap has seen to both.
            input: self.input.unwrap_or_default(),
            output: self.output.unwrap_or_default(),
            resume: self.resume,
            save_plan: self.save_plan,
            report: self.report,
            force: self.force,
            options: Options { ratio: self.ratio, ..request.options },
            ..request
        }
    }
}

impl JobArgs {
    /// The request but for its files and the ratio.
    pub fn into_request(self, common: &Common) -> Request {
        let preprocess = self.data.preprocess();
        let test = self.test.map(|path| DataSource {
            path,
            arrays: None,
            labels: self.test_labels,
            preprocess,
        });
        let (search, training) = (self.search, self.training);
        let preprocess = self.data.preprocess();
        let train = training.train.map(|path| DataSource {
            path,
            arrays: None,
            labels: training.train_labels,
            preprocess,
        });
        let (metric, file_metric) = match self.metric {
            Some(values::Metric::Samples(kind)) => (Some(kind), None),
            Some(values::Metric::File(program)) => {
                (None, Some(Arc::new(program) as Arc<dyn FileMetric>))
            }
            None => (None, None),
        };
        Request {
            input: PathBuf::new(),
            output: PathBuf::new(),
            data: self.data.source(),
            test,
            train,
            resume: None,
            shapes: self.shapes.shape,
            file_metric,
            save_plan: None,
            report: None,
            command: Vec::new(),
            force: false,
            options: Options {
                ratio: None,
                target: self.target,
                latency_table: self.latency_table,
                quantize: self.quantization.quantize,
                float: self.quantization.float,
                rounding: self.quantization.rounding,
                block: self.quantization.block,
                range: self.quantization.range,
                signed: self.quantization.signed,
                seven_bits: self.quantization.seven_bits,
                float_ends: self.quantization.float_ends,
                beam: search.beam,
                max_evals: search.max_evals,
                time_limit: search.time_limit,
                cache_dir: search.cache_dir,
                cache_bytes: search.cache_bytes,
                stream_above: search.stream_above,
                search: search.search,
                statistics: search.statistics,
                calibration_samples: search.calibration_samples,
                search_samples: search.search_samples,
                seed: search.seed,
                epochs: training.epochs,
                train_time: training.train_time,
                optimizer: training.optimizer,
                learning_rate: training.lr,
                decay: training.decay,
                train_batch: training.train_batch,
                distill: training.distill,
                matched: training.matched,
                match_weight: training.match_weight,
                train_memory: training.train_memory,
                msr: training.msr,
                msr_power: training.msr_power,
                stages: training.stages,
                rounded_share: training.rounded_share,
                augmentation: training.augment,
                threads: common.threads,
                metric,
                max_drop: self.max_drop,
                ..self.layers.options()
            },
        }
    }
}
