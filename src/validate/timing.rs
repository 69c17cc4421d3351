//! How long a model takes in tract: for tables of what layers cost there.

use std::time::{Duration, Instant};

use tract_onnx::prelude::{
    Framework, InferenceFact, InferenceModelExt, IntoRunnable, IntoTValue, TValue, TVec,
};

use super::fault;
use crate::error::Result;
use crate::onnx::Model;
use crate::tensor::Tensor;
use crate::tract::{guarded, to_tract};

/// Runs that are not counted.
const WARM_UP: usize = 2;

/// Runs that count: at least so many, and more within the time.
const FEW: usize = 5;
const MANY: usize = 60;
const TIME: Duration = Duration::from_millis(40);

/// Nanoseconds of the fastest of several runs of a model on `inputs`, one per input of the graph, on
/// this thread. What else the machine does makes runs slower, never faster.
///
/// # Errors
/// [`crate::error::Error::Runtime`] when tract refuses the model or fails.
pub fn nanoseconds(model: &Model, inputs: &[Tensor]) -> Result<f64> {
    let bytes = model.to_bytes()?;
    let values = inputs.iter().map(to_tract).collect::<std::result::Result<Vec<_>, _>>();
    let values: TVec<TValue> =
        values.map_err(fault)?.into_iter().map(IntoTValue::into_tvalue).collect();
    let plan = guarded(|| {
        let framework = tract_onnx::onnx().with_ignore_value_info(true);
        let mut model = framework.model_for_read(&mut bytes.as_slice())?;
        for (index, value) in values.iter().enumerate() {
            let fact = InferenceFact::dt_shape(value.datum_type(), value.shape());
            model.set_input_fact(index, fact)?;
        }
        model.into_optimized()?.into_runnable()
    })
    .map_err(fault)?;
    let mut best = f64::INFINITY;
    let mut begin = Instant::now();
    for run in 0..WARM_UP + MANY {
        if run == WARM_UP {
            begin = Instant::now();
        }
        if run >= WARM_UP + FEW && begin.elapsed() > TIME {
            break;
        }
        let given = values.clone();
        let clock = Instant::now();
        guarded(|| plan.run(given)).map_err(fault)?;
        if run >= WARM_UP {
            best = best.min(clock.elapsed().as_secs_f64() * 1e9);
        }
    }
    Ok(best)
}
