//! Outputs of two model files side by side.

use std::path::Path;
use std::sync::atomic::AtomicU64;
use std::time::Instant;

use super::{DataSource, common_inputs, warnings_of};
use crate::dataset::Dataset;
use crate::error::{Error, Result};
use crate::eval::Evaluator;
use crate::graph::InputSpec;
use crate::layer::prepare;
use crate::onnx::Model;
use crate::progress::Progress;
use crate::report::{CheckOutput, CheckReport, SCHEMA_VERSION};
use crate::tensor::Tensor;
use crate::validate::{Agreement, RUNTIME, Session, concrete_shapes, random_inputs};

/// Random runs where there is no data.
const RANDOM_RUNS: usize = 4;

/// Samples whose outputs are held at once.
const CHUNK: usize = 64;

/// Two models to be compared.
#[derive(Clone, Debug)]
pub struct Check<'a> {
    /// The model that differences are relative to.
    pub a: &'a Path,
    /// The other model.
    pub b: &'a Path,
    /// Samples; random inputs where there are none.
    pub data: Option<&'a DataSource>,
    /// Shapes of random inputs whose dims the model leaves open, by name.
    pub shapes: &'a [(String, Vec<usize>)],
    /// Seed of random inputs.
    pub seed: u64,
    /// Largest relative difference that counts as equal.
    pub tolerance: f64,
}

/// Runs both models on the same inputs.
///
/// # Errors
/// When a model can't be read or run, or they differ in their inputs or in the number of outputs.
pub fn check(request: &Check<'_>, progress: &dyn Progress) -> Result<CheckReport> {
    let begin = Instant::now();
    let specs = common_inputs(request.a, request.b)?;
    let mut tally = Tally::default();
    let first = match request.data {
        Some(source) => source.open_with_session(request.a).map(|(_, session)| session),
        None => Session::open_shaped(request.a, &concrete_shapes(&specs, request.shapes)?),
    };
    if let Err(reason @ Error::Runtime { .. }) = first {
        return native(request, &specs, &reason, progress);
    }
    let (a, b, samples) = match request.data {
        Some(source) => {
            let (data, a) = source.open_with_session(request.a)?;
            let b = Session::open_for(request.b, &data.batch(&[0])?)?;
            tally.add_data(&a, &b, &data, progress)?;
            (a, b, data.len())
        }
        None => {
            let shapes = concrete_shapes(&specs, request.shapes)?;
            let a = Session::open_shaped(request.a, &shapes)?;
            let b = Session::open_shaped(request.b, &shapes)?;
            tally.add_random(&a, &b, request.seed, progress)?;
            (a, b, RANDOM_RUNS)
        }
    };
    let outputs = tally.outputs(a.outputs(), request.tolerance);
    let mut warnings: Vec<String> =
        warnings_of(&a, request.a).chain(warnings_of(&b, request.b)).collect();
    if request.data.is_none() {
        warnings.push("no data given: inputs are random".to_owned());
    }
    Ok(CheckReport {
        schema_version: SCHEMA_VERSION,
        runtime: RUNTIME.to_owned(),
        samples,
        seconds: begin.elapsed().as_secs_f64(),
        tolerance: request.tolerance,
        equal: outputs.iter().all(|output| output.equal),
        outputs,
        warnings,
    })
}

/// The same with the evaluator, for models that tract doesn't take.
fn native(
    request: &Check<'_>,
    specs: &[InputSpec],
    reason: &Error,
    progress: &dyn Progress,
) -> Result<CheckReport> {
    let begin = Instant::now();
    let open = |path: &Path| -> Result<(Evaluator, Vec<String>)> {
        let mut model = Model::read(path)?;
        prepare(&mut model)?;
        let names = model.graph().output.iter().map(|o| o.name().to_owned()).collect();
        Ok((Evaluator::new(&model)?, names))
    };
    let ((a, names), (b, _)) = (open(request.a)?, open(request.b)?);
    let mut tally = Tally::default();
    let samples = match request.data {
        Some(source) => {
            let data = source.open(specs)?;
            progress.phase("check", Some(2 * data.len() as u64));
            let all: Vec<usize> = (0..data.len()).collect();
            for samples in all.chunks(CHUNK) {
                let inputs = data.batch(samples)?;
                tally.add(&a.run_all(&inputs)?, &b.run_all(&inputs)?)?;
                if progress.interrupted() {
                    return Err(Error::Interrupted);
                }
            }
            data.len()
        }
        None => {
            let shapes = concrete_shapes(specs, request.shapes)?;
            for turn in 0..RANDOM_RUNS as u64 {
                let inputs = random_inputs(specs, &shapes, request.seed.wrapping_add(turn))?;
                tally.add(&a.run(inputs.clone())?, &b.run(inputs)?)?;
            }
            RANDOM_RUNS
        }
    };
    let outputs = tally.outputs(&names, request.tolerance);
    let mut warnings = vec![format!(
        "{RUNTIME} doesn't take `{}` ({}): the evaluator ran both models",
        request.a.display(),
        reason.chain()
    )];
    if request.data.is_none() {
        warnings.push("no data given: inputs are random".to_owned());
    }
    Ok(CheckReport {
        schema_version: SCHEMA_VERSION,
        runtime: "native".to_owned(),
        samples,
        seconds: begin.elapsed().as_secs_f64(),
        tolerance: request.tolerance,
        equal: outputs.iter().all(|output| output.equal),
        outputs,
        warnings,
    })
}

