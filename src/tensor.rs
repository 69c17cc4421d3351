//! The value that flows along an edge of a graph: an n-dimensional array of one element type.
//!
//! Arrays are reference counted, so clones and reshapes are free and a weight has one copy however
//! many nodes use it; writing to a shared array copies it first.

use half::{bf16, f16};
use ndarray::{ArcArray, IxDyn};

use crate::error::OpError;

pub use crate::data_type::DataType;

/// A reference-counted array of dynamic rank.
pub type Array<T> = ArcArray<T, IxDyn>;

/// An element type of [`Tensor`].
pub trait Element: Clone + Copy + PartialEq + Send + Sync + std::fmt::Debug + 'static {
    /// Its tag.
    const DATA_TYPE: DataType;
    /// Wraps an array.
    fn wrap(array: Array<Self>) -> Tensor;
    /// The array of a tensor with this element type.
    fn view(tensor: &Tensor) -> Option<&Array<Self>>;
    /// The array of a tensor with this element type, by value.
    fn unwrap(tensor: Tensor) -> Option<Array<Self>>;
}

/// Runs `$body` with `$array` bound to the typed array inside a [`Tensor`].
#[macro_export]
macro_rules! with_array {
    ($tensor:expr, $array:ident => $body:expr) => {
        match $tensor {
            $crate::tensor::Tensor::F32($array) => $body,
            $crate::tensor::Tensor::F64($array) => $body,
            $crate::tensor::Tensor::F16($array) => $body,
            $crate::tensor::Tensor::BF16($array) => $body,
            $crate::tensor::Tensor::I8($array) => $body,
            $crate::tensor::Tensor::I16($array) => $body,
            $crate::tensor::Tensor::I32($array) => $body,
            $crate::tensor::Tensor::I64($array) => $body,
            $crate::tensor::Tensor::U8($array) => $body,
            $crate::tensor::Tensor::U16($array) => $body,
            $crate::tensor::Tensor::U32($array) => $body,
            $crate::tensor::Tensor::U64($array) => $body,
            $crate::tensor::Tensor::Bool($array) => $body,
        }
    };
}

/// An n-dimensional array of one of the [`DataType`]s.
#[derive(Clone, Debug, PartialEq)]
#[allow(missing_docs)]
pub enum Tensor {
    F32(Array<f32>),
    F64(Array<f64>),
    F16(Array<f16>),
    BF16(Array<bf16>),
    I8(Array<i8>),
    I16(Array<i16>),
    I32(Array<i32>),
    I64(Array<i64>),
    U8(Array<u8>),
    U16(Array<u16>),
    U32(Array<u32>),
    U64(Array<u64>),
    Bool(Array<bool>),
}

macro_rules! elements {
    ($($type:ty => $variant:ident),* $(,)?) => {$(
        impl Element for $type {
            const DATA_TYPE: DataType = DataType::$variant;
            fn wrap(array: Array<Self>) -> Tensor {
                Tensor::$variant(array)
            }
            fn view(tensor: &Tensor) -> Option<&Array<Self>> {
                match tensor {
                    Tensor::$variant(array) => Some(array),
                    _ => None,
                }
            }
            fn unwrap(tensor: Tensor) -> Option<Array<Self>> {
                match tensor {
                    Tensor::$variant(array) => Some(array),
                    _ => None,
                }
            }
        }
        impl From<Array<$type>> for Tensor {
            fn from(array: Array<$type>) -> Self {
                Tensor::$variant(array)
            }
        }
    )*};
}

elements! {
    f32 => F32, f64 => F64, f16 => F16, bf16 => BF16,
    i8 => I8, i16 => I16, i32 => I32, i64 => I64,
    u8 => U8, u16 => U16, u32 => U32, u64 => U64, bool => Bool,
}

impl Tensor {
    /// A tensor of `shape` from its elements in row-major order.
    ///
    /// # Errors
    /// When the number of elements is not the product of `shape`.
    pub fn from_vec<T: Element>(shape: &[usize], elements: Vec<T>) -> Result<Self, OpError> {
        let count = elements.len();
        Array::from_shape_vec(IxDyn(shape), elements)
            .map(T::wrap)
            .map_err(|_| OpError::shape(format!("{count} elements for shape {shape:?}")))
    }

    /// A tensor of rank 0.
    pub fn scalar<T: Element>(value: T) -> Self {
        T::wrap(ndarray::arr0(value).into_dyn().into_shared())
    }

    /// The element type.
    #[must_use]
    pub fn data_type(&self) -> DataType {
        fn tag<T: Element>(_: &Array<T>) -> DataType {
            T::DATA_TYPE
        }
        with_array!(self, a => tag(a))
    }

    /// The extent of every axis.
    #[must_use]
    pub fn shape(&self) -> &[usize] {
        with_array!(self, a => a.shape())
    }

    /// The number of axes.
    #[must_use]
    pub fn rank(&self) -> usize {
        self.shape().len()
    }

    /// The number of elements.
    #[must_use]
    pub fn len(&self) -> usize {
        with_array!(self, a => a.len())
    }

    /// Whether there are no elements.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The bytes its elements take.
    #[must_use]
    pub fn byte_len(&self) -> usize {
        fn size<T: Element>(array: &Array<T>) -> usize {
            array.len() * size_of::<T>()
        }
        with_array!(self, a => size(a))
    }

    /// The typed array, where the element type is `T`.
    ///
    /// # Errors
    /// When it isn't; `role` says what the tensor was given as.
    pub fn typed<T: Element>(&self, role: &'static str) -> Result<&Array<T>, OpError> {
        T::view(self).ok_or(OpError::DataType { dtype: self.data_type(), role })
    }

