//! Finds the arrays for the model's inputs in files of arrays.

use std::fs::File;
use std::io::BufReader;
use std::path::{Path, PathBuf};

use super::npz::Archive;
use super::{Arrays, InputSpec, Preprocess, fit, labels, npy, test_set};
use crate::error::{Error, Result};
use crate::tensor::Tensor;

/// What a form of data gives before it is matched with the model.
pub(super) struct Found {
    pub form: String,
    /// Name for messages and array, in the order of the model's inputs.
    pub arrays: Vec<(String, Tensor)>,
    pub labels: Option<(PathBuf, Tensor)>,
    pub outputs: Vec<Tensor>,
}

/// Several inputs can't be fed from `what`.
pub(super) fn only_one_input(what: &str, inputs: &[InputSpec]) -> Error {
    let names: Vec<&str> = inputs.iter().map(|spec| spec.name.as_str()).collect();
    Error::DataMismatch {
        reason: format!(
            "{what} feeds one input, the model has {} ({}): give an .npz keyed by input name",
            inputs.len(),
            names.join(", ")
        ),
    }
}

/// Reads a `.npy` file.
///
/// # Errors
/// When it can't be read, is damaged, or holds more or less than its header says.
pub(super) fn read_npy(path: &Path) -> Result<Tensor> {
    let cannot_read = |source| Error::Read { path: path.into(), source };
    let file = File::open(path).map_err(cannot_read)?;
    let length = file.metadata().map_err(cannot_read)?.len();
    let data = |reason: String| Error::Data { path: path.into(), reason };
    let mut reader = BufReader::new(file);
    let header = npy::read_header(&mut reader).map_err(data)?;
    let held = length.saturating_sub(header.data_start);
    if header.byte_len().map_err(data)? < held {
        return Err(data(format!("holds {held} bytes, more than its shape {:?}", header.shape)));
    }
    npy::read_elements(&mut reader, &header, held).map_err(data)
}

/// The only array of a file, for the only input.
///
/// # Errors
/// When there are more inputs, or the file is refused.
pub(super) fn one(
    what: &str,
    path: &Path,
    inputs: &[InputSpec],
    read: impl Fn(&Path) -> Result<Tensor>,
) -> Result<Found> {
    if inputs.len() != 1 {
        return Err(only_one_input(&format!("one {what}"), inputs));
    }
    let arrays = vec![(format!("the {what}"), read(path)?)];
    let article = if what.starts_with(['a', 'I']) { "an" } else { "a" };
    Ok(Found { form: format!("{article} {what}"), arrays, labels: None, outputs: Vec::new() })
}

/// The tensors of ONNX test sets.
///
/// # Errors
/// When a file is damaged, or the sets don't have the model's inputs.
pub(super) fn test_sets(path: &Path, inputs: &[InputSpec]) -> Result<Found> {
    let sets = test_set::read(path, inputs)?;
    let names = inputs.iter().map(|spec| format!("the data for `{}`", spec.name));
    Ok(Found {
        form: format!("{} ONNX test sets", sets.sets),
        arrays: names.zip(sets.inputs).collect(),
        labels: None,
        outputs: sets.outputs,
    })
}

/// Matches the arrays of an archive with the inputs, and reads those that are needed.
///
/// # Errors
/// When an input has no array, or one that is damaged or of another shape.
pub(super) fn npz(
    path: &Path,
    inputs: &[InputSpec],
    pre: &Preprocess,
    labels_elsewhere: bool,
) -> Result<Found> {
    let mut archive = Archive::open(path)?;
    let entries = &archive.entries;
    let keys: Vec<&str> = entries.iter().map(|e| e.key.as_str()).collect();
    let matched = matched(&keys, inputs, "the archive has")?;
    let mut chosen = Vec::with_capacity(inputs.len());
    for (spec, at) in inputs.iter().zip(matched.inputs) {
        let entry = &entries[at];
        // Refuse what can't fit before reading it.
        let what = format!("array `{}`", entry.key);
        let header = entry.header.as_ref().map_err(|reason| Error::Data {
            path: path.into(),
            reason: format!("{what} {reason}"),
        })?;
        fit::fit(spec, &what, &header.shape, header.data_type, None, pre)?;
        chosen.push((at, what));
    }
    let labels = matched.labels.filter(|_| !labels_elsewhere);
    let mut arrays = Vec::with_capacity(chosen.len());
    for (at, what) in chosen {
        arrays.push((what, archive.read(at)?));
    }
    let labels = match labels {
        Some(at) => Some((path.to_path_buf(), archive.read(at)?)),
        None => None,
    };
    Ok(Found { form: "an npz archive".to_owned(), arrays, labels, outputs: Vec::new() })
}