/// What has been seen so far, per output: last shapes, and the agreement while shapes are equal.
#[derive(Default)]
struct Tally(Vec<Seen>);

#[derive(Default)]
struct Seen {
    shapes: (Vec<usize>, Vec<usize>),
    agreement: Agreement,
    comparable: bool,
}

impl Tally {
    fn add_data(
        &mut self,
        a: &Session,
        b: &Session,
        data: &Dataset,
        progress: &dyn Progress,
    ) -> Result<()> {
        progress.phase("check", Some(2 * data.len() as u64));
        let done = AtomicU64::new(0);
        let all: Vec<usize> = (0..data.len()).collect();
        for samples in all.chunks(CHUNK) {
            let batch = |rows: &[usize]| data.batch(rows);
            let first = a.run_selected(batch, samples, &done, progress)?;
            let second = b.run_selected(batch, samples, &done, progress)?;
            self.add(&first, &second)?;
        }
        // Axis 0 of the last chunk counts its samples: show the shapes for one.
        for seen in &mut self.0 {
            for shape in [&mut seen.shapes.0, &mut seen.shapes.1] {
                shape.iter_mut().take(1).for_each(|samples| *samples = 1);
            }
        }
        Ok(())
    }

    /// The sessions are open for shapes without open dims.
    fn add_random(
        &mut self,
        a: &Session,
        b: &Session,
        seed: u64,
        progress: &dyn Progress,
    ) -> Result<()> {
        progress.phase("check", Some(RANDOM_RUNS as u64));
        for turn in 0..RANDOM_RUNS as u64 {
            if progress.interrupted() {
                return Err(Error::Interrupted);
            }
            let inputs = random_inputs(a.inputs(), &[], seed.wrapping_add(turn))?;
            self.add(&a.run(&inputs)?, &b.run(&inputs)?)?;
            progress.step(turn + 1, "random inputs");
        }
        Ok(())
    }

    fn add(&mut self, first: &[Tensor], second: &[Tensor]) -> Result<()> {
        if first.len() != second.len() {
            return Err(Error::DataMismatch {
                reason: format!(
                    "{} outputs in one model, {} in the other",
                    first.len(),
                    second.len()
                ),
            });
        }
        if self.0.is_empty() {
            let new = || Seen { comparable: true, ..Seen::default() };
            self.0.resize_with(first.len(), new);
        }
        for ((seen, x), y) in self.0.iter_mut().zip(first).zip(second) {
            seen.shapes = (x.shape().to_vec(), y.shape().to_vec());
            seen.comparable &= (x.data_type(), x.shape()) == (y.data_type(), y.shape());
            if seen.comparable {
                let pair = (std::slice::from_ref(x), std::slice::from_ref(y));
                seen.agreement.merge(&Agreement::between(pair.0, pair.1)?);
            }
        }
        Ok(())
    }

    fn outputs(self, names: &[String], tolerance: f64) -> Vec<CheckOutput> {
        let describe = |(seen, name): (Seen, &String)| {
            let relative = seen.agreement.max_relative_difference();
            let comparable = seen.comparable;
            CheckOutput {
                name: name.clone(),
                shape_a: seen.shapes.0,
                shape_b: seen.shapes.1,
                max_abs_difference: comparable.then(|| seen.agreement.max_abs_difference()),
                max_relative_difference: comparable.then_some(relative),
                equal: comparable && relative <= tolerance,
            }
        };
        self.0.into_iter().zip(names).map(describe).collect()
    }
}
