//! Arrays that come from Python a batch at a time.

use std::sync::Mutex;

use onnx_bsr::dataset::Arrays;
use onnx_bsr::onnx::TensorProto;
use onnx_bsr::tensor::Tensor;
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;

/// Collects batches. Elements are copied, so that what Python does to its arrays meanwhile changes
/// nothing.
#[pyclass(frozen)]
#[derive(Default)]
pub struct Samples(Mutex<Collected>);

#[derive(Default)]
struct Collected {
    columns: Vec<Column>,
    labels: Option<Column>,
    arrays: Option<Arrays>,
}

struct Column {
    name: String,
    data_type: i32,
    /// Without the axis of samples.
    sample: Vec<usize>,
    samples: usize,
    bytes: Vec<u8>,
}

#[pymethods]
impl Samples {
    #[new]
    fn new() -> Self {
        Self::default()
    }

    /// Adds samples to the array at `column`, or to the labels where that is None. `data_type` is ONNX's
    /// number, `data` are row-major little-endian elements.
    #[pyo3(signature = (column, name, data_type, shape, data))]
    fn add(
        &self,
        column: Option<usize>,
        name: String,
        data_type: i32,
        shape: Vec<usize>,
        data: &[u8],
    ) -> PyResult<()> {
        let Some((&samples, sample)) = shape.split_first() else {
            return Err(fault(&name, "has no axis of samples"));
        };
        let mut collected = lock(&self.0);
        if collected.arrays.is_some() {
            return Err(fault(&name, "comes after the data were used"));
        }
        let new = Column {
            name: name.clone(),
            data_type,
            sample: sample.to_vec(),
            samples: 0,
            bytes: Vec::new(),
        };
        let place = match column {
            None => collected.labels.get_or_insert(new),
            Some(at) if at <= collected.columns.len() => {
                if at == collected.columns.len() {
                    collected.columns.push(new);
                }
                &mut collected.columns[at]
            }
            Some(_) => return Err(fault(&name, "skips a column")),
        };
        if (&place.name, place.data_type, place.sample.as_slice()) != (&name, data_type, sample) {
            let reason = format!(
                "has samples of shape {sample:?} and type {data_type}, the batches before {:?} and {} \
                 for `{}`",
                place.sample, place.data_type, place.name
            );
            return Err(fault(&name, &reason));
        }
        place.samples += samples;
        place.bytes.extend_from_slice(data);
        Ok(())
    }
}

impl Samples {
    /// The arrays, made once.
    pub fn arrays(&self) -> PyResult<Arrays> {
        let mut collected = lock(&self.0);
        if let Some(arrays) = &collected.arrays {
            return Ok(arrays.clone());
        }
        let labels = collected.labels.take().map(tensor).transpose()?.map(|(_, tensor)| tensor);
        let columns = std::mem::take(&mut collected.columns);
        let columns = columns.into_iter().map(tensor).collect::<PyResult<Vec<_>>>()?;
        let arrays = Arrays::named(columns, labels);
        collected.arrays = Some(arrays.clone());
        Ok(arrays)
    }
}

fn tensor(column: Column) -> PyResult<(String, Tensor)> {
    let dims = std::iter::once(column.samples).chain(column.sample).map(|dim| dim as i64);
    let proto = TensorProto {
        name: Some(column.name.clone()),
        data_type: Some(column.data_type),
        dims: dims.collect(),
        raw_data: Some(column.bytes.into()),
        ..TensorProto::default()
    };
    let tensor = proto.to_tensor().map_err(|error| PyValueError::new_err(error.chain()))?;
    Ok((column.name, tensor))
}

fn fault(name: &str, reason: &str) -> PyErr {
    let what = if name.is_empty() { "an array".to_owned() } else { format!("`{name}`") };
    PyValueError::new_err(format!("data: {what} {reason}"))
}

/// What a thread that panicked left is whole: nothing is done in steps that could be cut short.
fn lock(collected: &Mutex<Collected>) -> std::sync::MutexGuard<'_, Collected> {
    collected.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}
