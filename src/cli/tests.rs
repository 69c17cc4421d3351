//! From what is typed to what the library is given.

use std::time::Duration;

use super::args::{Cli, Command};
use super::{Given, call, flags, shells};
use crate::compress::Request;
use crate::dataset::Resize;
use crate::error::Error;
use crate::factorize::Scheme;
use crate::options::{
    Form, OptimizerKind, Options, Range, RankMultiple, Rounding, SearchMode, Statistics, Target,
};
use crate::progress::Silent;
use crate::score::MetricKind;
use crate::tune::Augmentation;

fn parse(line: &str) -> Result<Cli, clap::Error> {
    super::parse(std::iter::once("onnx-bsr").chain(line.split_whitespace()).map(Into::into))
}

fn request(line: &str) -> Request {
    let cli = parse(line).expect("a valid line");
    let common = cli.common();
    cli.compress.into_request(&common)
}

#[test]
fn flags_are_consistent() {
    use clap::CommandFactory;
    Cli::command().debug_assert();
}

#[test]
fn a_bare_line_has_the_default_options() {
    let request = request("a.onnx b.onnx --ratio 8x");
    assert_eq!(request.options, Options { ratio: Some(8.0), ..Options::default() });
    assert_eq!((request.input, request.output), ("a.onnx".into(), "b.onnx".into()));
    assert!(request.data.is_none() && request.test.is_none() && !request.force);
}

#[test]
fn every_flag_arrives() {
    let request = request(
        "a b --ratio 2 --target macs --data d --labels l --test t --test-labels tl \
         --mean -1,.5 --std 2 --scale 0.1 --layout nhwc --image-size 3x4 --resize crop:9 \
         --channels bgr --class-axis -1 --metric top5 --include x* --include y --exclude z \
         --schemes channel,tucker --rank-multiple 8 --beam 3 --max-evals 9 --time-limit 2m \
         --search start --statistics none --calibration-samples 5 --search-samples 6 \
         --seed 7 --train n --train-labels nl --epochs 2.5 --train-time 15m --optimizer sgd \
         --decay 0.5 --lr 0.01 --train-batch 32 --distill 0.25 --msr 0.5 --msr-power 1 --match a,b \
         --match-weight 0.5 --train-memory 64M --stages 2 --augment \
         flip,shift --resume st --report h --threads 2 --save-plan p --force --max-drop 1.5 --shape i=1x2 \
         --latency-table lt --cache-dir cd --cache-bytes 3K --stream-above 5M --quantize int4 --rounding nearest --block 32 \
         --range entropy --signed --seven-bits --float-ends --float f --rounded-share 0.5 --json -vv",
    );
    let options = Options {
        ratio: Some(2.0),
        target: Target::Macs,
        latency_table: Some("lt".into()),
        schemes: vec![Scheme::ChannelOut, Scheme::Tucker],
        include: vec!["x*".into(), "y".into()],
        exclude: vec!["z".into()],
        rank_multiple: RankMultiple::Of(8),
        beam: 3,
        max_evals: Some(9),
        time_limit: Some(Duration::from_secs(120)),
        cache_dir: Some("cd".into()),
        cache_bytes: Some(3000),
        stream_above: 5_000_000,
        search: SearchMode::Start,
        statistics: Statistics::None,
        calibration_samples: 5,
        search_samples: Some(6),
        epochs: Some(2.5),
        train_time: Some(Duration::from_secs(900)),
        optimizer: OptimizerKind::Sgd,
        learning_rate: Some(0.01),
        decay: 0.5,
        train_batch: 32,
        distill: 0.25,
        msr: 0.5,
        msr_power: 1,
        matched: vec!["a".into(), "b".into()],
        match_weight: 0.5,
        train_memory: Some(64_000_000),
        stages: Some(2),
        augmentation: Some(Augmentation { flip: true, shift: 32 }),
        seed: 7,
        threads: Some(2),
        metric: Some(MetricKind::Top5),
        max_drop: Some(1.5),
        quantize: Some(Form::Int4),
        rounding: Rounding::Nearest,
        block: 32,
        range: Range::Entropy,
        signed: true,
        seven_bits: true,
        float_ends: true,
        float: vec!["f".into()],
        rounded_share: 0.5,
    };
    assert_eq!(request.options, options);
    let data = request.data.expect("data");
    assert_eq!(data.preprocess.mean, [-1.0, 0.5]);
    assert_eq!(data.preprocess.resize, Resize::Crop { shorter_side: Some(9) });
    assert_eq!(data.preprocess.image_size, Some((3, 4)));
    assert_eq!(data.preprocess.class_axis, Some(-1));
    let test = request.test.expect("test data");
    assert_eq!(test.labels, Some("tl".into()));
    assert_eq!(test.preprocess, data.preprocess);
    let train = request.train.expect("training data");
    assert_eq!((train.path, train.labels), ("n".into(), Some("nl".into())));
    assert_eq!(train.preprocess, data.preprocess);
    assert_eq!(request.resume, Some("st".into()));
    assert_eq!(request.shapes, [("i".to_owned(), vec![1, 2])]);
    assert!(request.force);
    assert_eq!(request.report, Some("h".into()));
}

