//! How stored arrays fit a model's input: which axes move, what is scaled.

use super::convert::{Affine, Conversion};
use super::preprocess::is_float;
use super::{ChannelOrder, InputSpec, Layout, Preprocess};
use crate::error::{Error, Result};
use crate::tensor::DataType;

/// How samples of shape `stored[1..]` become samples of `spec`.
///
/// `source` is the layout of the stored samples where it is known (images); arrays take whatever
/// fits the model's shape: themselves, with the channel axis moved, with an axis of one added or
/// dropped, or flattened.
///
/// # Errors
/// When nothing fits, or the preprocessing does not fit the channels.
pub(super) fn fit(
    spec: &InputSpec,
    what: &str,
    stored: &[usize],
    data_type: DataType,
    source: Option<Layout>,
    pre: &Preprocess,
) -> Result<Conversion> {
    let mismatch = || Error::DataMismatch {
        reason: format!("input `{}` takes {}, {what} has shape {stored:?}", spec.name, spec.text()),
    };
    let ([samples, sample @ ..], [_, dims @ ..]) = (stored, spec.shape.as_slice()) else {
        return Err(mismatch());
    };
    if *samples == 0 || sample.contains(&0) {
        return Err(Error::DataMismatch { reason: format!("{what} is empty: shape {stored:?}") });
    }
    let target = pre.layout.unwrap_or_else(|| guess(dims));
    let (sample, source, target) =
        arrange(sample, dims, source, pre.layout, target).ok_or_else(mismatch)?;
    let channels = match (sample.as_slice(), target) {
        ([], _) => 1,
        ([.., last], Layout::Nhwc) => *last,
        ([first, ..], Layout::Nchw) => *first,
    };
    let affine = affine(spec, data_type, channels, pre)?;
    let reverse_channels =
        pre.channels == ChannelOrder::Bgr && is_float(spec.data_type) && sample.len() == 3;
    if reverse_channels && channels != 3 {
        return Err(Error::Option {
            option: "--channels bgr".to_owned(),
            reason: format!("input `{}` has {channels} channels, not 3", spec.name),
        });
    }
    Ok(Conversion {
        sample,
        channels,
        source_interleaved: source == Layout::Nhwc,
        target_interleaved: target == Layout::Nhwc,
        reverse_channels,
        affine,
    })
}

/// The layout that the dims of a sample suggest: channels are few.
pub(super) fn guess(dims: &[Option<usize>]) -> Layout {
    let few = |d: &Option<usize>| matches!(d, Some(1 | 3 | 4));
    match dims {
        [first, _, last] if few(last) && !few(first) => Layout::Nhwc,
        _ => Layout::Nchw,
    }
}

/// The sample's shape in the model and the layouts before and after.
fn arrange(
    sample: &[usize],
    dims: &[Option<usize>],
    source: Option<Layout>,
    asked: Option<Layout>,
    target: Layout,
) -> Option<(Vec<usize>, Layout, Layout)> {
    let matches = |shape: &[usize]| {
        shape.len() == dims.len() && shape.iter().zip(dims).all(|(s, d)| d.is_none_or(|d| d == *s))
    };
    let moved = |to: Layout| match (sample, to) {
        (&[h, w, c], Layout::Nchw) => Some(vec![c, h, w]),
        (&[c, h, w], Layout::Nhwc) => Some(vec![h, w, c]),
        _ => None,
    };
    if let Some(source) = source {
        let shape = if source == target { sample.to_vec() } else { moved(target)? };
        return matches(&shape).then_some((shape, source, target));
    }
    // An image array against symbolic dims fits either way: the layout asked for decides.
    let stored_as = guess(&sample.iter().copied().map(Some).collect::<Vec<_>>());
    let must_move = asked.is_some() && dims.iter().all(Option::is_none) && stored_as != target;
    if matches(sample) && !must_move {
        return Some((sample.to_vec(), target, target));
    }
    for (from, to) in [(Layout::Nhwc, Layout::Nchw), (Layout::Nchw, Layout::Nhwc)] {
        if let Some(shape) = moved(to).filter(|s| matches(s)) {
            return Some((shape, from, to));
        }
    }
    let without_ones =
        |shape: &[usize]| -> Vec<usize> { shape.iter().copied().filter(|&d| d != 1).collect() };
    if let Some(known) = dims.iter().copied().collect::<Option<Vec<usize>>>() {
        let flat = known.len() == 1 || sample.len() == 1;
        let count = known.iter().try_fold(1usize, |n, &d| n.checked_mul(d));
        let same_count = count == Some(sample.iter().product());
        if same_count && (flat || without_ones(&known) == without_ones(sample)) {
            return Some((known, target, target));
        }
        return None;
    }
    // Grey images without a channel axis, height and width symbolic.
    let mut grey = sample.to_vec();
    grey.insert(if target == Layout::Nhwc { sample.len() } else { 0 }, 1);
    matches(&grey).then_some((grey, target, target))
}

/// What is done to the values of an input, where anything is.
fn affine(
    spec: &InputSpec,
    data_type: DataType,
    channels: usize,
    pre: &Preprocess,
) -> Result<Option<Affine>> {
    let asked = pre.scale.is_some() || !pre.mean.is_empty() || !pre.std.is_empty();
    let bytes = data_type == DataType::U8;
    if !is_float(spec.data_type) || !(asked || bytes) {
        return Ok(None);
    }
    for (option, values) in [("--mean", &pre.mean), ("--std", &pre.std)] {
        if !matches!(values.len(), 0 | 1) && values.len() != channels {
            return Err(Error::Option {
                option: option.to_owned(),
                reason: format!(
                    "{} values, but input `{}` ({}) has {channels} channel{}",
                    values.len(),
                    spec.name,
                    spec.text(),
                    if channels == 1 { "" } else { "s" }
                ),
            });
        }
        let bad = |v: &f32| !v.is_finite() || (option == "--std" && *v == 0.0);
        if let Some(value) = values.iter().find(|v| bad(v)) {
            return Err(Error::Option {
                option: option.to_owned(),
                reason: format!("can't use the value {value}"),
            });
        }
    }
    if let Some(scale) = pre.scale.filter(|s| !s.is_finite() || *s == 0.0) {
        return Err(Error::Option {
            option: "--scale".to_owned(),
            reason: format!("can't use the value {scale}"),
        });
    }
    let default = if bytes { 1.0 / 255.0 } else { 1.0 };
    let wide = |values: &[f32]| values.iter().map(|&v| f64::from(v)).collect();
    Ok(Some(Affine {
        scale: pre.scale.map_or(default, f64::from),
        mean: wide(&pre.mean),
        std: wide(&pre.std),
    }))
}