/// Matches arrays in memory with the inputs; `name` stands for them in messages.
///
/// # Errors
/// When an input has no array.
pub(super) fn held(
    arrays: &Arrays,
    name: &Path,
    inputs: &[InputSpec],
    labels_elsewhere: bool,
) -> Result<Found> {
    let (given, mut labels) = (arrays.arrays(), arrays.labels());
    let by_order = given.iter().all(|(key, _)| key.is_empty());
    let places = if by_order {
        if given.len() != inputs.len() {
            let names: Vec<&str> = inputs.iter().map(|spec| spec.name.as_str()).collect();
            return Err(Error::DataMismatch {
                reason: format!(
                    "{} arrays, the model has {} inputs ({})",
                    given.len(),
                    inputs.len(),
                    names.join(", ")
                ),
            });
        }
        (0..given.len()).collect()
    } else {
        let keys: Vec<&str> = given.iter().map(|(key, _)| key.as_str()).collect();
        let matched = matched(&keys, inputs, "the data have")?;
        labels = labels.or(matched.labels.map(|at| &given[at].1));
        matched.inputs
    };
    let array = |at: usize| {
        let (key, tensor) = &given[at];
        let what = if by_order { format!("array {at}") } else { format!("array `{key}`") };
        (what, tensor.clone())
    };
    Ok(Found {
        form: "arrays".to_owned(),
        arrays: places.into_iter().map(array).collect(),
        labels: labels.filter(|_| !labels_elsewhere).map(|t| (name.to_owned(), t.clone())),
        outputs: Vec::new(),
    })
}

/// Positions of arrays by what they are for.
struct Matched {
    /// One per input of the model.
    inputs: Vec<usize>,
    labels: Option<usize>,
}

/// Finds the array of every input by its name, and the labels; for one input the only array that is not
/// labels has any name. `holder` begins what the message says of the names there are.
fn matched(keys: &[&str], inputs: &[InputSpec], holder: &str) -> Result<Matched> {
    let position = |key: &str| keys.iter().position(|k| *k == key);
    let is_input = |key: &str| inputs.iter().any(|spec| spec.name == key);
    let labels = labels::NAMES.iter().filter(|n| !is_input(n)).find_map(|name| position(name));
    let others: Vec<usize> = (0..keys.len()).filter(|&i| Some(i) != labels).collect();
    let mut found = Vec::with_capacity(inputs.len());
    for spec in inputs {
        let by_order = match (inputs, others.as_slice()) {
            ([_], &[only]) => Some(only),
            _ => None,
        };
        let at = position(&spec.name).or(by_order).ok_or_else(|| Error::DataMismatch {
            reason: format!(
                "no array for input `{}` ({}); {holder} {}",
                spec.name,
                spec.text(),
                if keys.is_empty() { "none".to_owned() } else { keys.join(", ") }
            ),
        })?;
        if keys[at] != spec.name {
            log::info!("array `{}` is taken for input `{}`", keys[at], spec.name);
        }
        found.push(at);
    }
    for &other in others.iter().filter(|i| !found.contains(i)) {
        log::info!("array `{}` belongs to no input, ignored", keys[other]);
    }
    Ok(Matched { inputs: found, labels })
}