#[test]
fn a_sweep_takes_the_flags_of_the_main_job() {
    let line =
        "sweep a d --ratios 1.5,2x,4 --data t --quantize int4 --epochs 2 --train n --max-drop 1";
    let cli = parse(line).expect("valid");
    let common = cli.common();
    let Some(Command::Sweep(args)) = cli.command else { panic!("no sweep") };
    let request = args.into_request(&common, vec!["x".into()]);
    assert_eq!((request.folder, request.ratios), ("d".into(), vec![1.5, 2.0, 4.0]));
    assert_eq!(request.base.input, std::path::PathBuf::from("a"));
    let options = &request.base.options;
    assert_eq!((options.quantize, options.epochs), (Some(Form::Int4), Some(2.0)));
    assert_eq!((options.max_drop, options.ratio), (Some(1.0), None));
    assert_eq!(request.base.command, ["x"]);
}

#[test]
fn a_form_may_be_left_out() {
    let quantize = |line: &str| request(line).options.quantize;
    assert_eq!(quantize("a b --quantize"), Some(Form::Int8));
    assert_eq!(quantize("a b --quantize fp16"), Some(Form::Fp16));
    assert_eq!(quantize("a b --ratio 2 --quantize --seed 1"), Some(Form::Int8));
    assert_eq!(quantize("a b --ratio 2"), None);
}

#[test]
fn a_program_may_judge() {
    let judged = request("a b --ratio 2 --metric cmd:./judge").file_metric.expect("a metric");
    assert_eq!(judged.name(), "./judge");
    assert!(request("a b --ratio 2 --metric top5").file_metric.is_none());
    assert!(parse("eval x.onnx --metric cmd:./judge").is_ok());
}

#[test]
fn schemes_can_be_none() {
    assert!(request("a b --ratio 2 --schemes none --quantize auto").options.schemes.is_empty());
    assert!(parse("a b --ratio 2 --schemes none,matrix").is_err());
}

/// Bindings offer these under their own names.
#[test]
fn flags_are_listed() {
    let flags = flags(None);
    let flag = |name: &str| flags.iter().find(|f| f.name == name).expect(name);
    assert!(flag("force").is_switch && !flag("ratio").is_switch && !flag("threads").is_switch);
    assert!(flag("include").repeats && flag("shape").repeats && !flag("schemes").repeats);
    assert!(flag("ratio").help.starts_with("How many times smaller"));
    assert!(super::flags(Some("eval")).iter().any(|f| f.name == "reference"));
    assert!(super::flags(Some("no")).iter().all(|f| f.name != "data"));
}

#[test]
fn a_refused_call_names_the_option() {
    let refused = |line: &str| {
        let words = std::iter::once("onnx-bsr").chain(line.split_whitespace()).map(Into::into);
        match call(words, &Given::default(), &Silent).expect_err(line) {
            Error::Option { option, reason } => (option, reason),
            other => panic!("{line}: {other}"),
        }
    };
    let (option, reason) = refused("a b --ratio 1");
    assert_eq!(option, "--ratio");
    assert!(reason.starts_with("must be more than 1"), "{reason}");
    assert_eq!(refused("a b --ratio 2 --labels l").0, "--data");
    assert_eq!(refused("a b --ratio 2 --nonsense").0, "--nonsense");
    assert!(refused("man").1.contains("no report"));
}

#[test]
fn scripts_and_manuals_name_commands_and_flags() {
    for shell in [clap_complete::Shell::Bash, clap_complete::Shell::Zsh, clap_complete::Shell::Fish]
    {
        let script = String::from_utf8(shells::completions(shell)).expect("text");
        assert!(script.contains("inspect") && script.contains("max-drop"), "{shell}");
    }
    let page = |command| String::from_utf8(shells::manual(command).expect("a page")).expect("text");
    let roff = page(None).replace("\\-", "-");
    assert!(roff.starts_with(".ie") && roff.contains(".TH onnx-bsr 1") && roff.contains("--ratio"));
    assert!(page(Some("check")).replace("\\-", "-").contains("--tolerance"));
    assert!(shells::manual(Some("no")).is_err());
}

#[test]
fn commands_stand_beside_the_default_form() {
    assert!(matches!(parse("inspect x.onnx").expect("valid").command, Some(Command::Inspect(_))));
    let eval = parse("eval x.onnx --data d --json").expect("valid");
    assert!(eval.common().json && matches!(eval.command, Some(Command::Eval(_))));
    let quiet = parse("-q --threads 2 check a b").expect("valid");
    assert!(quiet.common().quiet && matches!(quiet.command, Some(Command::Check(_))));
    let model = parse("./inspect out.onnx --ratio 2").expect("valid");
    assert!(model.command.is_none());
}

#[test]
fn usage_errors() {
    for line in [
        "",
        "a b",
        "a --ratio 2",
        "a b --ratio 1",
        "a b --ratio -3",
        "a b --quantize int3",
        "a b --ratio 2 --signed",
        "a b --quantize --block 24",
        "a b --ratio 2 --block 32",
        "a b --ratio 2 --rounding nearest",
        "a b --ratio NaN",
        "a b --ratio 2 --labels l",
        "a b --ratio 2 --threads 0",
        "a b --ratio 2 --target speed",
        "a b --ratio 2 --schemes svd",
        "a b --ratio 2 --std 0",
        "a b --ratio 2 -q -v",
        "a b --ratio 2 --train t",
        "a b --ratio 2 --data d --epochs 2",
        "a b --ratio 2 --data d --train t --distill 2",
        "a b --ratio 2 --data d --train t --augment rotate",
        "eval x.onnx",
        "a b --ratio 2 --metric cmd:",
        "a b --ratio 2 --metric speed",
        "completions tcsh",
        "sweep a d",
        "sweep a d --ratios 2,1",
        "sweep a d --ratios 2 --resume f --data d --train t",
        "check x.onnx",
        "check a b --tolerance NaN",
    ] {
        assert_eq!(parse(line).expect_err(line).exit_code(), 2, "{line}");
    }
}
