//! Samples and labels, from the forms people keep them in to what a model takes.
//!
//! | form | labels |
//! |---|---|
//! | `.npz`, arrays keyed by input name (any name for one input and one array) | array `labels`, `label`, `y`, `targets`, `target` or `classes` |
//! | `.npy`, for models of one input | a file of their own |
//! | folder of class folders of images | index of the class folder in sorted order |
//! | folder of images | a file of their own |
//! | IDX, plain or gzipped | the sibling `*-labels-idx1-ubyte` |
//! | folder of `test_data_set_*`, or one of them | a file of their own |
//! | [`Arrays`] in memory | with them, or under the names of an `.npz` |
//!
//! Data is kept as stored (bytes stay bytes, images stay files) and becomes tensors of the model's
//! element type, layout and scale a batch at a time. Axis 0 of every array counts samples; the size
//! of the model's own batch axis plays no part.

mod arrays;
mod convert;
mod find;
mod fit;
mod form;
mod idx;
mod images;
mod labels;
mod npy;
mod npz;
mod preprocess;
mod split;
mod test_set;
#[cfg(test)]
mod tests;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use half::{bf16, f16};
use rayon::prelude::*;

use convert::{Conversion, Misfit, Target};
use find::Found;
use form::Form;
use images::Frame;
use labels::Labels;
use preprocess::is_float;

use crate::error::{Error, Result};
use crate::tensor::{DataType, Tensor};

pub use crate::graph::InputSpec;
pub use arrays::Arrays;
pub use preprocess::{ChannelOrder, Layout, Preprocess, Resize};
pub use split::split;

/// Images that are held decoded besides the batch they go to.
const DECODED_AT_ONCE: usize = 64;

/// Samples for a model, or a part of them. Clones and parts share the data.
#[derive(Clone, Debug)]
pub struct Dataset {
    shared: Arc<Shared>,
    /// Which samples belong to this part; `None` means all.
    part: Option<Arc<[usize]>>,
    class_axis: Option<isize>,
}

#[derive(Debug)]
struct Shared {
    path: PathBuf,
    form: String,
    samples: usize,
    columns: Vec<Column>,
    labels: Option<Labels>,
    classes: Vec<String>,
    outputs: Vec<Tensor>,
}

/// What one input of the model is fed from.
#[derive(Debug)]
struct Column {
    input: String,
    data_type: DataType,
    conversion: Conversion,
    stored: Stored,
}

#[derive(Debug)]
enum Stored {
    /// Row-major, axis 0 = samples.
    Array(Tensor),
    Images {
        files: Vec<PathBuf>,
        frame: Frame,
    },
}

impl Dataset {
    /// The axis of the class scores that labels are indices of, where it was given.
    #[must_use]
    pub fn class_axis(&self) -> Option<isize> {
        self.class_axis
    }

    /// Opens the data at `path` for a model with the given inputs. Labels come from the file
    /// `labels` where it is given, else from the data itself.
    ///
    /// Arrays are read and checked here; images are only looked up.
    ///
    /// # Errors
    /// [`Error::Read`] and [`Error::Data`] when the data can't be read or is damaged,
    /// [`Error::DataMismatch`] when it does not fit the inputs, [`Error::Option`] when the
    /// preprocessing does not.
    pub fn open(
        path: &Path,
        inputs: &[InputSpec],
        labels: Option<&Path>,
        pre: &Preprocess,
    ) -> Result<Self> {
        check_inputs(inputs, pre)?;
        let form = form::of(path)?;
        let mut shared = if form == Form::Images {
            Self::open_images(path, inputs, pre)?
        } else {
            let found = match form {
                Form::Npz => find::npz(path, inputs, pre, labels.is_some())?,
                Form::Npy => find::one("array", path, inputs, find::read_npy)?,
                Form::TestSets => find::test_sets(path, inputs)?,
                Form::Idx | Form::Images => {
                    let mut found = find::one("IDX file", path, inputs, idx::read)?;
                    if let (None, Some(sibling)) = (labels, idx::sibling_labels(path)) {
                        log::info!("labels: `{}`", sibling.display());
                        found.labels = Some((sibling.clone(), idx::read(&sibling)?));
                    }
                    found
                }
            };
            Self::from_arrays(path, inputs, found, pre)?
        };
        if let Some(file) = labels {
            shared.labels = Some(Labels::read(file, shared.samples)?);
        }
        Ok(Self { shared: Arc::new(shared), part: None, class_axis: pre.class_axis })
    }

    /// Arrays in memory as samples for a model with the given inputs; `name` stands for them in reports and
    /// messages. Labels come from the file `labels` where it is given.
    ///
    /// # Errors
    /// As [`Dataset::open`].
    pub fn held(
        arrays: &Arrays,
        name: &Path,
        inputs: &[InputSpec],
        labels: Option<&Path>,
        pre: &Preprocess,
    ) -> Result<Self> {
        check_inputs(inputs, pre)?;
        let found = find::held(arrays, name, inputs, labels.is_some())?;
        let mut shared = Self::from_arrays(name, inputs, found, pre)?;
        if let Some(file) = labels {
            shared.labels = Some(Labels::read(file, shared.samples)?);
        }
        Ok(Self { shared: Arc::new(shared), part: None, class_axis: pre.class_axis })
    }

