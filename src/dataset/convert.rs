//! From elements as stored to elements as the model takes them.

use std::ops::Range;

use half::{bf16, f16};

use crate::tensor::{Element, Tensor};
use crate::with_array;

/// How the elements of one sample become an input of the model.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Conversion {
    /// Shape of a sample as the model takes it, without the batch axis.
    pub sample: Vec<usize>,
    /// Channels per sample.
    pub channels: usize,
    /// Whether the channels of a pixel lie together in the stored sample.
    pub source_interleaved: bool,
    /// Whether they do in the model's input.
    pub target_interleaved: bool,
    /// Whether the model takes the channels in reverse (BGR).
    pub reverse_channels: bool,
    /// What is done to the values; `None` takes them as they are.
    pub affine: Option<Affine>,
}

/// `(x * scale - mean) / std`, with one mean and std per channel, or one for all.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Affine {
    pub scale: f64,
    pub mean: Vec<f64>,
    pub std: Vec<f64>,
}

impl Affine {
    fn apply(&self, channel: usize, x: f64) -> f64 {
        let of = |values: &[f64], default: f64| match values {
            [] => default,
            [one] => *one,
            many => many.get(channel).copied().unwrap_or(default),
        };
        (x * self.scale - of(&self.mean, 0.0)) / of(&self.std, 1.0)
    }
}

/// A stored element that has no counterpart in the model's element type.
#[derive(Debug, PartialEq)]
pub(super) struct Misfit {
    /// Position of the sample among those asked for.
    pub row: usize,
    /// The first such value.
    pub value: f64,
}

/// An element that data can be stored in.
trait Source: Copy {
    /// Its value, for integers only.
    fn integer(self) -> Option<i128>;
    /// Its value, rounded.
    fn real(self) -> f64;
    /// Position in a table of all 256 values of a `u8`.
    fn byte(self) -> Option<usize> {
        None
    }
}

/// An element that a model can take.
pub(super) trait Target: Element + Default {
    /// The element next to `value`, where there is a finite and, for integers, an exact one.
    fn from_real(value: f64) -> Option<Self>;
    /// The element for an integer, where there is one.
    fn from_integer(value: i128) -> Option<Self>;
}

macro_rules! floats {
    ($($type:ty: $to:expr, $from:expr);* $(;)?) => {$(
        impl Source for $type {
            fn integer(self) -> Option<i128> {
                None
            }
            fn real(self) -> f64 {
                $to(self)
            }
        }
        impl Target for $type {
            fn from_real(value: f64) -> Option<Self> {
                let element: $type = $from(value);
                element.is_finite().then_some(element)
            }
            fn from_integer(value: i128) -> Option<Self> {
                Self::from_real(value as f64)
            }
        }
    )*};
}

floats! {
    f32: f64::from, |v| v as f32;
    f64: |v| v, |v| v;
    f16: f64::from, f16::from_f64;
    bf16: f64::from, bf16::from_f64;
}

macro_rules! integers {
    ($($type:ty),*) => {$(
        impl Source for $type {
            fn integer(self) -> Option<i128> {
                Some(self.into())
            }
            fn real(self) -> f64 {
                self as f64
            }
        }
        integers!(target $type);
    )*};
    (target $type:ty) => {
        impl Target for $type {
            fn from_real(value: f64) -> Option<Self> {
                // The cast of a float saturates, and 2^100 is beyond every element type.
                (value.fract() == 0.0).then(|| Self::from_integer(value as i128)).flatten()
            }
            fn from_integer(value: i128) -> Option<Self> {
                value.try_into().ok()
            }
        }
    };
}

integers!(i8, i16, i32, i64, u16, u32, u64);
integers!(target u8);

impl Source for u8 {
    fn integer(self) -> Option<i128> {
        Some(self.into())
    }
    fn real(self) -> f64 {
        self.into()
    }
    fn byte(self) -> Option<usize> {
        Some(self.into())
    }
}

impl Source for i128 {
    fn integer(self) -> Option<i128> {
        Some(self)
    }
    fn real(self) -> f64 {
        self as f64
    }
}

impl Source for bool {
    fn integer(self) -> Option<i128> {
        Some(self.into())
    }
    fn real(self) -> f64 {
        f64::from(u8::from(self))
    }
}

impl Target for bool {
    fn from_real(value: f64) -> Option<Self> {
        match value {
            0.0 => Some(false),
            1.0 => Some(true),
            _ => None,
        }
    }
    fn from_integer(value: i128) -> Option<Self> {
        Self::from_real(value as f64)
    }
}

/// Elements in the widest type of their kind, which spares a conversion for each pair of types.
enum Wide {
    Reals(Vec<f64>),
    Integers(Vec<i128>),
}

fn widen(stored: &Tensor, range: Range<usize>) -> Wide {
    with_array!(stored, array => {
        let elements = array.as_slice().and_then(|e| e.get(range)).unwrap_or_default();
        match elements.iter().map(|e| e.integer()).collect() {
            Some(integers) => Wide::Integers(integers),
            None => Wide::Reals(elements.iter().map(|e| e.real()).collect()),
        }
    })
}