    /// The typed array by value, where the element type is `T`.
    ///
    /// # Errors
    /// When it isn't; `role` says what the tensor was given as.
    pub fn into_typed<T: Element>(self, role: &'static str) -> Result<Array<T>, OpError> {
        let dtype = self.data_type();
        T::unwrap(self).ok_or(OpError::DataType { dtype, role })
    }

    /// The `f32` array.
    ///
    /// # Errors
    /// When the elements are of another type; `role` says what the tensor was given as.
    pub fn f32(&self, role: &'static str) -> Result<&Array<f32>, OpError> {
        self.typed(role)
    }

    /// The elements as integers, whatever integer type they have: shapes, axes, indices.
    ///
    /// # Errors
    /// When the elements are not integers; `role` says what the tensor was given as.
    pub fn to_i64_vec(&self, role: &'static str) -> Result<Vec<i64>, OpError> {
        Ok(match self {
            Self::I64(a) => a.iter().copied().collect(),
            Self::I32(a) => a.iter().map(|&v| v.into()).collect(),
            Self::I16(a) => a.iter().map(|&v| v.into()).collect(),
            Self::I8(a) => a.iter().map(|&v| v.into()).collect(),
            Self::U8(a) => a.iter().map(|&v| v.into()).collect(),
            Self::U16(a) => a.iter().map(|&v| v.into()).collect(),
            Self::U32(a) => a.iter().map(|&v| v.into()).collect(),
            _ => return Err(OpError::DataType { dtype: self.data_type(), role }),
        })
    }

    /// The elements as `f64`, whatever numeric type they have.
    #[must_use]
    pub fn to_f64_vec(&self) -> Vec<f64> {
        match self {
            Self::F32(a) => a.iter().map(|&v| v.into()).collect(),
            Self::F64(a) => a.iter().copied().collect(),
            Self::F16(a) => a.iter().map(|&v| v.into()).collect(),
            Self::BF16(a) => a.iter().map(|&v| v.into()).collect(),
            Self::I8(a) => a.iter().map(|&v| v.into()).collect(),
            Self::I16(a) => a.iter().map(|&v| v.into()).collect(),
            Self::I32(a) => a.iter().map(|&v| v.into()).collect(),
            Self::I64(a) => a.iter().map(|&v| v as f64).collect(),
            Self::U8(a) => a.iter().map(|&v| v.into()).collect(),
            Self::U16(a) => a.iter().map(|&v| v.into()).collect(),
            Self::U32(a) => a.iter().map(|&v| v.into()).collect(),
            Self::U64(a) => a.iter().map(|&v| v as f64).collect(),
            Self::Bool(a) => a.iter().map(|&v| f64::from(u8::from(v))).collect(),
        }
    }

    /// The same elements under another shape, without a copy where they lie in row-major order.
    ///
    /// # Errors
    /// When the number of elements differs.
    pub fn reshape(self, shape: &[usize]) -> Result<Self, OpError> {
        fn go<T: Element>(array: Array<T>, shape: &[usize]) -> Result<Tensor, OpError> {
            let from = array.shape().to_vec();
            // Zero dims make any product zero: compare counts with the array's own.
            let count = shape.iter().try_fold(1usize, |n, &d| n.checked_mul(d));
            if count != Some(array.len()) {
                return Err(OpError::shape(format!("can't reshape {from:?} to {shape:?}")));
            }
            let array = if array.is_standard_layout() {
                array.into_shape_with_order(IxDyn(shape))
            } else {
                array
                    .as_standard_layout()
                    .into_owned()
                    .into_shared()
                    .into_shape_with_order(IxDyn(shape))
            };
            array.map(T::wrap).map_err(|e| OpError::shape(e.to_string()))
        }
        with_array!(self, a => go(a, shape))
    }

    /// Samples `start..end` along axis 0, without a copy.
    ///
    /// # Panics
    /// When the range is not within axis 0.
    #[must_use]
    pub fn slice_batch(&self, start: usize, end: usize) -> Self {
        fn go<T: Element>(array: &Array<T>, start: usize, end: usize) -> Tensor {
            let mut part = array.clone();
            part.slice_axis_inplace(ndarray::Axis(0), ndarray::Slice::from(start..end));
            T::wrap(part)
        }
        with_array!(self, a => go(a, start, end))
    }

    /// The given rows of axis 0, in that order, as a new tensor.
    ///
    /// # Panics
    /// When an index is not within axis 0.
    #[must_use]
    pub fn select_batch(&self, indices: &[usize]) -> Self {
        fn go<T: Element>(array: &Array<T>, indices: &[usize]) -> Tensor {
            T::wrap(array.select(ndarray::Axis(0), indices).into_shared())
        }
        with_array!(self, a => go(a, indices))
    }

    /// Tensors joined along axis 0.
    ///
    /// # Errors
    /// When they are none, of several element types, or differ beyond axis 0.
    pub fn concat_batch(parts: &[Self]) -> Result<Self, OpError> {
        fn go<T: Element>(first: &Array<T>, parts: &[Tensor]) -> Result<Tensor, OpError> {
            let mut views = Vec::with_capacity(parts.len());
            for part in parts {
                views.push(part.typed::<T>("a part of a batch")?.view());
            }
            if first.ndim() == 0 {
                return Err(OpError::shape("a scalar has no batch axis"));
            }
            ndarray::concatenate(ndarray::Axis(0), &views)
                .map(|a| T::wrap(a.into_shared()))
                .map_err(|e| OpError::shape(e.to_string()))
        }
        match parts {
            [] => Err(OpError::shape("nothing to join")),
            [one] => Ok(one.clone()),
            [first, ..] => with_array!(first, a => go(a, parts)),
        }
    }
}