    fn open_images(path: &Path, inputs: &[InputSpec], pre: &Preprocess) -> Result<Shared> {
        let [spec] = inputs else {
            return Err(find::only_one_input("a folder of images", inputs));
        };
        let frame = Frame::of(spec, pre)?;
        let folder = images::scan(path)?;
        let samples = folder.files.len();
        let stored = [samples, frame.height, frame.width, frame.channels];
        let interleaved = Some(Layout::Nhwc);
        let conversion = fit::fit(spec, "an image", &stored, DataType::U8, interleaved, pre)?;
        let form = match folder.classes.len() {
            0 => "a folder of images".to_owned(),
            n => format!("{n} class folders of images"),
        };
        Ok(Shared {
            path: path.into(),
            form,
            samples,
            columns: vec![Column {
                input: spec.name.clone(),
                data_type: spec.data_type,
                conversion,
                stored: Stored::Images { files: folder.files, frame },
            }],
            labels: folder.labels.map(|values| Labels { values, per_sample: 1 }),
            classes: folder.classes,
            outputs: Vec::new(),
        })
    }

    fn from_arrays(
        path: &Path,
        inputs: &[InputSpec],
        found: Found,
        pre: &Preprocess,
    ) -> Result<Shared> {
        let mut columns = Vec::with_capacity(inputs.len());
        for (spec, (what, array)) in inputs.iter().zip(found.arrays) {
            let conversion = fit::fit(spec, &what, array.shape(), array.data_type(), None, pre)?;
            let column = Column {
                input: spec.name.clone(),
                data_type: spec.data_type,
                conversion,
                stored: Stored::Array(array),
            };
            column.check(path)?;
            columns.push(column);
        }
        let count = |column: &Column| match &column.stored {
            Stored::Array(array) => array.shape().first().copied().unwrap_or(0),
            Stored::Images { files, .. } => files.len(),
        };
        let samples = columns.first().map_or(0, count);
        if let Some(other) = columns.iter().find(|c| count(c) != samples) {
            return Err(Error::DataMismatch {
                reason: format!(
                    "input `{}` has {samples} samples, `{}` has {}",
                    inputs[0].name,
                    other.input,
                    count(other)
                ),
            });
        }
        let labels = match &found.labels {
            Some((file, tensor)) => Some(Labels::from_tensor(tensor, samples, file)?),
            None => None,
        };
        Ok(Shared {
            path: path.into(),
            form: found.form,
            samples,
            columns,
            labels,
            classes: Vec::new(),
            outputs: found.outputs,
        })
    }

    /// The number of samples.
    #[must_use]
    pub fn len(&self) -> usize {
        self.part.as_ref().map_or(self.shared.samples, |part| part.len())
    }

    /// Whether there are no samples.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The last part of the data's path.
    #[must_use]
    pub fn name(&self) -> String {
        let path = &self.shared.path;
        path.file_name().map_or_else(|| path.display().to_string(), |n| n.to_string_lossy().into())
    }

    /// Samples, form and whether there are labels, for a person to read.
    #[must_use]
    pub fn description(&self) -> String {
        let labels = if self.has_labels() { "with labels" } else { "without labels" };
        format!("{} samples {labels} from {}", self.len(), self.shared.form)
    }

    /// Names of the classes, where the data has them.
    #[must_use]
    pub fn classes(&self) -> &[String] {
        &self.shared.classes
    }

    /// Whether samples have labels.
    #[must_use]
    pub fn has_labels(&self) -> bool {
        self.shared.labels.is_some()
    }

    /// Labels per sample: more than one where a model classifies several positions.
    #[must_use]
    pub fn labels_per_sample(&self) -> usize {
        self.shared.labels.as_ref().map_or(0, |labels| labels.per_sample)
    }

    /// The labels of the given samples, one after the other.
    ///
    /// # Errors
    /// When there is no such sample.
    pub fn labels(&self, indices: &[usize]) -> Result<Option<Vec<i64>>> {
        let rows = self.rows(indices)?;
        Ok(self.shared.labels.as_ref().map(|labels| {
            let of = |&row: &usize| &labels.values[row * labels.per_sample..][..labels.per_sample];
            rows.iter().flat_map(of).copied().collect()
        }))
    }

    /// The labels of all samples.
    #[must_use]
    pub fn all_labels(&self) -> Option<Vec<i64>> {
        let all: Vec<usize> = (0..self.len()).collect();
        self.labels(&all).ok().flatten()
    }