impl Conversion {
    /// Samples `rows` of `stored` (axis 0 = samples, row-major) as the model takes them, back to
    /// back.
    ///
    /// # Errors
    /// The first value that does not fit the model's element type.
    pub fn rows<T: Target>(&self, stored: &Tensor, rows: &[usize]) -> Result<Vec<T>, Misfit> {
        let length: usize = self.sample.iter().product();
        let mut out = vec![T::default(); rows.len() * length];
        if length == 0 {
            return Ok(out);
        }
        // Elements that need no more than a copy.
        if let Some(array) = T::view(stored)
            && self.is_copy()
            && let Some(elements) = array.as_slice()
        {
            for (out, &row) in out.chunks_exact_mut(length).zip(rows) {
                out.copy_from_slice(&elements[row * length..][..length]);
            }
            return Ok(out);
        }
        self.fill(stored, rows, &mut out)?;
        Ok(out)
    }

    /// Checks that all samples of `stored` can be converted to `T`.
    ///
    /// # Errors
    /// The first value of the first sample that can't.
    pub fn check<T: Target>(&self, stored: &Tensor) -> Result<(), Misfit> {
        let length: usize = self.sample.iter().product();
        let trivially_fits = match stored {
            // What the affine makes of 256 values is finite, or else of none.
            Tensor::U8(_) => self.affine.is_some(),
            Tensor::F32(_) | Tensor::F64(_) | Tensor::F16(_) | Tensor::BF16(_) => false,
            _ => T::view(stored).is_some() && self.affine.is_none(),
        };
        if trivially_fits || length == 0 {
            return Ok(());
        }
        let samples = stored.shape().first().copied().unwrap_or(0);
        let mut scratch = vec![T::default(); length];
        for row in 0..samples {
            self.fill(stored, &[row], &mut scratch).map_err(|misfit| Misfit { row, ..misfit })?;
        }
        Ok(())
    }

    /// Samples of bytes, as decoded from images, into `out`.
    ///
    /// # Errors
    /// The first value that does not fit the model's element type.
    pub fn images<T: Target>(&self, stored: &[Vec<u8>], out: &mut [T]) -> Result<(), Misfit> {
        let length: usize = self.sample.iter().product();
        let table = self.table();
        for (row, (image, out)) in stored.iter().zip(out.chunks_exact_mut(length)).enumerate() {
            self.place(image, out, &table).map_err(|misfit| Misfit { row, ..misfit })?;
        }
        Ok(())
    }

    fn is_copy(&self) -> bool {
        self.affine.is_none()
            && !self.reverse_channels
            && self.source_interleaved == self.target_interleaved
    }

    /// What becomes of every `u8` in every channel; empty where values stay as they are.
    fn table(&self) -> Vec<f64> {
        let Some(affine) = &self.affine else { return Vec::new() };
        (0..self.channels)
            .flat_map(|channel| (0..=255u8).map(move |v| affine.apply(channel, v.into())))
            .collect()
    }

    // One thread: this takes a small part of the time that a model takes for the same samples, and
    // a parallel loop would be built for every element type.
    fn fill<T: Target>(
        &self,
        stored: &Tensor,
        rows: &[usize],
        out: &mut [T],
    ) -> Result<(), Misfit> {
        let length: usize = self.sample.iter().product();
        let table = if matches!(stored, Tensor::U8(_)) { self.table() } else { Vec::new() };
        for (row, (out, &from)) in out.chunks_exact_mut(length).zip(rows).enumerate() {
            // `rows` are checked by the dataset.
            let range = from * length..(from + 1) * length;
            match stored {
                Tensor::U8(array) => {
                    let bytes = array.as_slice().and_then(|e| e.get(range));
                    self.place(bytes.unwrap_or_default(), out, &table)
                }
                _ => match widen(stored, range) {
                    Wide::Reals(reals) => self.place(&reals, out, &table),
                    Wide::Integers(integers) => self.place(&integers, out, &table),
                },
            }
            .map_err(|misfit| Misfit { row, ..misfit })?;
        }
        Ok(())
    }

    fn place<S: Source, T: Target>(
        &self,
        stored: &[S],
        out: &mut [T],
        table: &[f64],
    ) -> Result<(), Misfit> {
        let plane = out.len() / self.channels.max(1);
        let position = |interleaved: bool, channel: usize, pixel: usize| {
            if interleaved { pixel * self.channels + channel } else { channel * plane + pixel }
        };
        for channel in 0..self.channels {
            let from = if self.reverse_channels { self.channels - 1 - channel } else { channel };
            for pixel in 0..plane {
                let Some(&x) = stored.get(position(self.source_interleaved, from, pixel)) else {
                    continue;
                };
                let element = match (&self.affine, x.byte()) {
                    (Some(_), Some(byte)) => {
                        table.get(channel * 256 + byte).and_then(|&v| T::from_real(v))
                    }
                    (Some(affine), None) => T::from_real(affine.apply(channel, x.real())),
                    (None, _) => match x.integer() {
                        Some(integer) => T::from_integer(integer),
                        None => T::from_real(x.real()),
                    },
                };
                let to = position(self.target_interleaved, channel, pixel);
                out[to] = element.ok_or(Misfit { row: 0, value: x.real() })?;
            }
        }
        Ok(())
    }
}