    /// The outputs that the data expects of the model for the given samples, one tensor per output,
    /// axis 0 = samples. Only ONNX test sets have them.
    ///
    /// # Errors
    /// When there is no such sample.
    pub fn expected_outputs(&self, indices: &[usize]) -> Result<Option<Vec<Tensor>>> {
        let rows = self.rows(indices)?;
        let outputs = &self.shared.outputs;
        Ok((!outputs.is_empty()).then(|| outputs.iter().map(|t| t.select_batch(&rows)).collect()))
    }

    /// The given samples as the model takes them: one tensor per input, axis 0 = samples.
    ///
    /// # Errors
    /// When there is no such sample, or an image can't be decoded.
    pub fn batch(&self, indices: &[usize]) -> Result<Vec<Tensor>> {
        let rows = self.rows(indices)?;
        self.shared.columns.iter().map(|column| column.batch(&rows, &self.shared.path)).collect()
    }

    /// The given samples as a dataset, which shares this one's data.
    ///
    /// # Errors
    /// When there is no such sample.
    pub fn subset(&self, indices: &[usize]) -> Result<Self> {
        let part = self.rows(indices)?;
        Ok(Self { shared: Arc::clone(&self.shared), part: Some(part.into()), ..*self })
    }

    /// From positions in this part to positions in the data.
    fn rows(&self, indices: &[usize]) -> Result<Vec<usize>> {
        let row = |&index: &usize| {
            let row = match &self.part {
                Some(part) => part.get(index).copied(),
                None => Some(index).filter(|&i| i < self.shared.samples),
            };
            row.ok_or_else(|| Error::Data {
                path: self.shared.path.clone(),
                reason: format!("there is no sample {index}, only {}", self.len()),
            })
        };
        indices.iter().map(row).collect()
    }
}

/// Refuses what no data could feed.
fn check_inputs(inputs: &[InputSpec], pre: &Preprocess) -> Result<()> {
    if inputs.is_empty() {
        return Err(Error::DataMismatch { reason: "the model has no inputs".to_owned() });
    }
    if pre.is_explicit() && !inputs.iter().any(|spec| is_float(spec.data_type)) {
        return Err(Error::DataMismatch {
            reason: "--mean, --std and --scale need an input of floats, the model has none"
                .to_owned(),
        });
    }
    Ok(())
}

/// Runs `$body` with `$type` bound to the Rust type of a [`DataType`].
macro_rules! with_type {
    ($data_type:expr, $type:ident => $body:expr) => {
        with_type!(@ $data_type, $type, $body,
            F32 f32, F64 f64, F16 f16, BF16 bf16, I8 i8, I16 i16, I32 i32, I64 i64,
            U8 u8, U16 u16, U32 u32, U64 u64, Bool bool)
    };
    (@ $data_type:expr, $type:ident, $body:expr, $($variant:ident $rust:ty),*) => {
        match $data_type {
            $(DataType::$variant => { type $type = $rust; $body })*
        }
    };
}

impl Column {
    /// Checks that every stored element can become one of the model's.
    fn check(&self, path: &Path) -> Result<()> {
        let Stored::Array(array) = &self.stored else { return Ok(()) };
        with_type!(self.data_type, T => self.conversion.check::<T>(array))
            .map_err(|misfit| self.misfit(&misfit, misfit.row, path))
    }

    fn batch(&self, rows: &[usize], path: &Path) -> Result<Tensor> {
        with_type!(self.data_type, T => self.typed::<T>(rows, path))
    }

    fn typed<T: Target>(&self, rows: &[usize], path: &Path) -> Result<Tensor> {
        let at_row = |m: Misfit| self.misfit(&m, rows.get(m.row).copied().unwrap_or(0), path);
        let elements: Vec<T> = match &self.stored {
            Stored::Array(array) => self.conversion.rows(array, rows).map_err(at_row)?,
            Stored::Images { files, frame } => {
                let mut elements = vec![T::default(); rows.len() * frame.len()];
                let parts = rows.chunks(DECODED_AT_ONCE);
                for (rows, out) in parts.zip(elements.chunks_mut(DECODED_AT_ONCE * frame.len())) {
                    let decode = |&row: &usize| frame.decode(&files[row]);
                    let images = rows.par_iter().map(decode).collect::<Result<Vec<_>>>()?;
                    self.conversion.images(&images, out).map_err(|m| {
                        self.misfit(&m, rows.get(m.row).copied().unwrap_or(0), path)
                    })?;
                }
                elements
            }
        };
        let mut shape = vec![rows.len()];
        shape.extend(&self.conversion.sample);
        Tensor::from_vec(&shape, elements)
            .map_err(|e| Error::Data { path: path.into(), reason: e.to_string() })
    }

    fn misfit(&self, misfit: &Misfit, sample: usize, path: &Path) -> Error {
        let (input, value) = (&self.input, misfit.value);
        if !value.is_finite() {
            return Error::Data {
                path: path.into(),
                reason: format!("sample {sample} of `{input}` holds {value}: clean the data"),
            };
        }
        Error::DataMismatch {
            reason: format!(
                "input `{input}` takes {:?}, sample {sample} holds {value}",
                self.data_type
            ),
        }
    }
}
